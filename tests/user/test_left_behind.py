"""The connection is cut while one request runs and others wait: each ``on_disconnect``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from frames import Json, RawClient
from gates import CONFIG, Gates, gated
from kept import kept
from outside import metrics_of


async def receipt_of(server, session: str) -> Json:
    """Waits for the receipt that the registry leaves in the session's row."""
    async with asyncio.timeout(10):
        while True:
            for row in kept(server).sessions():
                if row.id == session and row.receipt is not None:
                    return row.receipt
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("policy", "before", "cancelled"),
    [("finish", [1, 2, 3], 0), ("hold", [1], 0), ("cancel", [1], 3)],
    ids=["finish", "hold", "cancel"],
)
async def test_what_becomes_of_the_rest(
    serve, tmp_path: Path, policy: str, before: list[int], cancelled: int
) -> None:
    gates = Gates(tmp_path)
    server = await serve({**CONFIG, "session": {"on_disconnect": policy}})
    async with RawClient(server.url) as client:
        welcome = await client.register("ann", "correct horse")
        await client.send(*(gated("g", seq, how="gated_thread") for seq in (1, 2, 3)))
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == 3)
        await gates.reached(1)
        client.socket.transport.abort()
    async with asyncio.timeout(10):
        while (await asyncio.to_thread(metrics_of, server))["inorder_connections"]:
            await asyncio.sleep(0.005)
    assert len(gates.steps) == 1, "it still runs"
    gates.open("g")
    done = 0 if cancelled else len(before)
    assert await receipt_of(server, welcome["session"]) == {
        "session": welcome["session"],
        "accepted": 3,
        "done": done,
        "failed": 0,
        "cancelled": cancelled,
        "pending": 3 - done - cancelled,
        "verified": True,
    }
    assert [step.seq for step in gates.steps if step.word == "begin"] == before
    async with RawClient(server.url) as client:
        again = {"token": welcome["token"], "session": welcome["session"]}
        back = await client.hello(**again, seq=0, accepted=3)
        # What was held may have run by the time of the welcome.
        assert back["accepted"] == 3
        assert back["settled"] >= done + cancelled
        await client.until_outcome(3)
        receipt = await client.bye()
    assert (receipt["done"], receipt["cancelled"]) == (3 - cancelled, cancelled)
    assert (receipt["pending"], receipt["verified"]) == (0, True)
