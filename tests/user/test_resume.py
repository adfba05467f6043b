"""A client that comes back: what it lacks is sent again, and nothing else; nothing runs twice."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from frames import RawClient, request
from gates import CONFIG, Gates, Step, gated, nothing_but_pongs
from kept import session_of
from outside import metrics_of
from websockets.exceptions import ConnectionClosed


def numbers(welcome) -> tuple[bool, int, int, int]:
    return welcome["resumed"], welcome["accepted"], welcome["settled"], welcome["acked"]


@pytest.mark.parametrize("killed", [False, True], ids=["connection cut", "server killed"])
async def test_exactly_what_it_lacks_is_sent_again(serve, tmp_path: Path, killed: bool) -> None:
    gates = Gates(tmp_path)
    gates.open("g")
    server = await serve(CONFIG)
    async with RawClient(server.url) as first:
        welcome = await first.register("ann", "correct horse")
        await first.send(*(gated("g", seq) for seq in range(1, 11)))
        await first.until_outcome(10)
        if not killed:
            first.socket.transport.abort()
        else:
            await server.kill()
    if killed:
        await server.start()
    again = {"token": welcome["token"], "session": welcome["session"]}
    async with RawClient(server.url) as client:
        back = await client.hello(**again, seq=4, accepted=10)
        assert numbers(back) == (True, 10, 10, 4)
        await client.until_outcome(10)
        assert client.outcomes == first.outcomes[4:], "the very same"
        await nothing_but_pongs(client)
    async with RawClient(server.url) as client:
        # Who says nothing of what it holds gets what it has not acknowledged.
        assert numbers(await client.hello(**again)) == (True, 10, 10, 4)
        await client.until_outcome(10)
        assert client.outcomes == first.outcomes[4:]
    async with RawClient(server.url) as client:
        assert numbers(await client.hello(**again, seq=10)) == (True, 10, 10, 10)
        await nothing_but_pongs(client)
        receipt = await client.bye()
    assert (receipt["accepted"], receipt["done"], receipt["verified"]) == (10, 10, True)
    assert [step.seq for step in gates.steps if step.word == "begin"] == list(range(1, 11))


async def test_the_older_connection_is_replaced_while_its_request_runs(serve, tmp_path) -> None:
    gates = Gates(tmp_path)
    server = await serve(CONFIG)
    async with RawClient(server.url) as older, RawClient(server.url) as newer:
        welcome = await older.register("ann", "correct horse")
        await older.send(gated("g", 1), gated("g", 2))
        await gates.reached(1)
        back = await newer.hello(token=welcome["token"], session=welcome["session"], accepted=2)
        assert numbers(back) == (True, 2, 0, 0)
        assert back["epoch"] == welcome["epoch"], "it is the same owner"
        with suppress(ConnectionClosed):
            await older.send({"type": "ping"})
        while (message := await older.next()) is not None:
            assert message["type"] == "accepted"
        assert older.closed == (4409, "replaced")
        await newer.send(gated("g", 3))
        gates.open("g")
        await newer.until_outcome(3)
        receipt = await newer.bye()
    assert (receipt["done"], receipt["pending"], receipt["verified"]) == (3, 0, True)
    assert gates.steps == [Step(word, seq, 1) for seq in (1, 2, 3) for word in ("begin", "end")]


async def test_a_queue_that_still_runs_is_that_very_queue(serve, tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    server = await serve(CONFIG)
    async with RawClient(server.url) as client:
        welcome = await client.register("ann", "correct horse")
        await client.send(gated("g", 1), gated("g", 2))
        await gates.reached(1)
        client.socket.transport.abort()
    again = {"token": welcome["token"], "session": welcome["session"]}
    for _ in range(3):
        async with RawClient(server.url) as client:
            assert numbers(await client.hello(**again)) == (True, 2, 0, 0)
            client.socket.transport.abort()
    async with RawClient(server.url) as client:
        back = await client.hello(**again)
        assert back["epoch"] == welcome["epoch"]
        await client.send(gated("g", 3))
        await client.until("accepted")
        gates.open("g")
        await client.until_outcome(3)
        assert [outcome["seq"] for outcome in client.outcomes] == [1, 2, 3]
        receipt = await client.bye()
    assert (receipt["done"], receipt["verified"]) == (3, True)
    assert gates.steps == [Step(word, seq, 1) for seq in (1, 2, 3) for word in ("begin", "end")]


async def test_a_session_of_somebody_else_is_none(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        welcome = await client.register("ann", "correct horse")
        await client.send(request("echo", "mine", seq=1))
        await client.until_outcome(1)
        async with RawClient(server.url) as eve:
            await eve.register("eve", "other horse")
            await refused(server, welcome["session"], "session_gone")
        await nothing_but_pongs(client)
    async with asyncio.timeout(10):
        while "last one out" not in server.output():
            await asyncio.sleep(0.005)
    # Neither live nor left behind.
    await refused(server, welcome["session"], "session_gone")
    await refused(server, "0" * 32, "session_gone")


async def refused(server, session: str, code: str) -> None:
    async with RawClient(server.url) as client:
        login = {"type": "hello", "username": "eve", "password": "other horse"}
        await client.send({**login, "session": session})
        answer = await client.next()
        assert (answer["type"], answer.get("code"), answer.get("of")) == ("error", code, "hello")
        assert (await client.until_closed())[0] == 4410


@pytest.mark.sqlite("it copies SQLite's file")
async def test_an_old_copy_of_the_database_is_noticed(serve, tmp_path: Path) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        welcome = await client.register("eve", "other horse")
        await client.send(request("echo", 1, seq=1))
        await client.until_outcome(1)
    await server.stop()
    await server.ended()
    old = tmp_path / "old"
    old.mkdir()
    for file in tmp_path.glob("inorder.db*"):
        shutil.copy(file, old)
    await server.start()
    again = {"token": welcome["token"], "session": welcome["session"]}
    async with RawClient(server.url) as client:
        await client.hello(**again, seq=1, accepted=1)
        await client.send(request("echo", 2, seq=2))
        await client.until_outcome(2)
    await server.kill()
    for file in tmp_path.glob("inorder.db*"):
        file.unlink()
    for file in old.iterdir():
        shutil.copy(file, tmp_path)
    await server.start()
    for held, told in ((1, 2), (2, 2)):
        async with RawClient(server.url) as client:
            await client.send({"type": "hello", **again, "seq": held, "accepted": told})
            answer = await client.next()
            assert (answer["type"], answer.get("code")) == ("error", "history_lost")
            assert answer["retry"] is False
            assert (await client.until_closed())[0] == 4410
    assert (await asyncio.to_thread(metrics_of, server))["inorder_violations_total"] == 2
    # Such a hello changes nothing; it acknowledges nothing either.
    assert session_of(server, welcome["session"]).numbers == (1, 1, 0)


async def test_the_receipt_of_an_ended_session_is_kept(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        welcome = await client.register("ann", "correct horse")
        await client.send(request("echo", 1, seq=1))
        receipt = await client.bye()
        assert receipt["verified"] is True
    again = {"type": "hello", "token": welcome["token"], "session": welcome["session"]}
    for killed in (False, True):
        if killed:
            await server.kill()
            await server.start()
        async with RawClient(server.url) as client:
            await client.send({**again, "seq": 1, "accepted": 1})
            assert await client.next() == {"type": "bye", "receipt": receipt}
            assert await client.until_closed() == (1000, "done")
