"""A client whose node goes away in the middle of its work, and what the books say in the end."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from frames import Json, RawClient, request
from node_processes import coming_back
from vault import vault

pytestmark = pytest.mark.slow

WORK = 300
# A call has a third of it: on a busy machine that must do.
LEASE = 3.0
_FOREIGN_LOAD = 5.0
_HANDLERS = Path(__file__).parents[1] / "faults" / "vault_handlers.py"


def deposits(after: int) -> list[Json]:
    """Those that are not accepted yet, a cent each."""
    return [
        request("deposit", {"amount": 1}, seq=n, id=f"r{n}") for n in range(after + 1, WORK + 1)
    ]


@pytest.mark.parametrize(("how", "within"), [("kill", LEASE + 2), ("stop", 1.0)])
async def test_nothing_is_lost_and_nothing_booked_twice(nodes, how: str, within: float) -> None:
    """From the node's end to the first outcome of what it had left it takes ``within`` seconds
    on a machine that has nothing else to do; a test alone must not fail on a busy one."""
    shutil.copy(_HANDLERS, nodes.folder)
    config = {"handlers": {"modules": ["vault_handlers"]}, "server": {"drain_timeout": 0.2}}
    async with vault(nodes.folder) as bank:
        first, second = [await nodes.start(LEASE, **config) for _ in range(2)]
        async with RawClient(first.url) as client:
            welcome = await client.register("ann", "a password")
            await client.send(*deposits(0)[: WORK // 2])
            await client.send(*deposits(WORK // 2))
            await client.until_outcome(20)
            await getattr(first, how)()
            closed = await client.until_closed()
            ended = time.monotonic()
            assert how == "kill" or closed == (1012, "draining")
        before = client.outcomes
        told = max(m["seq"] for m in client.seen if m["type"] in ("accepted", "result"))
        again = {"token": welcome["token"], "session": welcome["session"]}
        async with coming_back(second.url, **again, seq=len(before), accepted=told) as (
            client,
            back,
        ):
            assert (back["resumed"], back["epoch"]) == (True, 2)
            assert len(before) <= back["settled"] < back["accepted"]
            await client.until_outcome(back["settled"] + 1)
            took = time.monotonic() - ended
            print(f"{how}: the first new outcome came after {took:.2f} s, at most {within:g}")
            assert took < within + _FOREIGN_LOAD
            if back["accepted"] < WORK:
                await client.send(*deposits(back["accepted"]))
            await client.until_outcome(WORK)
            outcomes = before + client.outcomes
            receipt = await client.bye()
    assert (receipt["accepted"], receipt["done"], receipt["verified"]) == (WORK, WORK, True)
    assert [o["seq"] for o in outcomes] == list(range(1, WORK + 1))
    keys = [f"{welcome['session']}:{n}" for n in range(1, WORK + 1)]
    assert [bank.answers[key] for key in keys] == [o["result"] for o in outcomes]
    assert sorted(key for key, *_ in bank.bookings) == sorted(keys)
    assert bank.balances == {"ann": WORK}
