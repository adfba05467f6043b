"""Work that is taken up without its client: at a start, at its time, at an operator's word."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from node_bench import (
    Bench,
    after_a_crash,
    ask,
    left,
    receipt,
    serving,
    settled,
    tasks_of,
    three,
    work,
)
from virtual_time import virtual

from inorder.messages import Receipt
from inorder_server.handlers import handler
from inorder_server.modes import Mode
from inorder_server.registry import Ended
from inorder_server.stores.port import User

# ---- adoption


@virtual
async def test_unfinished_sessions_are_finished_without_their_clients() -> None:
    dead = Bench(work)
    await dead.start()
    queues = [(await three(dead))[0] for _ in range(3)]
    done, peer = await dead.open()
    done.request(ask("echo"))
    await settled()
    await left(dead, done, peer)
    async with after_a_crash(dead) as bench:
        assert await bench.registry.adopt() == 3
        assert await bench.registry.adopt() == 0
        await asyncio.sleep(20)
        for queue in queues:
            assert receipt(bench, queue.session.id).done == 3
        assert bench.registry.queues == {}


@virtual
async def test_many_sessions_are_asked_for_together() -> None:
    """Not one after the other: a start with thousands of them would wait for each."""
    dead = Bench(work)
    await dead.start()
    for _ in range(10):
        await three(dead)
    async with after_a_crash(dead) as bench:
        under_way, most = 0, 0
        claim = bench.store.claim

        async def counted(session: str) -> Any:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.1)
            under_way -= 1
            return await claim(session)

        bench.store.claim = counted
        assert await bench.registry.adopt() == 10
        assert most == 10


@virtual
async def test_under_hold_adopted_work_waits_for_its_client() -> None:
    dead = Bench(work, on_disconnect="hold")
    await dead.start()
    queue, _ = await three(dead)
    async with after_a_crash(dead) as bench:
        assert await bench.registry.adopt() == 1
        await settled()
        row = bench.database.sessions[queue.session.id]
        assert (row.node, row.open, row.held) == (None, False, True)
        # Nothing was marked, and nothing forgotten: its head may have run.
        assert bench.store.row(queue.session.id, 1).attempt == 0
        assert not row.clean
        assert await bench.registry.adopt() == 0
        _, peer = await bench.open(queue.session.id)
        await asyncio.sleep(20)
        assert [seq for seq, _, _ in peer.outcomes] == [1, 2, 3]
        assert bench.store.row(queue.session.id, 1).attempt == 1


@virtual
async def test_adopted_work_runs_with_its_user_s_rights() -> None:
    seen: list[Any] = []

    async def look(request: Any) -> None:
        seen.append(request.user)
        if len(seen) < 2:
            await asyncio.sleep(1000)

    dead = Bench(look)
    await dead.start()
    queue, _ = await dead.open()
    queue.request(ask("look"))
    await settled()
    await dead.store.add_user(User("ada", b"", 3, True, 0))
    async with after_a_crash(dead) as bench:
        await bench.registry.adopt()
        await settled()
        assert [(user.name, user.admin) for user in seen] == [("ada", False), ("ada", True)]


@virtual
async def test_a_hello_meets_an_adoption_under_way() -> None:
    dead = Bench(work)
    await dead.start()
    queue, _ = await three(dead)
    async with after_a_crash(dead) as bench:
        bench.store.hold("claim")
        adopting = asyncio.create_task(bench.registry.adopt())
        await settled()
        opening = asyncio.create_task(bench.open(queue.session.id))
        await settled()
        bench.store.release("claim")
        assert await adopting == 1
        _, peer = await opening
        await asyncio.sleep(20)
        assert [seq for seq, _, _ in peer.outcomes] == [1, 2, 3]
        assert bench.database.sessions[queue.session.id].epoch == 2


# ---- expiry and operators


async def held(bench: Bench) -> str:
    """A session whose client went while two of its requests waited."""
    queue, peer = await three(bench, seconds=1)
    bench.registry.detach(queue, peer)
    await asyncio.sleep(2)
    assert bench.database.sessions[queue.session.id].held
    return queue.session.id


@virtual
async def test_held_work_is_cancelled_and_ended_at_its_time() -> None:
    async with serving(work, on_disconnect="hold") as bench:
        id = await held(bench)
        row = bench.database.sessions[id]
        await bench.registry.expire(id, row.left_ms)
        assert row.state == "live"
        assert bench.registry.queues == {}
        await bench.registry.expire(id, row.left_ms + 1)
        await settled()
        assert row.state == "ended"
        assert receipt(bench, id) == Receipt(id, 3, 1, 0, 2, 0, True)
        assert tasks_of(id) == []
        with pytest.raises(Ended):
            await bench.open(id)


@virtual
async def test_a_resume_while_it_expires_keeps_the_session() -> None:
    async with serving(work, on_disconnect="hold") as bench:
        id = await held(bench)
        bench.store.hold("commit")
        await bench.registry.expire(id, 1 << 60)
        opening = asyncio.create_task(bench.open(id))
        await settled()
        bench.store.release("commit")
        queue, peer = await opening
        await settled()
        assert [(seq, how) for seq, how, _ in peer.outcomes] == [(2, "cancelled"), (3, "cancelled")]
        queue.request(ask("echo", 4))
        await settled()
        await left(bench, queue, peer)
        assert bench.database.sessions[id].state == "live"


@virtual
async def test_an_operator_s_word_reaches_a_parked_queue() -> None:
    runs: list[int] = []

    @handler(on_exhausted="block")
    async def fails(request: Any) -> str:
        runs.append(request.seq)
        if len(runs) == 1:
            raise RuntimeError("no")
        return "done"

    async with serving(fails) as bench:
        queue, peer = await bench.open()
        queue.request(ask("fails", id="a"))
        queue.request(ask("echo", 2, id="b"))
        await settled()
        await left(bench, queue, peer)
        id = queue.session.id
        # Not a word on another request, nor on another session.
        assert not await bench.registry.operate("skip", id, "b")
        await settled()
        assert not await bench.registry.operate("skip", "0" * 32, None)
        assert bench.registry.queues == {}
        assert runs == [1]
        assert await bench.registry.operate("retry", id, "a")
        await settled()
        assert receipt(bench, id) == Receipt(id, 2, 2, 0, 0, 0, True)
        assert runs == [1, 1]


@virtual
async def test_an_operator_s_word_while_a_queue_is_being_parked_is_not_lost() -> None:
    @handler(on_exhausted="block")
    async def fails(request: Any) -> None:
        raise RuntimeError("no")

    async with serving(fails) as bench:
        queue, peer = await bench.open()
        queue.request(ask("fails", id="a"))
        await settled()
        bench.store.hold()
        await left(bench, queue, peer)
        assert queue.ended
        word = asyncio.create_task(bench.registry.operate("skip", queue.session.id, None))
        await settled()
        bench.store.release()
        assert await word
        await settled()
        assert receipt(bench, queue.session.id) == Receipt(queue.session.id, 1, 0, 1, 0, 0, True)


@virtual
async def test_an_operator_s_word_while_a_parked_queue_waits_for_the_store_is_not_lost() -> None:
    runs: list[int] = []

    @handler(on_exhausted="block")
    async def fails(request: Any) -> None:
        runs.append(request.seq)
        await asyncio.sleep(1)
        raise RuntimeError("no")

    async with serving(fails, on_disconnect="hold") as bench:
        queue, peer = await bench.open()
        queue.request(ask("fails", id="a"))
        await settled()
        bench.store.hold()
        queue.request(ask("echo", 2))
        bench.registry.detach(queue, peer)
        await asyncio.sleep(2)
        assert not queue.ended
        assert await bench.registry.operate("skip", queue.session.id, "a")
        bench.store.release()
        await settled()
        assert receipt(bench, queue.session.id) == Receipt(queue.session.id, 2, 1, 1, 0, 0, True)
        assert runs == [1]


@virtual
async def test_no_word_counts_while_the_node_goes_down() -> None:
    async with serving(work) as bench:
        queue, _ = await three(bench)
        queue.turn(Mode.STOP)
        assert not queue.operate("skip")


@virtual
async def test_an_operator_s_word_at_a_live_queue() -> None:
    @handler(on_exhausted="block")
    async def fails(request: Any) -> None:
        raise RuntimeError("no")

    async with serving(fails, work) as bench:
        queue, peer = await bench.open()
        queue.request(ask("work", {"seconds": 5}))
        queue.request(ask("fails"))
        await settled()
        assert not await bench.registry.operate("skip", queue.session.id, None)
        await asyncio.sleep(6)
        assert await bench.registry.operate("skip", queue.session.id, "#2")
        await settled()
        assert peer.outcomes == [(1, "done", 1), (2, "failed", "skipped")]


@virtual
async def test_an_operator_s_word_sets_no_held_work_going() -> None:
    async with serving(work, on_disconnect="hold") as bench:
        id = await held(bench)
        assert not await bench.registry.operate("retry", id, None)
        await settled()
        assert bench.store.row(id, 2).ending is None
        assert bench.database.sessions[id].held
