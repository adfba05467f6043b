"""A session's queue: what is said and when, cancelling in every stage, modes, blocking."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest
from memory_store import MemoryStore
from node_bench import Bench, Peer, ask, serving, settled, tasks
from virtual_time import VirtualLoop, virtual

from inorder_server.auth import Identity
from inorder_server.handlers import handler
from inorder_server.modes import Mode
from inorder_server.queue import Queue
from inorder_server.session import Stage
from inorder_server.stores.port import Create, Insert, MarkCancel, Settle


def consumers() -> list[str]:
    return [name for name in tasks() if name.startswith("consumer")]


def gated(name: str = "wait") -> tuple[Any, asyncio.Event, list[int]]:
    """A method that waits for its gate, the gate, and the seqs that were begun."""
    gate, begun = asyncio.Event(), list[int]()

    async def wait(request: Any) -> int:
        begun.append(request.seq)
        await gate.wait()
        return int(request.seq)

    wait.__name__ = name
    return wait, gate, begun


@virtual
async def test_what_a_request_leaves_is_freed_by_counting() -> None:
    """With a cycle in it the collector would have to find it: a fifth of all time."""

    async def waits(request: Any) -> None:
        await asyncio.sleep(0.01)
        request.progress(1)

    def in_a_thread(request: Any) -> None:
        request.progress(1)

    async with serving(waits, in_a_thread) as bench:
        queue, peer = await bench.open()
        kinds = ["echo", "waits", "in_a_thread"]
        enabled = gc.isenabled()
        try:
            gc.collect()
            gc.disable()
            for n in range(60):
                queue.request(ask(kinds[n % 3]))
            while len(peer.outcomes) < 60:
                await settled()
                await asyncio.sleep(0.01)
            # Fewer than one for each third of them, whatever else left something meanwhile.
            assert gc.collect() < 20
        finally:
            if enabled:
                gc.enable()


# ---- acceptance and order


@virtual
async def test_accepted_is_told_after_the_commit_and_outcomes_in_order() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        bench.store.hold()
        for n in range(3):
            queue.request(ask("echo", n, id=f"r{n}"))
        await settled()
        assert peer.said == []
        bench.store.release()
        await settled()
        assert peer.heard("accepted") == [("r0", 1, 0), ("r1", 2, 1), ("r2", 3, 2)]
        assert peer.outcomes == [(1, "done", 0), (2, "done", 1), (3, "done", 2)]
        assert [type(w) for w in bench.store.groups[0]] == [Create, Insert, Insert, Insert]
        assert bench.metrics.accepted == 3
        assert bench.metrics.settled == {"done": 3}
        assert consumers() == [f"consumer {queue.session.id}"]


@virtual
async def test_an_outcome_is_expected_where_the_handler_ends_at_once() -> None:
    wait, gate, begun = gated()
    async with serving(wait) as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo", 1))
        await settled()
        assert (peer.expects, len(peer.outcomes)) == (True, 1)
        # Those behind one that is not free wait for its commit.
        bench.store.hold()
        queue.request(ask("echo", 2))
        queue.request(ask("echo", 3))
        bench.store.release()
        await settled(1)
        while peer.heard("accepted")[-1][1] != 3:
            await settled(1)
        await settled(3)
        assert peer.expects is False
        await settled()
        # This one runs, and what comes behind it waits for it.
        for _ in range(2):
            queue.request(ask("wait"))
            await settled()
            assert peer.expects is False
        assert begun == [4]
        gate.set()


@virtual
async def test_an_outcome_is_told_after_its_commit_and_only_then_the_next_runs() -> None:
    wait, gate, begun = gated()
    async with serving(wait) as bench:
        queue, peer = await bench.open()
        queue.request(ask("wait"))
        queue.request(ask("wait"))
        await settled()
        assert begun == [1]
        bench.store.hold()
        gate.set()
        await settled()
        assert begun == [1]
        assert peer.outcomes == []
        bench.store.release()
        await settled()
        assert begun == [1, 2]
        assert peer.outcomes == [(1, "done", 1), (2, "done", 2)]


@virtual
async def test_one_at_a_time_whatever_arrives() -> None:
    running = most = 0

    async def work(request: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    async with serving(work) as bench:
        queue, peer = await bench.open()
        for n in range(30):
            queue.request(ask("work"))
            if n % 7 == 0:
                await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        assert [seq for seq, _, _ in peer.outcomes] == list(range(1, 31))
        assert most == 1


@virtual
async def test_sessions_run_beside_each_other() -> None:
    wait, gate, _ = gated()
    async with serving(wait) as bench:
        slow, _ = await bench.open()
        fast, peer = await bench.open()
        slow.request(ask("wait"))
        fast.request(ask("echo", 1))
        await settled()
        assert peer.outcomes == [(1, "done", 1)]
        gate.set()


@virtual
async def test_refusals_are_told_and_counted() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        queue.request(ask("nothing", id="a", seq=1))
        queue.request(ask("echo", id="b", seq=2))
        queue.request(ask("echo", id="c", seq=3))
        assert peer.said == [("refused", "request", "unknown_method", "a", {"seq": 1})]
        assert bench.metrics.refused == {"unknown_method": 1, "out_of_order": 2}
        queue.link = None
        queue.request(ask("nothing"))
        assert bench.metrics.refused["unknown_method"] == 2


@virtual
async def test_queue_full_in_flight_waiting_and_not_acknowledged() -> None:
    wait, gate, _ = gated()
    async with serving(wait, queue=2, unacked=3) as bench:
        queue, peer = await bench.open()
        bench.store.hold()
        for _ in range(3):
            queue.request(ask("wait"))
        assert peer.refusals == ["queue_full"]
        bench.store.release()
        await settled()
        queue.request(ask("wait"))
        assert peer.refusals == ["queue_full"] * 2
        gate.set()
        await settled()
        queue.request(ask("echo"))
        await settled()
        queue.request(ask("echo"))
        assert peer.refusals == ["queue_full"] * 3
        queue.acknowledge(1)
        queue.request(ask("echo"))
        await settled()
        assert [seq for seq, _, _ in peer.outcomes] == [1, 2, 3, 4]


@virtual
async def test_a_rate() -> None:
    async with serving(rate=2) as bench:
        queue, peer = await bench.open()
        for _ in range(4):
            queue.request(ask("echo"))
        assert peer.refusals == ["rate_limited"] * 2
        await asyncio.sleep(0.5)
        queue.request(ask("echo"))
        assert peer.refusals == ["rate_limited"] * 2


# ---- repeats


@virtual
async def test_a_repeat_in_each_stage() -> None:
    wait, gate, begun = gated()
    async with serving(wait) as bench:
        queue, peer = await bench.open()
        bench.store.hold()
        queue.request(ask("wait", id="a"))
        queue.request(ask("wait", id="a"))
        assert queue.session.last == 1
        bench.store.release()
        await settled()
        # Once for both: the answer to the first was still under way.
        assert peer.heard("accepted") == [("a", 1, 0)]
        queue.request(ask("wait", id="a"))
        queue.request(ask("echo", id="b"))
        await settled()
        queue.request(ask("echo", id="b"))
        assert peer.heard("accepted") == [("a", 1, 0), ("a", 1, 0), ("b", 2, 1), ("b", 2, 1)]
        gate.set()
        await settled()
        queue.request(ask("wait", id="a"))
        assert peer.heard("repeat") == [1]
        queue.acknowledge(1)
        queue.request(ask("wait", id="a"))
        assert peer.refusals == ["already_acknowledged"]
        queue.request(ask("wait", 7, id="b"))
        assert peer.refusals == ["already_acknowledged", "id_conflict"]
        assert begun == [1]
        queue.link = None
        queue.request(ask("echo", id="b"))


@virtual
async def test_who_asks_by_id_alone_is_answered_by_id() -> None:
    wait, gate, _ = gated()
    async with serving(wait) as bench:
        queue, _ = await bench.open()
        queue.request(ask("wait", id="a", seq=1))
        await settled()
        entry = queue.session.known("a")
        assert entry is not None
        queue.request(ask("wait", id="a", seq=1))
        assert entry.numbered
        queue.request(ask("wait", id="a"))
        assert not entry.numbered
        gate.set()


# ---- acknowledging


@virtual
async def test_acknowledged_outcomes_are_forgotten_by_the_store() -> None:
    async with serving(queue=2) as bench:
        queue, _ = await bench.open()
        for n in range(6):
            queue.request(ask("echo", n))
            await settled()
        queue.acknowledge(5)
        queue.acknowledge(3)
        queue.acknowledge(5)
        await settled()
        rows = bench.database.rows[queue.session.id]
        assert {seq: row.stripped for seq, row in rows.items()} == {4: True, 5: True, 6: False}
        assert len(queue.session._retained) == 3
        assert sum(len(group) for group in bench.store.groups) == 1 + 6 + 6 + 1


# ---- status


@virtual
async def test_status_says_how_it_stands() -> None:
    wait, gate, _ = gated()
    async with serving(wait) as bench:
        queue, _ = await bench.open()
        report = queue.status(None)
        assert (report.accepted, report.queued, report.running, report.requests) == (
            0,
            0,
            None,
            None,
        )
        queue.request(ask("echo", id="a"))
        await settled()
        queue.request(ask("wait", id="b"))
        queue.request(ask("echo", id="c"))
        await asyncio.sleep(1.5)
        queue.cancel("c")
        report = queue.status(1)
        assert (report.session, report.epoch) == (queue.session.id, 1)
        assert (report.accepted, report.settled, report.acked, report.queued) == (3, 1, 0, 2)
        assert report.running is not None
        assert (report.running.id, report.running.seq, report.running.attempt) == ("b", 2, 1)
        assert (report.running.for_s, report.running.overdue) == (1.5, False)
        assert report.requests is not None
        assert [line.state for line in report.requests] == ["done", "running", "cancelling"]
        gate.set()


@virtual
async def test_status_lists_at_most_a_hundred() -> None:
    async with serving() as bench:
        queue, _ = await bench.open()
        for n in range(130):
            queue.request(ask("echo", n))
        await asyncio.sleep(1)
        report = queue.status(20)
        assert report.requests is not None
        assert [line.seq for line in report.requests] == list(range(20, 120))


@virtual
async def test_status_of_one_that_waits_to_be_tried_again() -> None:
    @handler(attempts=2)
    async def fails(request: Any) -> None:
        raise RuntimeError("no")

    async with serving(fails) as bench:
        queue, peer = await bench.open()
        queue.request(ask("fails", id="a"))
        await settled()
        report = queue.status(None)
        assert report.running is None
        assert report.blocked is not None
        assert (report.blocked.id, report.blocked.code) == ("a", "handler_failed")
        assert 0.25 <= (report.blocked.next_retry_s or 0) <= 0.5
        await asyncio.sleep(1)
        assert peer.outcomes == [(1, "failed", "handler_failed")]
        assert queue.status(None).blocked is None


# ---- cancelling


@virtual
async def test_cancelling_what_is_not_there() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo", id="a"))
        await settled()
        queue.cancel("a")
        queue.acknowledge(1)
        queue.cancel("a")
        queue.cancel("zz")
        assert peer.refusals == ["not_found"] * 3
        assert peer.heard("cancelling") == []


@virtual
async def test_cancelling_while_it_is_committed() -> None:
    wait, _, begun = gated()
    async with serving(wait) as bench:
        queue, peer = await bench.open()
        bench.store.hold()
        queue.request(ask("wait", id="a"))
        await settled()
        queue.cancel("a")
        await settled()
        assert peer.said == []
        bench.store.release()
        await settled()
        assert [words[0] for words in peer.said] == ["accepted", "cancelling", "outcome"]
        assert peer.outcomes == [(1, "cancelled", "cancelled")]
        assert begun == []
        assert bench.store.row(queue.session.id, 1).cancel


@virtual
async def test_cancelling_while_it_waits_keeps_its_place() -> None:
    wait, gate, begun = gated()
    async with serving(wait) as bench:
        queue, peer = await bench.open()
        for id in "abc":
            queue.request(ask("wait", id=id))
        await settled()
        queue.cancel("b")
        await settled()
        assert peer.heard("cancelling") == ["b"]
        assert peer.outcomes == []
        gate.set()
        await settled()
        assert peer.outcomes == [(1, "done", 1), (2, "cancelled", "cancelled"), (3, "done", 3)]
        assert begun == [1, 3]


@virtual
async def test_a_cancel_is_told_once_durable_and_before_the_outcome() -> None:
    wait, _, _ = gated()
    async with serving(wait) as bench:
        queue, peer = await bench.open()
        queue.request(ask("wait", id="a"))
        await settled()
        bench.store.hold()
        queue.cancel("a")
        await settled()
        assert peer.heard("cancelling") == []
        bench.store.release()
        await settled()
        assert [words[0] for words in peer.said] == ["accepted", "cancelling", "outcome"]
        kinds = [type(w) for w in bench.store.writes()]
        assert kinds.index(MarkCancel) < kinds.index(Settle)


@virtual
async def test_cancelling_what_runs_ends_it_at_once() -> None:
    seen = []

    async def work(request: Any) -> str:
        try:
            await asyncio.sleep(50)
        except asyncio.CancelledError:
            seen.append(request.cancelled)
        # A cancel that was asked for wins, whatever is returned.
        return "done all the same"

    async with serving(work) as bench:
        queue, peer = await bench.open()
        queue.request(ask("work", id="a"))
        queue.request(ask("echo", 2))
        await settled()
        queue.cancel("a")
        await settled()
        assert seen == [True]
        assert peer.outcomes == [(1, "cancelled", "cancelled"), (2, "done", 2)]


@virtual
async def test_a_thread_that_is_cancelled_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    leave, began = threading.Event(), threading.Event()

    def work(request: Any) -> str:
        began.set()
        leave.wait(10)
        return f"cancelled: {request.cancelled}"

    async with serving(work) as bench:
        queue, peer = await bench.open()
        loop.threads = 1
        queue.request(ask("work", id="a"))
        while not began.is_set():
            await asyncio.sleep(0)
        queue.cancel("a")
        await settled()
        assert peer.heard("cancelling") == ["a"]
        assert peer.outcomes == []
        running = queue.status(None).running
        assert running is not None
        assert running.overdue
        leave.set()
        while not peer.outcomes:
            await asyncio.sleep(0)
        loop.threads = 0
        assert peer.outcomes == [(1, "cancelled", "cancelled")]


@virtual
async def test_cancelling_what_is_blocked() -> None:
    async with serving() as bench:
        bench.node.methods._by_name["gone"] = bench.node.methods._by_name["echo"]
        queue, peer = await bench.open()
        queue.request(ask("gone", id="a"))
        del bench.node.methods._by_name["gone"]
        queue.request(ask("echo", 2))
        await settled()
        blocked = queue.status(None).blocked
        assert blocked is not None
        assert (blocked.code, blocked.next_retry_s) == ("unknown_method", None)
        queue.cancel("a")
        await settled()
        assert peer.outcomes == [(1, "cancelled", "cancelled"), (2, "done", 2)]


@virtual
async def test_cancelling_what_waits_to_be_tried_again() -> None:
    @handler(attempts=5)
    async def fails(request: Any) -> None:
        raise RuntimeError("no")

    async with serving(fails) as bench:
        queue, peer = await bench.open()
        queue.request(ask("fails", id="a"))
        await settled()
        queue.cancel("a")
        await settled()
        assert peer.outcomes == [(1, "cancelled", "cancelled")]


@virtual
async def test_cancelling_what_settles_comes_too_late() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo", 1, id="a"))
        while not bench.store.groups:
            await asyncio.sleep(0)
        bench.store.hold()
        await settled()
        entry = queue.session.known("a")
        assert entry is not None
        assert entry.stage is Stage.SETTLING
        queue.cancel("a")
        assert peer.refusals == ["not_found"]
        bench.store.release()
        await settled()
        assert peer.outcomes == [(1, "done", 1)]


@virtual
async def test_many_that_were_cancelled_cost_one_commit() -> None:
    wait, gate, _ = gated()
    async with serving(wait) as bench:
        queue, peer = await bench.open()
        queue.request(ask("wait"))
        for n in range(20):
            queue.request(ask("wait", id=f"r{n}"))
        await settled()
        for n in range(20):
            if n != 10:
                queue.cancel(f"r{n}")
        await settled()
        before = len(bench.store.groups)
        gate.set()
        await settled()
        endings = [ending for _, ending, _ in peer.outcomes]
        assert endings == ["done"] + ["cancelled"] * 10 + ["done"] + ["cancelled"] * 9
        assert len(bench.store.groups) - before == 4


@virtual
async def test_a_flood_of_cancels_is_bounded() -> None:
    wait, gate, _ = gated()
    async with serving(wait) as bench:
        queue, peer = await bench.open()
        queue.request(ask("wait", id="a"))
        await settled()
        bench.journal._bytes = 1 << 40
        queue.cancel("a")
        assert peer.refusals == ["overloaded"]
        bench.journal._bytes = 0
        gate.set()


# ---- modes


@pytest.mark.parametrize("old", list(Mode))
@pytest.mark.parametrize("new", list(Mode))
def test_the_moves_that_are_allowed(old: Mode, new: Mode) -> None:
    allowed = {
        Mode.RUN: {Mode.FINISH, Mode.HOLD, Mode.CANCEL, Mode.STOP},
        Mode.FINISH: {Mode.RUN, Mode.HOLD, Mode.CANCEL, Mode.STOP},
        Mode.HOLD: {Mode.RUN, Mode.FINISH, Mode.CANCEL, Mode.STOP},
        Mode.CANCEL: {Mode.RUN, Mode.STOP},
        Mode.STOP: set(),
    }

    async def check() -> None:
        user = Identity("ada", False, 1)
        node = Bench().node
        session = Bench().registry._new_session(user)
        queue = Queue(node, session, user)
        queue.mode = old
        if new is old or new in allowed[old]:
            queue.turn(new)
            assert queue.mode is new
        else:
            with pytest.raises(ValueError, match=f"{old.name} to {new.name}"):
                queue.turn(new)
            assert queue.mode is old

    asyncio.run(check())


@virtual
async def test_finish_runs_all_that_was_accepted_and_what_is_on_its_way() -> None:
    wait, gate, begun = gated()
    async with serving(wait) as bench:
        queue, _ = await bench.open()
        bench.store.hold()
        for _ in range(3):
            queue.request(ask("wait"))
        await settled()
        queue.turn(Mode.FINISH)
        await settled()
        assert not queue.ended
        bench.store.release()
        gate.set()
        await settled()
        assert queue.ended
        assert begun == [1, 2, 3]


@virtual
async def test_hold_ends_after_the_running_one_and_what_is_on_its_way() -> None:
    wait, gate, begun = gated()
    async with serving(wait) as bench:
        queue, _ = await bench.open()
        queue.request(ask("wait"))
        queue.request(ask("wait"))
        await settled()
        queue.turn(Mode.HOLD)
        gate.set()
        await settled(3)
        bench.store.hold()
        queue.request(ask("wait"))
        await settled()
        assert not queue.ended
        bench.store.release()
        await settled()
        assert queue.ended
        assert begun == [1]
        assert queue.session.counts().pending == 2


@virtual
async def test_cancel_cancels_what_runs_waits_and_is_on_its_way() -> None:
    wait, _, begun = gated()
    async with serving(wait) as bench:
        queue, peer = await bench.open()
        queue.request(ask("wait"))
        queue.request(ask("wait"))
        await settled()
        bench.store.hold()
        queue.request(ask("wait"))
        await settled()
        queue.turn(Mode.CANCEL)
        await settled()
        assert not queue.ended
        bench.store.release()
        await settled()
        assert queue.ended
        assert [(seq, ending) for seq, ending, _ in peer.outcomes] == [
            (1, "cancelled"),
            (2, "cancelled"),
            (3, "cancelled"),
        ]
        assert begun == [1]


@virtual
async def test_an_attach_while_it_cancels_spares_what_comes_from_now_on() -> None:
    stubborn = asyncio.Event()

    async def work(request: Any) -> None:
        try:
            await asyncio.sleep(50)
        except asyncio.CancelledError:
            await stubborn.wait()

    async with serving(work) as bench:
        queue, _ = await bench.open()
        queue.request(ask("work"))
        queue.request(ask("work"))
        await settled()
        queue.turn(Mode.CANCEL)
        await settled()
        again = Peer()
        queue.attach(again)
        queue.request(ask("echo", 3))
        stubborn.set()
        await settled()
        assert again.outcomes == [
            (1, "cancelled", "cancelled"),
            (2, "cancelled", "cancelled"),
            (3, "done", 3),
        ]


# ---- an operator's word


@virtual
async def test_an_operator_says_retry_or_skip() -> None:
    tries = []

    @handler(attempts=2, on_exhausted="block")
    async def fails(request: Any) -> str:
        tries.append(request.attempt)
        if len(tries) < 4:
            raise RuntimeError("no")
        return "at last"

    async with serving(fails) as bench:
        queue, peer = await bench.open()
        assert not queue.operate("retry")
        queue.request(ask("fails", id="a"))
        queue.request(ask("echo", 2))
        await asyncio.sleep(5)
        blocked = queue.status(None).blocked
        assert blocked is not None
        assert (blocked.code, blocked.next_retry_s) == ("handler_failed", None)
        assert peer.outcomes == []
        assert queue.operate("retry")
        await asyncio.sleep(5)
        assert peer.outcomes == [(1, "done", "at last"), (2, "done", 2)]
        assert tries == [1, 2, 1, 2]


@virtual
async def test_what_an_operator_skips_fails_and_the_next_runs() -> None:
    @handler(on_exhausted="block")
    async def fails(request: Any) -> None:
        raise RuntimeError("no")

    async with serving(fails) as bench:
        queue, peer = await bench.open()
        queue.request(ask("fails", id="a"))
        queue.request(ask("echo", 2))
        await settled()
        assert queue.operate("skip")
        await settled()
        assert peer.outcomes == [(1, "failed", "skipped"), (2, "done", 2)]


@virtual
async def test_an_operator_need_not_wait_for_the_backoff() -> None:
    tries = []

    @handler(attempts=2)
    async def fails(request: Any) -> None:
        tries.append(asyncio.get_running_loop().time())
        raise RuntimeError("no")

    async with serving(fails) as bench:
        queue, peer = await bench.open()
        queue.request(ask("fails"))
        await settled()
        queue.operate("retry")
        await settled()
        assert tries[0] == tries[1]
        assert peer.outcomes == [(1, "failed", "handler_failed")]


# ---- trouble


@virtual
async def test_a_peer_that_fails_harms_neither_order_nor_the_rest() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        for fails_at in ("accepted", "outcome", "cancelling"):
            peer.fails_at = fails_at
            queue.request(ask("echo", 1, id=fails_at))
            queue.cancel(fails_at)
            await settled()
            assert queue.session.settled == queue.session.accepted
        peer.fails_at = None
        queue.request(ask("echo", 4))
        await settled()
        assert peer.outcomes[-1] == (4, "done", 4)


@virtual
async def test_a_fenced_session_says_nothing_more() -> None:
    wait, gate, _ = gated()
    async with serving(wait) as bench:
        queue, peer = await bench.open()
        other, other_peer = await bench.open()
        queue.request(ask("wait", id="a"))
        await settled()
        peer.said.clear()
        bench.store.take_away(queue.session.id)
        queue.request(ask("echo", id="b"))
        queue.cancel("a")
        other.request(ask("echo", 1))
        await settled()
        assert peer.said == [("shut", 4509, "moved")]
        assert queue.ended
        assert queue.link is None
        assert other_peer.outcomes == [(1, "done", 1)]
        assert queue.session.id not in bench.registry.queues
        gate.set()


@virtual
async def test_fenced_by_the_outcome_it_is_never_told() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo", 1))
        while not bench.store.groups:
            await asyncio.sleep(0)
        bench.store.take_away(queue.session.id)
        await settled()
        assert [words[0] for words in peer.said] == ["accepted", "shut"]
        assert bench.store.row(queue.session.id, 1).ending is None
        assert bench.metrics.settled == {}
        queue.fence()
        assert peer.closed == (4509, "moved")


@virtual
async def test_fenced_while_nobody_is_attached_and_it_stops_already() -> None:
    wait, _, _ = gated()
    async with serving(wait) as bench:
        queue, peer = await bench.open()
        queue.request(ask("wait"))
        await settled()
        bench.registry.detach(queue, peer)
        queue.turn(Mode.STOP)
        queue.fence()
        await settled()
        assert bench.registry.queues == {}
        assert [words[0] for words in peer.said] == ["accepted"]


@virtual
async def test_the_store_goes_away_and_nothing_is_lost_or_invented() -> None:
    wait, gate, _ = gated()
    async with serving(wait) as bench:
        queue, peer = await bench.open()
        queue.request(ask("wait", id="a"))
        await settled()
        bench.store.away = {"*"}
        gate.set()
        await asyncio.sleep(5)
        queue.request(ask("echo", id="b"))
        assert peer.refusals == ["store_unavailable"]
        assert peer.outcomes == []
        bench.store.away = set()
        await asyncio.sleep(2)
        assert peer.outcomes == [(1, "done", 1)]
        queue.request(ask("echo", 2, id="b"))
        await settled()
        assert peer.outcomes == [(1, "done", 1), (2, "done", 2)]


@virtual
async def test_waking_a_consumer_that_was_just_cancelled() -> None:
    bench = Bench(store=MemoryStore())
    await bench.start()
    queue, _ = await bench.open()
    await settled()
    queue.consumer.cancel()
    queue.notify()
    await settled()
    assert queue.ended
    await bench.stop()


# ---- parking


@virtual
async def test_a_blocked_head_waits_again_once_its_queue_is_parked() -> None:
    @handler(attempts=2, on_interrupt="fail")
    async def fails(request: Any) -> None:
        raise RuntimeError("no")

    async with serving(fails) as bench:
        queue, _ = await bench.open()
        queue.request(ask("fails"))
        await settled()
        bench.store.hold()
        queue.request(ask("echo", 2))
        queue.turn(Mode.FINISH)
        await settled()
        # What is on its way to the journal is waited for.
        assert not queue.ended
        bench.store.release()
        await settled()
        assert queue.ended
        assert queue.parked is not None
        assert queue.parked.until is not None
        head = queue.session.head()
        assert head is not None
        assert (head.seq, head.stage, head.attempt) == (1, Stage.WAITING, 0)


@virtual
async def test_a_queue_that_parks_is_called_back_by_an_attach_or_a_cancel() -> None:
    @handler(attempts=2)
    async def fails(request: Any) -> None:
        raise RuntimeError("no")

    for back in (Mode.RUN, Mode.CANCEL):
        async with serving(fails) as bench:
            queue, peer = await bench.open()
            queue.request(ask("fails"))
            await settled()
            bench.store.hold()
            queue.request(ask("echo", 2))
            queue.turn(Mode.FINISH)
            await settled()
            queue.turn(back)
            await settled()
            bench.store.release()
            await asyncio.sleep(5)
            how = "done" if back is Mode.RUN else "cancelled"
            assert [ending for _, ending, _ in peer.outcomes] == [
                "failed" if back is Mode.RUN else "cancelled",
                how,
            ]


@virtual
async def test_an_operator_means_the_head_that_blocks_and_no_other() -> None:
    wait, gate, _ = gated()
    async with serving(wait) as bench:
        queue, peer = await bench.open()
        assert not queue.operate("skip")
        queue.request(ask("wait", id="a"))
        await settled()
        assert not queue.operate("skip")
        assert not queue.operate("skip", "b")
        gate.set()
        await settled()
        assert peer.outcomes == [(1, "done", 1)]


@virtual
async def test_who_waits_for_a_quiet_queue_need_not_wait_for_a_silent_one() -> None:
    async with serving() as bench:
        queue, _ = await bench.open()
        await queue.quiet()
        bench.store.hold()
        queue.request(ask("echo"))
        waiting = asyncio.create_task(queue.quiet())
        await settled()
        assert not waiting.done()
        bench.store.release()
        await waiting
