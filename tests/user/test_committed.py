"""Nothing is told before it is committed, and a stale owner commits nothing.

Another process holds the database's lock, or MongoDB stands still, so that nothing can be
committed; then it goes on.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from frames import RawClient, request
from gates import CONFIG, Gates, gated, nothing_but_pongs
from kept import kept
from outside import locked
from websockets.exceptions import ConnectionClosed


async def test_acceptance(serve, tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    gates.open("g")
    server = await serve(CONFIG)
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        with locked(server):
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
        with locked(server):
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
        with locked(server):
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
        kept(server).take_over()
        gates.open("g")
        await moved(running)
        with suppress(ConnectionClosed):  # a node on MongoDB may have looked by itself
            await idle.send(request("echo", 2, seq=2))
        await moved(idle)
    users = {session.id: session.user for session in kept(server).sessions()}
    rows = sorted((users[row.session], row.ending) for row in kept(server).requests())
    assert rows == [("ann", None), ("eve", "done")]


async def moved(client: RawClient) -> None:
    """It is told that, and nothing else."""
    assert await client.next() is None, client.seen[-1]
    assert client.closed == (4509, "moved")
