"""A client that sends 10,000 requests and pulls the plug, under each ``on_disconnect``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from frames import RawClient, request
from gates import CONFIG, Gates, gated
from kept import journal_counts, kept, session_of
from outside import last_one_out, metrics_of, verify

pytestmark = pytest.mark.slow

MANY = 10_000
FEWER = 400  # on MongoDB
ROOM = {"queue": 20_000, "unacked": 20_000}


async def pull_the_plug(serve, folder: Path, policy: str, many: int) -> tuple:
    """So many requests, behind one that is cut off in its midst; the server and the session."""
    gates = Gates(folder)
    server = await serve({**CONFIG, "session": {**ROOM, "on_disconnect": policy}})
    async with RawClient(server.url) as client:
        welcome = await client.register("eve", "a password")
        await client.send(gated("gate", 1))
        for start in range(2, many + 1, 200):
            work = (request("echo", n, seq=n) for n in range(start, min(start + 200, many + 1)))
            await client.send(*work)
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == many)
        client.socket.transport.abort()
    async with asyncio.timeout(10):
        while (await asyncio.to_thread(metrics_of, server))["inorder_connections"]:
            await asyncio.sleep(0.02)
    gates.open("gate")
    return server, welcome


async def wound_up(server) -> None:
    async with asyncio.timeout(60):
        while "last one out" not in server.output():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("policy", ["finish", "hold", "cancel"])
async def test_what_becomes_of_the_rest(
    serve, tmp_path: Path, policy: str, on_mongodb: bool
) -> None:
    many = FEWER if on_mongodb else MANY
    done, cancelled, pending = {
        "finish": (many, 0, 0),
        "hold": (1, 0, many - 1),
        "cancel": (0, many, 0),
    }[policy]
    server, welcome = await pull_the_plug(serve, tmp_path, policy, many)
    await wound_up(server)
    expected = {
        "accepted": many,
        "done": done,
        "failed": 0,
        "cancelled": cancelled,
        "pending": pending,
    }
    assert last_one_out(server) == {"sessions": 1, **expected, "verified": 1}
    assert journal_counts(server) == {"sessions": 1, **expected}
    receipt = session_of(server, welcome["session"]).receipt
    assert receipt == {"session": welcome["session"], **expected, "verified": True}
    metrics = await asyncio.to_thread(metrics_of, server)
    assert metrics["inorder_violations_total"] == 0
    assert metrics["inorder_sessions"] == 0
    assert await asyncio.to_thread(verify, server.folder) == []

    # Whoever comes back finds what is left, and it goes on where it stopped.
    async with RawClient(server.url) as client:
        again = await client.hello(token=welcome["token"], session=welcome["session"], seq=0)
        assert again["accepted"] == many
        assert again["settled"] >= many - pending
        await client.until_outcome(many)
        assert [outcome["seq"] for outcome in client.outcomes] == list(range(1, many + 1))
        receipt = await client.bye()
        assert receipt["verified"] is True
        assert receipt["pending"] == 0
        assert receipt["cancelled"] == cancelled


async def test_one_row_deleted_by_hand_makes_the_receipt_unverified(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        await client.register("eve", "a password")
        await client.send(*(request("echo", n, seq=n) for n in range(1, 6)))
        await client.until_outcome(5)
        kept(server).lose(kept(server).requests()[2])
        receipt = await client.bye()
        assert receipt["verified"] is False
        assert receipt["accepted"] == 5
    assert "the receipt does not verify" in server.output()
    metrics = await asyncio.to_thread(metrics_of, server)
    assert metrics["inorder_violations_total"] == 1
    assert await asyncio.to_thread(verify, server.folder) != []
