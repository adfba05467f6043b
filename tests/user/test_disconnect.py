"""A client that sends 10,000 requests and pulls the plug, under each ``on_disconnect``."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from bank import journal_counts
from frames import RawClient, request
from gates import CONFIG, Gates, gated
from outside import last_one_out, metrics_of, verify

pytestmark = pytest.mark.slow

MANY = 10_000
ROOM = {"queue": 20_000, "unacked": 20_000}


async def pull_the_plug(serve, folder: Path, policy: str) -> tuple:
    """10,000 requests behind one that is cut off in its midst; the server and the session."""
    gates = Gates(folder)
    server = await serve({**CONFIG, "session": {**ROOM, "on_disconnect": policy}})
    async with RawClient(server.url) as client:
        welcome = await client.register("eve", "a password")
        await client.send(gated("gate", 1))
        for start in range(2, MANY + 1, 200):
            work = (request("echo", n, seq=n) for n in range(start, min(start + 200, MANY + 1)))
            await client.send(*work)
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == MANY)
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


def receipt_of(database: Path, session: str) -> tuple:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return db.execute(
            "SELECT accepted, acked, receipt FROM sessions WHERE id = ?", (session,)
        ).fetchone()


@pytest.mark.parametrize(
    ("policy", "done", "cancelled", "pending"),
    [("finish", MANY, 0, 0), ("hold", 1, 0, MANY - 1), ("cancel", 0, MANY, 0)],
)
async def test_what_becomes_of_the_rest(
    serve, tmp_path: Path, policy: str, done: int, cancelled: int, pending: int
) -> None:
    server, welcome = await pull_the_plug(serve, tmp_path, policy)
    await wound_up(server)
    expected = {
        "accepted": MANY,
        "done": done,
        "failed": 0,
        "cancelled": cancelled,
        "pending": pending,
    }
    assert last_one_out(server) == {"sessions": 1, **expected, "verified": 1}
    assert journal_counts(server.database) == {"sessions": 1, **expected}
    receipt = receipt_of(server.database, welcome["session"])[2]
    assert b'"verified":true' in receipt
    assert b'"accepted":%d' % MANY in receipt
    metrics = await asyncio.to_thread(metrics_of, server)
    assert metrics["inorder_violations_total"] == 0
    assert metrics["inorder_sessions"] == 0
    assert await asyncio.to_thread(verify, server.folder) == []

    # Whoever comes back finds what is left, and it goes on where it stopped.
    async with RawClient(server.url) as client:
        again = await client.hello(token=welcome["token"], session=welcome["session"], seq=0)
        assert again["accepted"] == MANY
        assert again["settled"] >= MANY - pending
        await client.until_outcome(MANY)
        assert [outcome["seq"] for outcome in client.outcomes] == list(range(1, MANY + 1))
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
        with closing(sqlite3.connect(server.database, timeout=10)) as db, db:
            third = "(SELECT key FROM requests ORDER BY key LIMIT 1 OFFSET 2)"
            assert db.execute(f"DELETE FROM requests WHERE key = {third}").rowcount == 1
        receipt = await client.bye()
        assert receipt["verified"] is False
        assert receipt["accepted"] == 5
    assert "the receipt does not verify" in server.output()
    metrics = await asyncio.to_thread(metrics_of, server)
    assert metrics["inorder_violations_total"] == 1
    assert await asyncio.to_thread(verify, server.folder) != []
