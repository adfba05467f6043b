"""The ends of connections and of the node: the three policies, and the drain."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from node_bench import (
    Bench,
    ask,
    gone,
    later,
    left,
    receipt,
    serving,
    settled,
    tasks,
    tasks_of,
    three,
    work,
)
from virtual_time import VirtualLoop, virtual

from inorder.messages import Receipt
from inorder_server.handlers import Retry, handler
from inorder_server.refusal import Refusal

# ---- the policies


@virtual
async def test_finish_runs_the_rest() -> None:
    async with serving(work) as bench:
        queue, peer = await three(bench)
        bench.registry.detach(queue, peer)
        await asyncio.sleep(20)
        id = queue.session.id
        assert receipt(bench, id) == Receipt(id, 3, 3, 0, 0, 0, True)
        row = bench.database.sessions[id]
        assert (row.node, row.clean, row.open, row.state) == (None, True, False, "live")
        assert tasks_of(id) == []
        assert bench.metrics.receipts == 1


@virtual
async def test_hold_keeps_the_rest_for_the_resume() -> None:
    async with serving(work, on_disconnect="hold") as bench:
        queue, peer = await three(bench)
        bench.registry.detach(queue, peer)
        await asyncio.sleep(20)
        id = queue.session.id
        assert receipt(bench, id) == Receipt(id, 3, 1, 0, 0, 2, True)
        row = bench.database.sessions[id]
        assert (row.clean, row.open) == (True, False)
        assert tasks_of(id) == []
        assert await bench.registry.adopt() == 0
        resumed, new = await bench.open(id, seq=0)
        assert resumed is not queue
        await asyncio.sleep(20)
        assert new.outcomes == [(2, "done", 2), (3, "done", 3)]
        assert bench.store.row(id, 2).attempt == 0


@virtual
async def test_cancel_cancels_the_rest() -> None:
    async with serving(work, on_disconnect="cancel") as bench:
        queue, peer = await three(bench)
        await left(bench, queue, peer)
        id = queue.session.id
        assert receipt(bench, id) == Receipt(id, 3, 0, 0, 3, 0, True)
        assert tasks_of(id) == []
        resumed, new = await bench.open(id)
        resumed.request(ask("echo", 4))
        await settled()
        assert new.outcomes == [(4, "done", 4)]


@virtual
async def test_ten_thousand_and_the_plug_is_pulled() -> None:
    for policy, counts in (
        ("finish", (10_000, 0, 0)),
        ("hold", (1, 0, 9_999)),
        ("cancel", (0, 10_000, 0)),
    ):
        async with serving(work, on_disconnect=policy, queue=10_000, unacked=20_000) as bench:
            queue, peer = await bench.open()
            queue.request(ask("work", {"seconds": 1}))
            for _ in range(9_999):
                queue.request(ask("work"))
            await settled()
            bench.registry.detach(queue, peer)
            while bench.registry.queues:
                await asyncio.sleep(1)
            found = receipt(bench, queue.session.id)
            assert (found.done, found.cancelled, found.pending) == counts
            assert found.verified
            assert tasks_of(queue.session.id) == []


# ---- drain


@virtual
async def test_a_drain_finishes_what_it_can_and_says_so() -> None:
    bench = Bench(work)
    await bench.start()
    queue, peer = await three(bench, seconds=2)
    idle, idle_peer = await bench.open()
    closing, bye = await bench.open()
    bench.registry.leave(closing, "finish")
    draining = asyncio.create_task(bench.registry.drain(30))
    await settled()
    queue.request(ask("echo", id="late"))
    assert peer.refusals == ["draining"]
    assert await draining == []
    assert peer.heard("draining") == [30]
    assert [seq for seq, _, _ in peer.outcomes] == [1, 2, 3]
    assert peer.said[-1] == ("finish", 1012, "draining")
    assert idle_peer.said == [("draining", 30), ("finish", 1012, "draining")]
    assert bye.receipt is not None
    assert idle.ended
    assert receipt(bench, queue.session.id).done == 3
    await bench.stop()
    assert tasks() == []


@virtual
async def test_a_drain_leaves_the_rest_in_time() -> None:
    bench = Bench(work)
    await bench.start()
    queue, peer = await three(bench, seconds=10)
    before = asyncio.get_running_loop().time()
    assert await bench.registry.drain(15) == []
    assert asyncio.get_running_loop().time() - before == pytest.approx(15, abs=0.1)
    id = queue.session.id
    assert receipt(bench, id) == Receipt(id, 3, 1, 0, 0, 2, True)
    row = bench.database.sessions[id]
    assert (row.node, row.clean, row.open) == (None, True, True)
    assert peer.said[-1] == ("finish", 1012, "draining")
    await bench.stop()


@virtual
async def test_a_bye_that_a_drain_leaves_unanswered_is_asked_again() -> None:
    """Cut short by the deadline, or too late for the end of the session: no receipt is told
    of a session that lives on."""
    bench = Bench(work)
    await bench.start()
    queue, peer = await three(bench, seconds=10)
    bench.registry.leave(queue, "finish")
    late, late_peer = await bench.open()
    late.request(ask("echo"))
    await settled()
    bench.store.hold()
    draining = asyncio.create_task(bench.registry.drain(15))
    await settled()
    bench.registry.leave(late, "finish")
    bench.store.release()
    assert await draining == []
    for who, told in ((queue, peer), (late, late_peer)):
        assert told.receipt is None
        assert told.said[-1] == ("finish", 1012, "draining")
        assert bench.database.sessions[who.session.id].state == "live"
    await bench.stop()


@virtual
async def test_a_bye_to_a_queue_that_a_drain_has_parked_is_asked_again() -> None:
    """Its head comes back by itself: only who waits for an operator is answered."""

    @handler(on_exhausted="block")
    async def fails(request: Any) -> None:
        await asyncio.sleep(10)
        raise RuntimeError("no")

    @handler(attempts=2)
    async def slow(request: Any) -> None:
        await asyncio.sleep(10)
        raise Retry(after=60)

    for method, mode, pending in (
        ("slow", "finish", None),
        ("slow", "cancel", None),
        ("fails", "finish", 2),
    ):
        bench = Bench(fails, slow)
        await bench.start()
        queue, peer = await bench.open()
        queue.request(ask(method))
        queue.request(ask("echo"))
        await settled()
        draining = asyncio.create_task(bench.registry.drain(15))
        await settled()
        bench.registry.leave(queue, mode)
        assert await draining == []
        if pending is None:
            assert peer.said[-1] == ("finish", 1012, "draining")
            assert peer.receipt is None
        else:
            assert peer.receipt == Receipt(queue.session.id, 2, 0, 0, 0, pending, True)
        assert receipt(bench, queue.session.id).pending == 2
        await bench.stop()


@virtual
async def test_a_drain_with_a_handler_that_will_not_stop() -> None:
    async def stubborn(request: Any) -> None:
        end = asyncio.get_running_loop().time() + 1000
        while asyncio.get_running_loop().time() < end:
            try:
                await asyncio.sleep(end)
            except asyncio.CancelledError:
                continue

    bench = Bench(stubborn, work)
    await bench.start()
    queue, peer = await bench.open()
    queue.request(ask("stubborn"))
    other, other_peer = await three(bench, seconds=1)
    await settled()
    before = asyncio.get_running_loop().time()
    assert await bench.registry.drain(5) == [queue.session.id]
    assert asyncio.get_running_loop().time() - before <= 6.1
    assert other_peer.said[-1] == ("finish", 1012, "draining")
    assert other.ended
    await bench.registry.close()
    assert asyncio.get_running_loop().time() - before <= 6.7
    assert bench.database.sessions[queue.session.id].node == "n1"
    # Let it go, for the sake of the next test.
    await asyncio.sleep(2000)
    assert peer.outcomes == []
    await bench.stop()


@virtual
async def test_a_drain_with_a_thread_that_is_stuck() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    leave, began = threading.Event(), threading.Event()

    def stuck(request: Any) -> None:
        began.set()
        leave.wait(20)

    bench = Bench(stuck)
    await bench.start()
    queue, _ = await bench.open()
    queue.request(ask("stuck"))
    while not began.is_set():
        await asyncio.sleep(0)
    assert await bench.registry.drain(5) == []
    id = queue.session.id
    assert receipt(bench, id) == Receipt(id, 1, 0, 0, 0, 1, True)
    left = await bench.stop()
    assert left == [f"thread of stuck ({id}/1 of ada)"] or len(left) == 1
    leave.set()


@virtual
async def test_a_drain_while_the_store_is_away() -> None:
    bench = Bench(work)
    await bench.start()
    await three(bench, seconds=1)
    bench.store.away = {"*"}
    before = asyncio.get_running_loop().time()
    assert len(await bench.registry.drain(5)) == 1
    await bench.registry.close()
    assert not await bench.journal.close(0.25)
    assert asyncio.get_running_loop().time() - before <= 7
    await bench.runner.close(0)
    assert tasks() == []


@virtual
async def test_many_are_drained_in_batches() -> None:
    bench = Bench()
    await bench.start()
    peers = [(await bench.open())[1] for _ in range(250)]
    assert await bench.registry.drain(5) == []
    assert {peer.said[-1] for peer in peers} == {("finish", 1012, "draining")}
    await bench.stop()


@virtual
async def test_nobody_comes_in_during_a_drain() -> None:
    bench = Bench(work, later)
    await bench.start()
    queue, peer = await bench.open()
    queue.request(ask("echo"))
    await settled()
    await left(bench, queue, peer)
    parked, peer = await bench.open()
    parked.request(ask("later"))
    await settled()
    await left(bench, parked, peer)
    # One hello is under way.
    bench.store.hold("claim")
    opening = asyncio.create_task(bench.open(queue.session.id))
    adopting = asyncio.create_task(bench.registry.adopt())
    await settled()
    bench.node.draining = True
    bench.store.release("claim")
    with pytest.raises(Refusal) as refused:
        await opening
    assert refused.value.code == "draining"
    assert await adopting == 1
    await settled()
    assert bench.registry.queues == {}
    row = bench.database.sessions[parked.session.id]
    assert (row.node, row.clean, row.open) == (None, True, True)
    assert await gone(bench, queue.session.id) == "draining"
    with pytest.raises(Refusal, match="draining"):
        await bench.open()
    assert await bench.registry.adopt() == 0
    assert await bench.stop() == []


@virtual
async def test_a_timer_does_not_bring_work_back_after_a_drain() -> None:
    bench = Bench(later)
    await bench.start()
    queue, peer = await bench.open()
    queue.request(ask("later"))
    await settled()
    await left(bench, queue, peer)
    other, _ = await bench.open()
    other.request(ask("later"))
    await settled()
    assert await bench.registry.drain(5) == []
    await asyncio.sleep(100)
    assert bench.registry.queues == {}
    assert bench.database.sessions[other.session.id].open
    await bench.stop()
    assert tasks() == []


@virtual
async def test_closing_ends_what_still_waits_for_the_store() -> None:
    bench = Bench(later)
    await bench.start()
    queue, peer = await bench.open()
    queue.request(ask("later"))
    await settled()
    await left(bench, queue, peer)
    bench.store.away = {"session"}
    await asyncio.sleep(65)
    assert tasks() == [f"adopt {queue.session.id}", "journal"]
    await bench.registry.close()
    assert tasks() == ["journal"]
    bench.store.away = set()
    await bench.stop()
