"""Parked queues: they come back by their timer or by a resume, once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from loguru import logger
from node_bench import Bench, ask, gone, later, left, receipt, serving, settled, tasks_of
from virtual_time import virtual

from inorder.messages import Receipt
from inorder_server.handlers import Retry, handler
from inorder_server.stores.port import User


@virtual
async def test_a_parked_queue_comes_back_by_its_timer() -> None:
    async with serving(later) as bench:
        await bench.store.add_user(User("ada", b"", 3, True, 0))
        queue, peer = await bench.open()
        queue.request(ask("later"))
        queue.request(ask("echo", 2))
        await settled()
        await left(bench, queue, peer)
        id = queue.session.id
        assert tasks_of(id) == []
        assert receipt(bench, id) == Receipt(id, 2, 0, 0, 0, 2, True)
        assert bench.database.sessions[id].open
        await asyncio.sleep(59)
        assert bench.registry.queues == {}
        await asyncio.sleep(2)
        assert receipt(bench, id) == Receipt(id, 2, 2, 0, 0, 0, True)
        assert tasks_of(id) == []
        assert bench.registry._departed._timers == {}


@virtual
async def test_a_parked_queue_comes_back_by_a_resume_once() -> None:
    async with serving(later) as bench:
        queue, peer = await bench.open()
        queue.request(ask("later"))
        await settled()
        await left(bench, queue, peer)
        await asyncio.sleep(30)
        _, new = await bench.open(queue.session.id)
        await asyncio.sleep(100)
        assert new.outcomes == [(1, "done", "at last")]
        assert bench.database.sessions[queue.session.id].epoch == 2


@pytest.mark.parametrize("claims", [{}, {"seq": 9}])
def test_held_a_head_that_nobody_looked_at_waits_as_before(claims: dict[str, int]) -> None:
    """A hello that is refused, or cut off at once, shortens no backoff and ends no block."""
    runs: list[int] = []

    @handler(on_exhausted="block", attempts=2)
    async def fails(request: Any) -> None:
        runs.append(request.attempt)
        if request.attempt == 1:
            raise Retry(after=60)
        raise RuntimeError("no")

    async def come_and_go(bench: Bench, id: str) -> None:
        if claims:
            assert await gone(bench, id, **claims) == "history_lost"
        else:
            bench.registry.detach(*await bench.open(id))
        await settled()

    @virtual
    async def check() -> None:
        async with serving(fails, on_disconnect="hold") as bench:
            queue, peer = await bench.open()
            id = queue.session.id
            queue.request(ask("fails"))
            await settled()
            await left(bench, queue, peer)
            await come_and_go(bench, id)
            queue, peer = await bench.open(id)
            await asyncio.sleep(59)
            assert runs == [1]
            await asyncio.sleep(2)
            assert runs == [1, 2]
            await left(bench, queue, peer)
            await come_and_go(bench, id)
            row = bench.database.sessions[id]
            assert (row.open, row.held) == (False, False)
            queue, peer = await bench.open(id)
            await settled()
            assert runs == [1, 2]
            assert queue.block is not None
            assert await bench.registry.operate("skip", id, None)
            await settled()
            assert peer.outcomes == [(1, "failed", "skipped")]

    check()


@virtual
async def test_a_timer_that_finds_the_store_away_tries_again() -> None:
    async with serving(later) as bench:
        queue, peer = await bench.open()
        queue.request(ask("later"))
        await settled()
        await left(bench, queue, peer)
        bench.store.away = {"session", "user", "tally"}
        await asyncio.sleep(70)
        bench.store.away = {"tally"}
        await asyncio.sleep(5)
        # It has run, and its receipt waits for the store.
        assert bench.store.row(queue.session.id, 1).ending == "done"
        assert not bench.database.sessions[queue.session.id].clean
        bench.store.away = set()
        await asyncio.sleep(5)
        assert receipt(bench, queue.session.id).done == 1


@virtual
async def test_a_timer_whose_session_is_gone_meanwhile() -> None:
    async with serving(later) as bench:
        for how in ("expired", "taken", "resumed"):
            queue, peer = await bench.open()
            queue.request(ask("later"))
            await settled()
            await left(bench, queue, peer)
            id = queue.session.id
            if how == "expired":
                del bench.database.sessions[id]
                bench.registry.forgotten([id])
            elif how == "taken":
                bench.store.take_away(id)
            else:
                bench.store.hold("session")
                await asyncio.sleep(61)
                # The timer's adoption has the session's lock; the hello waits for it.
                opening = asyncio.create_task(bench.open(id))
                await settled()
                bench.store.release("session")
                await opening
            await asyncio.sleep(70)
        assert list(bench.registry.queues) == [id]
        assert bench.registry._departed._timers == {}


@virtual
async def test_an_adoption_that_fails_is_logged() -> None:
    async with serving(later) as bench:
        queue, peer = await bench.open()
        queue.request(ask("later"))
        await settled()
        await left(bench, queue, peer)
        seen: list[str] = []
        sink = logger.add(lambda m: seen.append(m.record["message"]), level="ERROR")
        del bench.store.database
        await asyncio.sleep(70)
        logger.remove(sink)
        assert seen == [f"adopt {queue.session.id} failed"]


@virtual
async def test_held_work_does_not_come_back_by_itself() -> None:
    async with serving(later, on_disconnect="hold") as bench:
        queue, peer = await bench.open()
        queue.request(ask("later"))
        queue.request(ask("echo", 2))
        await settled()
        await left(bench, queue, peer)
        await asyncio.sleep(1000)
        assert not bench.database.sessions[queue.session.id].open
        assert receipt(bench, queue.session.id).pending == 2
        _, new = await bench.open(queue.session.id)
        await settled()
        assert new.outcomes == [(1, "done", "at last"), (2, "done", 2)]
