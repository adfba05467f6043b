"""A pipeline of 1,000 requests, every seventh of them bad, through a queue of ten.

All the others run once, in order: as a raw client written from SPEC.md's rule has it, and as
the Python client does it.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from frames import Json, RawClient, request
from goback import Pipeline
from kept import kept

import inorder

pytestmark = pytest.mark.slow

HANDLERS = Path(__file__).parents[1] / "user_handlers.py"
CONFIG = {"session": {"queue": 10}, "handlers": {"modules": ["user_handlers"]}}
COUNT = 1000
GOOD = [n for n in range(COUNT) if n % 7 != 6]


def call(n: int) -> tuple[str, Any, str | None]:
    """The nth request, and the code that refuses it."""
    if n % 7 != 6:
        return "record_thread" if n % 3 else "record", {"n": n}, None
    bad: list[tuple[str, Any, str]] = [
        ("no_such_method", {"n": n}, "unknown_method"),
        ("record", {}, "invalid_params"),
        ("record", {"n": n, "m": n}, "invalid_params"),
        ("record", {"n": str(n)}, "invalid_params"),
    ]
    return bad[n // 7 % len(bad)]


def ran(folder: Path) -> list[int]:
    """What the handler noted: a number for each time that it ran."""
    return [int(line.split()[-1]) for line in (folder / "runs").read_text().splitlines()]


async def test_with_raw_frames(serve, tmp_path: Path) -> None:
    shutil.copy(HANDLERS, tmp_path)
    server = await serve(CONFIG)
    requests: list[Json] = []
    for n in range(COUNT):
        method, params, _ = call(n)
        requests.append(request(method, params, id=f"raw-{n}"))
        if n % 35 == 34:
            # Not even a message: such a one has no number that the server could name.
            requests[-1]["timeout"] = "soon"
    async with RawClient(server.url) as client:
        welcome = await client.register("ann", "correct horse")
        assert welcome["limits"]["queue"] == 10
        pipeline = Pipeline(client, requests)
        async with asyncio.timeout(60):
            await pipeline.run()

        assert ran(tmp_path) == GOOD
        assert pipeline.passing.keys() == {"queue_full"}
        assert pipeline.refused == {
            f"raw-{n}": "bad_message" if n % 35 == 34 else call(n)[2] for n in range(6, COUNT, 7)
        }
        assert [(o["seq"], o["id"], o["result"]) for o in client.outcomes] == [
            (seq, f"raw-{n}", n) for seq, n in enumerate(GOOD, 1)
        ]
        journal = [(row.id, row.ending) for row in kept(server).requests()]
        assert journal == [(f"raw-{n}", "done") for n in GOOD]
        receipt = await client.bye()
    assert receipt == {
        "session": welcome["session"],
        "accepted": len(GOOD),
        "done": len(GOOD),
        "failed": 0,
        "cancelled": 0,
        "pending": 0,
        "verified": True,
    }


async def test_with_the_python_client(serve, tmp_path: Path) -> None:
    shutil.copy(HANDLERS, tmp_path)
    server = await serve(CONFIG)
    server.add_user("ann", "correct horse", admin=False)
    session = await inorder.connect(server.url, username="ann", password="correct horse")
    async with asyncio.timeout(60):
        jobs = [session.submit(*call(n)[:2]) for n in range(COUNT)]
        answers = await asyncio.gather(*jobs, return_exceptions=True)
        receipt = await session.close()

    assert ran(tmp_path) == GOOD
    for n, answer in enumerate(answers):
        if n in GOOD:
            assert answer == n
        else:
            assert isinstance(answer, inorder.InorderError)
            assert (answer.code, answer.accepted) == (call(n)[2], False)
    assert (receipt.accepted, receipt.done, receipt.verified) == (len(GOOD), len(GOOD), True)
    assert (receipt.failed, receipt.cancelled, receipt.pending) == (0, 0, 0)
