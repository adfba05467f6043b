"""How a request comes to its outcome: attempts, backoff, start marks, suspects, blocking."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from node_bench import Bench, Peer, after_a_crash, ask, serving, settled, tasks
from virtual_time import virtual

from inorder_server.execution import backoff, failure
from inorder_server.handlers import RequestError, Retry, handler
from inorder_server.queue import Queue
from inorder_server.stores.port import MarkStart


def marks(bench: Bench) -> list[int]:
    """The start marks that were written, in order."""
    return [w.attempt for w in bench.store.writes(MarkStart)]


# ---- arithmetic


@pytest.mark.parametrize(
    ("tries", "jitter", "seconds"),
    [(1, 0, 0.5), (1, 1, 0.25), (2, 0, 1), (3, 0, 2), (7, 0, 32), (8, 0, 60), (99, 0, 60)],
)
def test_the_backoff_doubles_to_a_minute(tries: int, jitter: float, seconds: float) -> None:
    assert backoff(tries, jitter) == seconds


def test_failures_by_kind() -> None:
    assert failure("a", "b") == ("failed", b'{"code":"a","message":"b"}')
    assert failure("cancelled", "b")[0] == "cancelled"
    assert failure("a", "b", {"n": 1})[1] == b'{"code":"a","message":"b","details":{"n":1}}'


# ---- outcomes


@virtual
async def test_what_handlers_do_becomes_outcomes() -> None:
    async def answers(request: Any) -> None:
        raise RequestError("no_money", "too poor", {"missing": 5})

    async def breaks(request: Any) -> None:
        raise RuntimeError("secret words")

    @handler(timeout=2)
    async def lingers(request: Any) -> None:
        await asyncio.sleep(100)

    async def floods(request: Any) -> str:
        return "x" * 20_000

    async with serving(answers, breaks, lingers, floods) as bench:
        queue, peer = await bench.open()
        for name in ("answers", "breaks", "lingers", "floods"):
            queue.request(ask(name))
        queue.request(ask("lingers", timeout=0.5))
        await asyncio.sleep(10)
        assert peer.outcomes == [
            (1, "failed", "no_money"),
            (2, "failed", "handler_failed"),
            (3, "failed", "timed_out"),
            (4, "failed", "result_too_large"),
            (5, "failed", "timed_out"),
        ]
        assert peer.heard("outcome")[0][2] == {
            "code": "no_money",
            "message": "too poor",
            "details": {"missing": 5},
        }
        assert "secret" not in str(peer.said)


@virtual
async def test_progress_goes_to_whoever_is_attached() -> None:
    gate = asyncio.Event()

    @handler(attempts=2)
    async def work(request: Any) -> None:
        request.progress("one")
        request.progress("two")
        await gate.wait()
        gate.clear()
        request.progress("three")
        raise Retry(1)

    async with serving(work) as bench:
        queue, peer = await bench.open()
        queue.request(ask("work"))
        await settled()
        assert peer.heard("progress") == [(1, 1, 1, "one"), (1, 1, 2, "two")]
        _, again = await bench.open(queue.session.id)
        gate.set()
        await asyncio.sleep(2)
        assert again.heard("progress") == [(1, 1, 3, "three"), (1, 2, 1, "one"), (1, 2, 2, "two")]
        queue.link = None
        gate.set()
        await asyncio.sleep(2)
        assert len(again.heard("progress")) == 3
        queue.link = again


@virtual
async def test_what_the_handler_sees() -> None:
    seen: list[Any] = []

    async def look(request: Any) -> None:
        seen.append(request)

    async with serving(look) as bench:
        queue, _ = await bench.open(user="root", admin=True)
        message = ask("look", id="a", timeout=5)
        message.traceparent = "00-x"
        queue.request(message)
        await settled()
    (request,) = seen
    assert (request.user.name, request.user.admin) == ("root", True)
    assert (request.session, request.id, request.seq, request.attempt) == (
        queue.session.id,
        "a",
        1,
        1,
    )
    assert request.traceparent == "00-x"


@virtual
async def test_params_that_no_longer_fit_after_a_deploy() -> None:
    async def old(request: Any, a: int) -> None:
        await asyncio.sleep(3600)

    async def new(request: Any, a: int, b: int) -> None:
        return None

    old.__name__ = new.__name__ = "work"
    dead = Bench(old)
    await dead.start()
    queue, _ = await dead.open()
    queue.request(ask("work", {"a": 1}))
    await settled()
    async with after_a_crash(dead, new) as bench:
        _, peer = await bench.open(queue.session.id)
        await settled()
        assert peer.outcomes == [(1, "failed", "handler_failed")]


# ---- attempts


@virtual
async def test_each_attempt_has_arguments_of_its_own() -> None:
    seen: list[Any] = []

    @handler(attempts=2)
    async def changes(request: Any, items: list[int]) -> None:
        seen.append(list(items))
        items.clear()
        if len(seen) == 1:
            raise Retry(0)

    async with serving(changes) as bench:
        queue, peer = await bench.open()
        queue.request(ask("changes", {"items": [1, 2]}))
        await settled()
        assert peer.outcomes == [(1, "done", None)]
        assert seen == [[1, 2], [1, 2]]


@virtual
async def test_attempts_with_backoff_while_the_queue_waits() -> None:
    at: list[float] = []

    @handler(attempts=3)
    async def fails(request: Any) -> None:
        at.append(asyncio.get_running_loop().time())
        assert request.attempt == len(at)
        raise RuntimeError("no")

    async with serving(fails) as bench:
        queue, peer = await bench.open()
        queue.request(ask("fails"))
        queue.request(ask("echo", 2))
        await asyncio.sleep(0.1)
        assert peer.outcomes == []
        await asyncio.sleep(5)
        assert 0.25 <= at[1] - at[0] <= 0.51
        assert 0.5 <= at[2] - at[1] <= 1.01
        assert peer.outcomes == [(1, "failed", "handler_failed"), (2, "done", 2)]
        assert marks(bench) == []


@virtual
async def test_retry_says_when() -> None:
    at: list[float] = []

    @handler(attempts=3)
    async def later(request: Any) -> str:
        at.append(asyncio.get_running_loop().time())
        if len(at) < 3:
            raise Retry(after=0 if len(at) == 1 else 7)
        return "done"

    async with serving(later) as bench:
        queue, peer = await bench.open()
        queue.request(ask("later"))
        await asyncio.sleep(10)
        assert at[1] == at[0]
        assert at[2] - at[1] == pytest.approx(7, abs=0.01)
        assert peer.outcomes == [(1, "done", "done")]


@virtual
async def test_only_what_may_be_decided_otherwise_blocks() -> None:
    @handler(on_exhausted="block")
    async def answers(request: Any) -> None:
        raise RequestError("final", "an answer")

    @handler(on_exhausted="block", timeout=1)
    async def lingers(request: Any) -> None:
        await asyncio.sleep(100)

    async with serving(answers, lingers) as bench:
        queue, peer = await bench.open()
        queue.request(ask("answers"))
        queue.request(ask("lingers"))
        await asyncio.sleep(5)
        assert peer.outcomes == [(1, "failed", "final")]
        blocked = queue.status(None).blocked
        assert blocked is not None
        assert blocked.code == "timed_out"
        queue.operate("skip")
        await settled()
        assert peer.outcomes[1] == (2, "failed", "skipped")


@virtual
async def test_a_method_that_is_gone_after_a_deploy_blocks_until_it_is_back() -> None:
    async with serving() as bench:
        methods = bench.node.methods._by_name
        methods["gone"] = methods["echo"]
        queue, peer = await bench.open()
        queue.request(ask("gone", 1))
        queue.request(ask("gone", 2))
        del methods["gone"]
        await settled()
        assert queue.operate("retry")
        await settled()
        blocked = queue.status(None).blocked
        assert blocked is not None
        assert blocked.code == "unknown_method"
        methods["gone"] = methods["echo"]
        assert queue.operate("retry")
        await settled()
        assert peer.outcomes == [(1, "done", 1), (2, "done", 2)]


@virtual
async def test_a_method_that_is_gone_for_good_is_skipped() -> None:
    async with serving() as bench:
        methods = bench.node.methods._by_name
        methods["gone"] = methods["echo"]
        queue, peer = await bench.open()
        queue.request(ask("gone", 1))
        del methods["gone"]
        await settled()
        assert queue.operate("skip")
        await settled()
        assert peer.outcomes == [(1, "failed", "skipped")]


# ---- parking


@virtual
async def test_tries_and_backoff_survive_parking() -> None:
    at: list[tuple[int, float]] = []

    @handler(attempts=3)
    async def fails(request: Any) -> None:
        at.append((request.attempt, asyncio.get_running_loop().time()))
        raise Retry(after=100)

    async with serving(fails) as bench:
        queue, peer = await bench.open()
        queue.request(ask("fails"))
        await settled()
        bench.registry.detach(queue, peer)
        await settled()
        assert bench.registry.queues == {}
        _, again = await bench.open(queue.session.id)
        await asyncio.sleep(250)
        assert again.outcomes == [(1, "failed", "handler_failed")]
        assert [n for n, _ in at] == [1, 2, 3]
        # The resume did not shorten the wait.
        assert [round(at[n + 1][1] - at[n][1]) for n in (0, 1)] == [100, 100]


@virtual
async def test_what_waits_for_an_operator_still_does_after_a_resume() -> None:
    runs: list[int] = []

    @handler(on_exhausted="block")
    async def fails(request: Any) -> None:
        runs.append(request.seq)
        raise RuntimeError("no")

    async with serving(fails) as bench:
        queue, peer = await bench.open()
        queue.request(ask("fails", id="a"))
        await settled()
        bench.registry.detach(queue, peer)
        await settled()
        again, peer = await bench.open(queue.session.id)
        await asyncio.sleep(1000)
        blocked = again.status(None).blocked
        assert blocked is not None
        assert blocked.next_retry_s is None
        assert runs == [1]
        assert again.operate("retry")
        await settled()
        assert runs == [1, 1]


@virtual
async def test_a_resume_while_it_parks_gets_that_very_queue() -> None:
    @handler(attempts=2)
    async def fails(request: Any) -> None:
        raise Retry(5)

    async with serving(fails) as bench:
        queue, peer = await bench.open()
        queue.request(ask("fails"))
        await settled()
        bench.store.hold()
        queue.request(ask("echo", 2))
        bench.registry.detach(queue, peer)
        await settled()
        assert not queue.ended
        resuming = asyncio.create_task(bench.open(queue.session.id))
        await settled()
        bench.store.release()
        same, again = await resuming
        assert same is queue
        await asyncio.sleep(10)
        assert again.outcomes == [(1, "failed", "handler_failed"), (2, "done", 2)]


# ---- interruptions


async def crashed(*functions: Any, requests: int = 1, **options: Any) -> tuple[Bench, Queue]:
    """A process that was killed while a request ran."""
    dead = Bench(*functions, **options)
    await dead.start()
    queue, _ = await dead.open()
    for n in range(requests):
        queue.request(ask("work", id=f"r{n}"))
    await settled()
    return dead, queue


@virtual
async def test_a_first_run_has_no_mark() -> None:
    async with serving() as bench:
        queue, _ = await bench.open()
        queue.request(ask("echo"))
        await settled()
        assert marks(bench) == []


@virtual
async def test_only_the_head_that_may_have_run_is_marked_before_it_runs_again() -> None:
    seen: list[tuple[int, int, int]] = []
    benches: list[Bench] = []

    async def work(request: Any) -> None:
        mark = benches[-1].store.row(request.session, request.seq).attempt
        seen.append((request.seq, request.attempt, mark))
        if len(benches) == 1:
            await asyncio.sleep(1000)

    dead = Bench(work)
    benches.append(dead)
    await dead.start()
    queue, _ = await dead.open()
    queue.request(ask("work"))
    queue.request(ask("work"))
    await settled()
    async with after_a_crash(dead) as bench:
        benches.append(bench)
        assert await bench.registry.adopt() == 1
        await asyncio.sleep(1)
        assert seen == [(1, 1, 0), (1, 2, 1), (2, 1, 0)]
        assert marks(bench) == [1]
        assert bench.registry.queues == {}


@virtual
async def test_a_clean_stop_counts_for_nothing() -> None:
    attempts: list[int] = []

    async def work(request: Any) -> None:
        attempts.append(request.attempt)
        if len(attempts) <= 3:
            await asyncio.sleep(1000)

    first = Bench(work, drain=0.5)
    await first.start()
    queue, _ = await first.open()
    queue.request(ask("work"))
    await settled()
    assert await first.stop() == []
    for _ in range(2):
        async with serving(work, store=first.store, name="next", drain=0.5) as bench:
            assert await bench.registry.adopt() == 1
            await settled()
    async with serving(work, store=first.store, name="last") as bench:
        assert await bench.registry.adopt() == 1
        await settled()
        assert bench.store.row(queue.session.id, 1).ending == "done"
    assert attempts == [1, 1, 1, 1]
    assert marks(bench) == []


@virtual
async def test_too_many_interruptions_end_it() -> None:
    runs: list[int] = []

    async def work(request: Any) -> None:
        runs.append(request.attempt)
        await asyncio.sleep(1000)

    dead, queue = await crashed(work, max_interrupts=2, requests=2)
    for n in range(2):
        await dead.die()
        dead = Bench(work, store=dead.store, name=f"n{n}", max_interrupts=2)
        await dead.start()
        await dead.registry.adopt()
        await settled()
    async with after_a_crash(dead) as bench:
        _, peer = await bench.open(queue.session.id, seq=0)
        await settled()
        assert peer.outcomes == [(1, "failed", "interrupted")]
        # The next one has not run: it does now, and was never marked.
        assert runs == [1, 2, 3, 1]
        assert bench.store.row(queue.session.id, 2).attempt == 0
        peer.said.clear()
        bench.registry.queues[queue.session.id].cancel("r1")
        await settled()


async def twice_interrupted(work: Any, sessions: int) -> Bench:
    """A process that was killed for the second time, with one running head a session."""
    dead = Bench(work)
    await dead.start()
    for _ in range(sessions):
        queue, _ = await dead.open()
        queue.request(ask("work", id="r0"))
    await settled()
    await dead.die()
    again = Bench(work, store=dead.store, name="n2")
    await again.start()
    assert await again.registry.adopt() == sessions
    await settled()
    return again


@virtual
async def test_suspects_run_one_at_a_time_and_are_marked_only_then() -> None:
    running = most = 0

    async def work(request: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(10)
        finally:
            running -= 1

    dead = await twice_interrupted(work, 4)
    assert most == 4
    async with after_a_crash(dead, drain=100) as bench:
        most = 0
        await bench.registry.adopt()
        await asyncio.sleep(5)
        rows = [row[1].attempt for row in bench.database.rows.values()]
        # Those that wait their turn have no further mark: they took no part in a crash.
        assert sorted(rows) == [1, 1, 1, 2]
        await asyncio.sleep(50)
        assert most == 1
        assert [row[1].ending for row in bench.database.rows.values()] == ["done"] * 4
        assert bench.node.suspects.enter() is None


@virtual
async def test_a_suspect_that_is_blocked_keeps_no_other_from_running() -> None:
    fate: list[str] = []

    @handler(on_exhausted="block")
    async def work(request: Any) -> None:
        if not fate:
            await asyncio.sleep(1000)
        if fate.pop() == "fails":
            raise RuntimeError("no")

    dead = await twice_interrupted(work, 2)
    fate += ["done", "fails"]
    one, other = dead.database.rows
    async with after_a_crash(dead) as bench:
        queue, _ = await bench.open(one)
        await settled()
        assert queue.block is not None
        _, peer = await bench.open(other)
        await settled()
        assert peer.outcomes == [(1, "done", None)]


@virtual
async def test_a_suspect_that_waits_its_turn_can_be_cancelled() -> None:
    async def work(request: Any) -> None:
        await asyncio.sleep(1000)

    dead = await twice_interrupted(work, 3)
    first, second, third = dead.database.rows
    async with after_a_crash(dead, on_disconnect="cancel") as bench:
        await bench.open(first)
        await settled()
        queue, peer = await bench.open(second)
        gone, leaver = await bench.open(third)
        await settled()
        queue.cancel("r0")
        bench.registry.detach(gone, leaver)
        await settled()
        assert peer.outcomes == [(1, "cancelled", "cancelled")]
        assert bench.store.row(second, 1).attempt == 1
        assert bench.store.row(third, 1).ending == "cancelled"
        bench.registry.queues[first].cancel("r0")
        await settled()
        assert bench.node.suspects.enter() is None


@virtual
async def test_a_consumer_that_is_stopped_while_it_waits_gives_its_turn_back() -> None:
    async def work(request: Any) -> None:
        await asyncio.sleep(1000)

    dead = await twice_interrupted(work, 4)
    first, early, second, third = dead.database.rows
    async with after_a_crash(dead) as bench:
        await bench.open(first)
        await settled()
        waits, _ = await bench.open(early)
        queue, _ = await bench.open(second)
        await bench.open(third)
        await settled()
        waits.consumer.cancel()
        await settled()
        # In one turn of the loop it gets its turn and is cancelled.
        bench.registry.queues[first].consumer.cancel()
        while bench.registry.queues[first].running is not None:
            await asyncio.sleep(0)
        queue.consumer.cancel()
        await settled()
        running = bench.registry.queues[third].status(None).running
        assert running is not None
        assert bench.store.row(third, 1).attempt == 2


@virtual
async def test_cancelled_while_its_start_is_marked_it_never_starts() -> None:
    runs: list[int] = []

    async def work(request: Any) -> None:
        runs.append(request.attempt)
        await asyncio.sleep(1000)

    dead, queue = await crashed(work)
    async with after_a_crash(dead) as bench:
        opening = asyncio.create_task(bench.open(queue.session.id))
        while not bench.registry.queues:
            await asyncio.sleep(0)
        bench.store.hold()
        await settled()
        bench.registry.queues[queue.session.id].cancel("r0")
        bench.store.release()
        _, peer = await opening
        await settled()
        assert peer.outcomes == [(1, "cancelled", "cancelled")]
        assert runs == [1]


# ---- on_interrupt="fail"


@virtual
async def test_what_must_not_run_twice_is_marked_before_its_first_run() -> None:
    benches: list[Bench] = []
    runs: list[int] = []

    @handler(on_interrupt="fail")
    async def work(request: Any) -> None:
        assert benches[-1].store.row(request.session, request.seq).attempt == 1
        runs.append(request.attempt)
        await asyncio.sleep(1000)

    dead = Bench(work)
    benches.append(dead)
    await dead.start()
    queue, _ = await dead.open()
    queue.request(ask("work", id="a"))
    queue.request(ask("echo", 2))
    await settled()
    assert runs == [1]
    async with after_a_crash(dead) as bench:
        _, peer = await bench.open(queue.session.id)
        await settled()
        assert peer.outcomes == [(1, "failed", "interrupted"), (2, "done", 2)]
        assert runs == [1]


@virtual
async def test_what_must_not_run_twice_runs_where_it_never_began() -> None:
    runs: list[int] = []

    @handler(on_interrupt="fail")
    async def work(request: Any) -> None:
        runs.append(request.attempt)

    async def before(request: Any) -> None:
        await asyncio.sleep(1000)

    dead = Bench(before, work)
    await dead.start()
    queue, _ = await dead.open()
    queue.request(ask("before", id="a"))
    queue.request(ask("work", id="b"))
    await settled()
    queue.cancel("a")
    # Killed when the mark of the second was not yet written.
    while queue.session.settled < 1:
        await asyncio.sleep(0)
    async with after_a_crash(dead) as bench:
        _, peer = await bench.open(queue.session.id)
        await settled()
        assert peer.outcomes == [(2, "done", None)]
        assert runs == [1]


@virtual
async def test_a_failed_attempt_that_waits_was_not_interrupted() -> None:
    runs: list[int] = []

    @handler(on_interrupt="fail", attempts=2)
    async def work(request: Any) -> str:
        runs.append(request.attempt)
        if len(runs) == 1:
            raise Retry(after=50)
        return "done"

    async with serving(work) as bench:
        queue, peer = await bench.open()
        queue.request(ask("work"))
        await settled()
        assert bench.store.row(queue.session.id, 1).attempt == 0
        bench.registry.detach(queue, peer)
        await settled()
        assert bench.registry.queues == {}
        _, again = await bench.open(queue.session.id)
        await asyncio.sleep(60)
        assert again.outcomes == [(1, "done", "done")]
        assert runs == [1, 2]
        assert marks(bench) == [1, 0, 1]


@virtual
async def test_killed_while_an_attempt_waits_it_is_tried_again() -> None:
    runs: list[int] = []

    @handler(on_interrupt="fail", attempts=2)
    async def work(request: Any) -> str:
        runs.append(request.attempt)
        if len(runs) == 1:
            raise Retry(after=50)
        return "done"

    dead, queue = await crashed(work)
    async with after_a_crash(dead) as bench:
        _, peer = await bench.open(queue.session.id)
        await settled()
        assert peer.outcomes == [(1, "done", "done")]


@virtual
async def test_cancelled_while_its_first_start_is_marked() -> None:
    runs: list[int] = []

    @handler(on_interrupt="fail")
    async def work(request: Any) -> None:
        runs.append(1)

    async with serving(work) as bench:
        queue, peer = await bench.open()
        queue.request(ask("work", id="a"))
        while not peer.said:
            await asyncio.sleep(0)
        bench.store.hold()
        await settled()
        queue.cancel("a")
        bench.store.release()
        await settled()
        assert peer.outcomes == [(1, "cancelled", "cancelled")]
        assert runs == []


@virtual
async def test_fenced_while_its_start_is_marked_it_never_starts() -> None:
    runs: list[int] = []

    @handler(on_interrupt="fail")
    async def work(request: Any) -> None:
        runs.append(1)

    async with serving(work) as bench:
        queue, peer = await bench.open()
        queue.request(ask("work", id="a"))
        while not peer.said:
            await asyncio.sleep(0)
        bench.store.take_away(queue.session.id)
        await settled()
        assert runs == []
        assert peer.closed == (4509, "moved")
        assert [name for name in tasks() if queue.session.id in name] == []


@virtual
async def test_a_cancel_that_was_answered_survives_a_crash() -> None:
    runs: list[int] = []

    async def work(request: Any) -> None:
        runs.append(request.seq)
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(1000)

    dead = Bench(work)
    await dead.start()
    queue, peer = await dead.open()
    for id in "abc":
        queue.request(ask("work", id=id))
    await settled()
    queue.cancel("a")
    queue.cancel("c")
    await settled()
    assert peer.heard("cancelling") == ["a", "c"]
    async with after_a_crash(dead) as bench:
        again = Peer()
        resumed, _ = await bench.open(queue.session.id, peer=again)
        await settled()
        assert again.outcomes == [(1, "cancelled", "cancelled")]
        resumed.cancel("b")
        await asyncio.sleep(1001)
        assert [(seq, how) for seq, how, _ in again.outcomes] == [
            (1, "cancelled"),
            (2, "cancelled"),
            (3, "cancelled"),
        ]
        assert runs == [1, 2]
