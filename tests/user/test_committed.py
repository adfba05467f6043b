"""Nothing is told before it is committed, and a stale owner commits nothing.

Another process holds the database's lock, so that nothing can be committed, and lets it go.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from frames import RawClient, request
from gates import CONFIG, Gates, gated, nothing_but_pongs
from outside import locked, look


async def test_acceptance(serve, tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    gates.open("g")
    server = await serve(CONFIG)
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        with locked(server.database):
            await client.send(gated("g", 1))
            await nothing_but_pongs(client)
            assert gates.steps == [], "it does not run either"
            await client.send({"type": "status", "from": 1})
            status = await client.until("status")
            assert (status["accepted"], status["requests"]) == (0, [])
        await client.until_outcome(1)
        assert (await client.bye())["verified"] is True


async def test_an_outcome(serve, tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    server = await serve(CONFIG)
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        await client.send(gated("g", 1), gated("g", 2))
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == 2)
        with locked(server.database):
            gates.open("g")
            await gates.reached(2)
            await nothing_but_pongs(client)
            assert len(gates.steps) == 2, "nor does the next one begin"
            await client.send({"type": "status"})
            assert (await client.until("status"))["settled"] == 0
        await client.until_outcome(2)
        assert [outcome["seq"] for outcome in client.outcomes] == [1, 2]
        assert (await client.bye())["verified"] is True


async def test_a_cancel(serve, tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    server = await serve(CONFIG)
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        await client.send(gated("g", 1), gated("g", 2))
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == 2)
        with locked(server.database):
            await client.send({"type": "cancel", "id": "r2"})
            await nothing_but_pongs(client)
        assert (await client.until("cancelling"))["id"] == "r2"
        gates.open("g")
        assert (await client.until_outcome(2))["code"] == "cancelled"


async def test_whose_session_another_claimed(serve, tmp_path: Path) -> None:
    """It can't record, announce or accept anything any more."""
    gates = Gates(tmp_path)
    server = await serve(CONFIG)
    async with RawClient(server.url) as running, RawClient(server.url) as idle:
        await running.register("ann", "correct horse")
        await running.send(gated("g", 1))
        await running.until("accepted")
        await gates.reached(1)
        await idle.register("eve", "correct horse")
        await idle.send(request("echo", 1, seq=1))
        await idle.until_outcome(1)
        with closing(sqlite3.connect(server.database, timeout=10)) as db, db:
            db.execute("UPDATE sessions SET epoch = epoch + 1")
        gates.open("g")
        await moved(running)
        await idle.send(request("echo", 2, seq=2))
        await moved(idle)
    rows = look(server.database, "SELECT s.user, ending FROM sessions s JOIN requests r"
                " ON r.key >> 35 = s.n LEFT JOIN outcomes USING (key) ORDER BY r.key")  # fmt: skip
    assert rows == [("ann", None), ("eve", "done")]


async def moved(client: RawClient) -> None:
    """It is told that, and nothing else."""
    assert await client.next() is None, client.seen[-1]
    assert client.closed == (4509, "moved")
