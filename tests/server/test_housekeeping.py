"""Operators' commands, expiry and slow clients, round by round and in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from edge_bench import Door, door, request
from loguru import logger
from node_bench import settled
from virtual_time import virtual

from inorder_server.handlers import handler
from inorder_server.housekeeping import Housekeeping
from inorder_server.stores.port import StoreUnavailable


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What was logged."""
    found: list[str] = []
    sink = logger.add(lambda m: found.append(m.record["message"]), level="DEBUG")
    yield found
    logger.remove(sink)


async def housekeeping(d: Door) -> Housekeeping:
    made = Housekeeping(d.edge, d.bench.registry)
    await made.start()
    return made


@asynccontextmanager
async def running(d: Door) -> AsyncIterator[Housekeeping]:
    """As the app runs it."""
    made = await housekeeping(d)
    task = asyncio.create_task(made.run(), name="housekeeping")
    yield made
    task.cancel()
    await asyncio.wait([task])


@handler(on_exhausted="block")
async def stubborn(request: Any) -> None:
    """Fails, and blocks its queue."""
    raise ValueError("not today")


# ---- commands


@virtual
async def test_a_revoke_cuts_the_connections_of_its_user() -> None:
    async with door() as d:
        keeping = await housekeeping(d)
        first, second, other = await d.welcome(), await d.welcome(hand=True), await d.welcome("bob")
        await d.store.revoke("ann")
        await d.store.post("revoke", "ann", "", 0)
        await keeping.tick()
        await settled()
        assert first.closed == second.closed == (4403, "forbidden")
        assert other.closed is None
        assert d.edge.per_user == {"bob": 1}
        await keeping.tick()
        again = await d.connect()
        await again.hello()
        await keeping.tick()
        await settled()
        assert again.closed is None, "a command is obeyed once"


@virtual
async def test_work_that_was_accepted_outlives_the_revoke() -> None:
    async with door() as d:
        keeping = await housekeeping(d)
        client = await d.welcome()
        session = client.socket.of("welcome")[0]["session"]
        d.store.hold("commit")
        await client.say(request(seq=1))
        await d.store.post("revoke", "ann", "", 0)
        await keeping.tick()
        d.store.release("commit")
        await settled(200)
        assert client.closed == (4403, "forbidden")
        assert client.socket.of("result") == []
        assert d.store.row(session, 1).ending == "done"


@virtual
async def test_commands_from_before_the_start_are_not_for_it() -> None:
    async with door() as d:
        await d.store.post("revoke", "ann", "", 0)
        keeping = await housekeeping(d)
        client = await d.welcome()
        await keeping.tick()
        await settled()
        assert client.closed is None


@pytest.mark.parametrize(("word", "ending"), [("skip", "failed"), ("retry", None)])
def test_a_word_on_a_blocked_queue(word: str, ending: str | None, lines: list[str]) -> None:
    @virtual
    async def run() -> None:
        async with door(stubborn) as d:
            keeping = await housekeeping(d)
            client = await d.welcome()
            session = client.socket.of("welcome")[0]["session"]
            await client.say(request("stubborn", id="a", seq=1))
            await settled()
            await d.store.post(word, session, "", 0)
            await keeping.tick()
            await settled(200)
            assert d.store.row(session, 1).ending == ending
            assert f"an operator said {word}" in lines
            await d.store.post(word, session, "another", 0)
            await d.store.post(word, "nobody's", "", 0)
            await keeping.tick()
            assert lines.count(f"an operator said {word}, but it blocks no queue here") == 2
            await client.go()
            await settled(200)

    run()


@virtual
async def test_a_command_of_a_later_version() -> None:
    async with door() as d:
        keeping = await housekeeping(d)
        client = await d.welcome()
        await d.store.post("dance", "ann", "", 0)
        await d.store.post("revoke", "ann", "", 0)
        await keeping.tick()
        await settled()
        assert client.closed == (4403, "forbidden"), "those behind it are obeyed"


@virtual
async def test_a_command_that_meets_a_store_that_is_away_is_read_again() -> None:
    async with door(stubborn) as d:
        keeping = await housekeeping(d)
        client = await d.welcome()
        session = client.socket.of("welcome")[0]["session"]
        await client.say(request("stubborn", id="a", seq=1))
        await client.go()
        await settled(200)
        await d.store.post("skip", session, "", 0)
        d.store.away = {"session"}
        with pytest.raises(StoreUnavailable):
            await keeping.tick()
        d.store.away = set()
        await keeping.tick()
        await settled(200)
        assert d.store.row(session, 1).ending == "failed"


@virtual
async def test_a_command_that_fails_holds_up_no_other() -> None:
    async with door() as d:
        keeping = await housekeeping(d)
        client = await d.welcome()

        async def broken(*_: Any) -> bool:
            raise RuntimeError("nobody expects this")

        d.bench.registry.operate = broken  # type: ignore[method-assign]
        await d.store.post("retry", "x", "", 0)
        await d.store.post("revoke", "ann", "", 0)
        await keeping.tick()
        await settled()
        assert client.closed == (4403, "forbidden")


# ---- round by round


@virtual
async def test_once_a_second() -> None:
    async with door() as d, running(d):
        client = await d.welcome()
        await d.store.post("revoke", "ann", "", 0)
        await asyncio.sleep(0.9)
        assert client.closed is None
        await asyncio.sleep(0.2)
        assert client.closed == (4403, "forbidden")


@virtual
async def test_a_store_that_is_away_does_not_end_it() -> None:
    async with door() as d, running(d):
        client = await d.welcome()
        d.store.away = {"commands"}
        await asyncio.sleep(10)
        d.store.away = set()
        await d.store.post("revoke", "ann", "", 0)
        await asyncio.sleep(1.1)
        assert client.closed == (4403, "forbidden")


@virtual
async def test_nor_does_a_fault_of_ours() -> None:
    async with door() as d, running(d):
        client = await d.welcome()
        commands = d.store.commands

        async def broken(after: int) -> Any:
            raise RuntimeError("nobody expects this")

        d.store.commands = broken
        await asyncio.sleep(3)
        d.store.commands = commands
        await d.store.post("revoke", "ann", "", 0)
        await asyncio.sleep(1.1)
        assert client.closed == (4403, "forbidden")


@virtual
async def test_a_slow_client_is_closed_in_time() -> None:
    async with door(slow_client_timeout=5) as d, running(d):
        client = await d.welcome()
        client.socket.stop_reading()
        await client.say({"type": "ping"})
        await asyncio.sleep(4.9)
        assert client.closed is None
        await asyncio.sleep(1.5)
        assert client.closed == (4510, "slow_client")


@virtual
async def test_a_slow_client_is_closed_while_the_store_hangs() -> None:
    async with door(slow_client_timeout=5) as d, running(d):
        client = await d.welcome()
        d.store.hold("commands")
        client.socket.stop_reading()
        await client.say({"type": "ping"})
        await asyncio.sleep(10)
        assert client.closed == (4510, "slow_client")
        d.store.release("commands")


# ---- expiry


@virtual
async def test_a_session_expires_when_its_time_is_over() -> None:
    async with door(session_ttl=100) as d:
        keeping = await housekeeping(d)
        client = await d.welcome()
        session = client.socket.of("welcome")[0]["session"]
        await client.say(request(seq=1))
        await keeping.tick()
        await client.go()
        await settled(200)
        for seconds in (95, 25):
            await asyncio.sleep(seconds)
            await keeping.tick()
            assert session in d.bench.database.sessions, "it is looked at each minute"
        await asyncio.sleep(36)
        await keeping.tick()
        assert session not in d.bench.database.sessions
        again = await d.connect()
        answer = await again.hello(session=session)
        assert answer["code"] == "session_gone"


@virtual
async def test_nobody_expires_who_is_there() -> None:
    async with door(session_ttl=100) as d:
        keeping = await housekeeping(d)
        client = await d.welcome()
        await client.say(request(seq=1))
        for _ in range(5):
            await asyncio.sleep(100)
            await keeping.tick()
        assert (await client.say(request(seq=2)))[-1]["type"] == "result"


@virtual
async def test_held_work_is_cancelled_when_its_time_is_over() -> None:
    async def wait(request: Any) -> None:
        """Takes a while."""
        await asyncio.sleep(10)

    async with door(wait, on_disconnect="hold", session_ttl=100) as d:
        keeping = await housekeeping(d)
        client = await d.welcome()
        session = client.socket.of("welcome")[0]["session"]
        await client.say(request("wait", seq=1), request("wait", seq=2))
        await client.go()
        await asyncio.sleep(50)
        await keeping.tick()
        await settled(200)
        assert d.bench.database.sessions[session].state == "live"
        await asyncio.sleep(70)
        await keeping.tick()
        await settled(200)
        row = d.bench.database.sessions[session]
        assert (row.state, row.done, row.cancelled) == ("ended", 1, 1)
        assert not d.bench.registry.queues


@virtual
async def test_expiry_comes_round_again_after_trouble() -> None:
    async with door(session_ttl=100) as d:
        keeping = await housekeeping(d)
        client = await d.welcome()
        session = client.socket.of("welcome")[0]["session"]
        await client.say(request(seq=1))
        await client.go()
        await asyncio.sleep(200)
        d.store.away = {"expire"}
        with pytest.raises(StoreUnavailable):
            await keeping.tick()
        d.store.away = set()
        await asyncio.sleep(61)
        await keeping.tick()
        assert session not in d.bench.database.sessions
