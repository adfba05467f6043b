"""Running handlers: time, cancellation, threads, slots, progress."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from inorder_server import Request, RequestError, Retry, User, handler, lifespan
from inorder_server.handlers.api import options_of
from inorder_server.handlers.methods import Method, Methods
from inorder_server.handlers.runner import Again, Cancelled, Done, Failed, Runner

Until = Callable[[Callable[[], object]], Awaitable[None]]
TIMED_OUT = Failed("timed_out", "it took more than 60 s")
HANDLER_FAILED = Failed("handler_failed", "the handler failed")


async def forever(request: Request) -> None:
    await asyncio.Event().wait()


async def quick(request: Request) -> str:
    return "quick"


def task_is_clean() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() == 0


class Consumer:
    """A task that runs attempts one after the other, as a session's queue does."""

    def __init__(self, bench: Any, *attempts: Any) -> None:
        self.verdicts: list[Any] = []
        self.counts: list[int] = []
        self.task = asyncio.create_task(self._run(bench.runner, attempts))

    async def _run(self, runner: Runner, attempts: tuple[Any, ...]) -> None:
        task = asyncio.current_task()
        assert task is not None
        for attempt in attempts:
            self.verdicts.append(await runner.run(attempt))
            self.counts.append(task.cancelling())
            await asyncio.sleep(0)  # A cancellation that was left over would show here.


# ---- on the loop


async def test_what_it_returns_and_raises(bench: Any) -> None:
    async def returns(request: Request, a: int, *, b: int = 2) -> list[int]:
        return [a, b]

    async def refuses(request: Request) -> None:
        raise RequestError("no", "no", [1])

    async def fails(request: Request) -> None:
        raise ValueError("secret")

    async def retries(request: Request) -> None:
        await asyncio.sleep(0)
        raise Retry(3)

    await bench.take(returns, refuses, fails, retries)
    run = bench.runner.run
    assert await run(bench.attempt(returns, b"[1]")) == Done(b"[1,2]")
    assert await run(bench.attempt(returns, b'{"a":1,"b":7}')) == Done(b"[1,7]")
    assert await run(bench.attempt(refuses)) == Failed("no", "no", [1])
    assert await run(bench.attempt(fails)) == HANDLER_FAILED
    assert await run(bench.attempt(fails, last=False)) == Again(None, "handler_failed")
    assert await run(bench.attempt(retries, last=False)) == Again(3, "handler_failed")
    assert await run(bench.attempt(retries)) == HANDLER_FAILED


async def test_it_runs_in_the_callers_task_and_sees_its_request(bench: Any) -> None:
    seen: list[Any] = []

    @handler(timeout=30)
    async def look(request: Request) -> None:
        seen.extend([asyncio.current_task(), request])

    await bench.take(look)
    attempt = bench.attempt(look, seq=7, attempt=2, timeout=10)
    bench.time.advance(5)
    assert await bench.runner.run(attempt) == Done(b"null")
    task, request = seen
    assert task is asyncio.current_task()
    assert request is attempt.request
    assert (request.user, request.session, request.id) == (User("ada"), "s", "id7")
    assert (request.seq, request.attempt, request.key) == (7, 2, "s:7")
    assert request.deadline == 1_001_005 + 10
    assert attempt.started == 1005
    assert request.resources is None
    assert request.traceparent is None
    assert bench.attempt(look).timeout == 30
    assert bench.attempt(look, timeout=31).timeout == 30


async def test_a_handler_that_never_suspends_needs_no_timer(bench: Any) -> None:
    assert await bench.call(quick) == Done(b'"quick"')
    assert bench.time.alarms == []


async def test_an_attempt_runs_once(bench: Any) -> None:
    await bench.take(quick)
    attempt = bench.attempt(quick)
    await bench.runner.run(attempt)
    with pytest.raises(RuntimeError, match="runs once"):
        await bench.runner.run(attempt)


async def test_time_is_up(bench: Any, until: Until) -> None:
    await bench.take(forever, quick)
    attempts = [bench.attempt(forever), bench.attempt(forever, last=False), bench.attempt(quick)]
    consumer = Consumer(bench, *attempts)
    for attempt in attempts[:2]:
        await until(lambda: bench.time.alarms)
        assert bench.time.alarms[0].due == bench.time.now + 60
        bench.time.advance(59)
        await asyncio.sleep(0)
        assert not attempt.request.cancelled
        bench.time.advance(1)
        assert attempt.request.cancelled
    await consumer.task
    assert consumer.verdicts == [TIMED_OUT, Again(None, "timed_out"), Done(b'"quick"')]
    assert consumer.counts == [0, 0, 0]


async def test_time_in_the_first_step_counts(bench: Any, until: Until) -> None:
    async def slow_to_suspend(request: Request) -> None:
        bench.time.advance(50)
        await asyncio.Event().wait()

    await bench.take(slow_to_suspend)
    task = bench.start(bench.attempt(slow_to_suspend))
    await until(lambda: bench.time.alarms)
    assert bench.time.alarms[0].due == bench.time.now + 10
    bench.time.advance(10)
    assert await task == TIMED_OUT


async def test_the_timer_goes_with_the_attempt(bench: Any) -> None:
    async def suspends(request: Request) -> None:
        await asyncio.sleep(0)

    assert await bench.call(suspends) == Done(b"null")
    assert bench.time.alarms[0].cancelled
    bench.time.alarms[0].call()  # One that was under way already.
    assert task_is_clean()


@pytest.mark.parametrize("ending", ["returns", "fails", "refuses"])
async def test_one_that_goes_on_is_overdue_and_awaited(
    bench: Any, until: Until, ending: str, logs: list[Any]
) -> None:
    go = asyncio.Event()
    stubborn = asyncio.Event()

    async def swallows(request: Request) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stubborn.set()
        await go.wait()
        if ending == "fails":
            raise ValueError("late")
        if ending == "refuses":
            raise RequestError("late", "late")
        return "late"

    await bench.take(swallows, quick)
    attempt = bench.attempt(swallows)
    consumer = Consumer(bench, attempt, bench.attempt(quick))
    await until(lambda: bench.time.alarms)
    assert not attempt.overdue
    bench.time.advance(60)
    await stubborn.wait()
    assert attempt.overdue
    assert consumer.verdicts == []
    go.set()
    await consumer.task
    assert not attempt.overdue
    assert consumer.verdicts == [TIMED_OUT, Done(b'"quick"')]
    assert consumer.counts == [0, 0]
    assert any(record["exception"] for record in logs) == (ending != "returns")


async def test_cancelled_while_it_runs(bench: Any, until: Until) -> None:
    await bench.take(forever, quick)
    attempt = bench.attempt(forever)
    consumer = Consumer(bench, attempt, bench.attempt(quick))
    await until(lambda: bench.time.alarms)
    attempt.cancel()
    attempt.cancel()
    assert attempt.overdue
    assert attempt.request.cancelled
    await consumer.task
    assert consumer.verdicts == [Cancelled(), Done(b'"quick"')]
    assert consumer.counts == [0, 0]
    attempt.cancel()  # It has ended: this must not hit anybody.
    await asyncio.sleep(0)
    assert task_is_clean()


async def test_cancelled_before_it_runs(bench: Any) -> None:
    ran: list[int] = []

    async def runs(request: Request) -> None:
        ran.append(1)

    await bench.take(runs)
    attempt = bench.attempt(runs)
    attempt.cancel()
    assert not attempt.overdue
    assert await bench.runner.run(attempt) == Cancelled()
    assert ran == []


async def test_a_cancellation_outweighs_a_timeout(bench: Any, until: Until) -> None:
    caught: list[int] = []

    async def swallows_one(request: Request) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            caught.append(1)
        await asyncio.Event().wait()

    await bench.take(swallows_one, quick)
    attempt = bench.attempt(swallows_one)
    consumer = Consumer(bench, attempt, bench.attempt(quick))
    await until(lambda: bench.time.alarms)
    bench.time.advance(60)
    await until(lambda: caught)
    attempt.cancel()
    await consumer.task
    assert consumer.verdicts == [Cancelled(), Done(b'"quick"')]
    assert consumer.counts == [0, 0]


async def test_a_timeout_after_a_cancellation_changes_nothing(bench: Any, until: Until) -> None:
    await bench.take(forever)
    attempt = bench.attempt(forever)
    consumer = Consumer(bench, attempt)
    await until(lambda: bench.time.alarms)
    attempt.cancel()
    bench.time.advance(60)
    await consumer.task
    assert consumer.verdicts == [Cancelled()]
    assert consumer.counts == [0]


async def test_cancelled_by_itself_from_within_its_step(bench: Any) -> None:
    """What it calls in a step may lead to ``cancel`` of the same attempt."""
    box: list[Any] = []

    async def cancels(request: Request, suspend: bool) -> str:
        box[-1].cancel()
        if suspend:
            await asyncio.Event().wait()
        return "done"

    await bench.take(cancels, quick)
    box.append(bench.attempt(cancels, b"true"))
    consumer = Consumer(bench, box[0])
    await consumer.task
    box.append(bench.attempt(cancels, b"false"))
    second = Consumer(bench, box[1], bench.attempt(quick))
    await second.task
    assert consumer.verdicts + second.verdicts == [Cancelled(), Cancelled(), Done(b'"quick"')]
    assert consumer.counts + second.counts == [0, 0, 0]


# ---- who cancelled whom


async def test_a_foreign_cancellation_comes_out(bench: Any, until: Until) -> None:
    await bench.take(forever)
    attempt = bench.attempt(forever)
    consumer = Consumer(bench, attempt)
    await until(lambda: bench.time.alarms)
    consumer.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer.task
    assert consumer.task.cancelled()
    assert bench.time.alarms[0].cancelled
    assert not attempt.overdue


@pytest.mark.parametrize("first", ["timeout", "cancel", "foreign"])
async def test_a_foreign_cancellation_comes_out_beside_others(
    bench: Any, until: Until, first: str
) -> None:
    await bench.take(forever)
    attempt = bench.attempt(forever)
    consumer = Consumer(bench, attempt)
    await until(lambda: bench.time.alarms)
    if first == "foreign":
        consumer.task.cancel()
    if first != "cancel":
        bench.time.advance(60)
    if first != "timeout":
        attempt.cancel()
    if first != "foreign":
        consumer.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer.task
    assert consumer.verdicts == []


@pytest.mark.parametrize("ending", ["returns", "raises"])
async def test_a_foreign_cancellation_that_was_swallowed_comes_out(
    bench: Any, until: Until, ending: str
) -> None:
    async def swallows(request: Request) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if ending == "raises":
                raise ValueError from None
        return "gone on"

    await bench.take(swallows)
    consumer = Consumer(bench, bench.attempt(swallows))
    await until(lambda: bench.time.alarms)
    consumer.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer.task
    assert consumer.verdicts == []


async def test_a_foreign_cancellation_after_an_overdue_timeout(bench: Any, until: Until) -> None:
    stubborn = asyncio.Event()

    async def swallows_one(request: Request) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stubborn.set()
        await asyncio.Event().wait()

    await bench.take(swallows_one)
    consumer = Consumer(bench, bench.attempt(swallows_one))
    await until(lambda: bench.time.alarms)
    bench.time.advance(60)
    await stubborn.wait()
    consumer.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer.task


@pytest.mark.parametrize("how", ["uncancels", "own attempt"])
async def test_a_foreign_cancellation_after_one_of_the_handlers_own(
    bench: Any, until: Until, how: str
) -> None:
    box: list[Any] = []

    async def cancels(request: Request) -> None:
        task = asyncio.current_task()
        assert task is not None
        if how == "uncancels":
            task.cancel()
        else:
            box[0].cancel()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if how == "uncancels":
                task.uncancel()
        box.append("waits")
        await asyncio.Event().wait()

    await bench.take(cancels)
    box.append(bench.attempt(cancels))
    consumer = Consumer(bench, box[0])
    await until(lambda: len(box) == 2)
    consumer.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer.task


async def test_a_task_that_is_cancelled_runs_nothing(bench: Any) -> None:
    ran: list[int] = []

    async def runs(request: Request) -> None:
        ran.append(1)

    await bench.take(runs)

    async def consumer() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await bench.runner.run(bench.attempt(runs))

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(consumer())
    assert ran == []


async def test_a_timeout_around_the_run_is_foreign(bench: Any) -> None:
    await bench.take(forever)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await bench.runner.run(bench.attempt(forever))
    assert task_is_clean()


async def test_a_cancellation_of_the_handlers_own_is_a_failure(bench: Any) -> None:
    async def raises(request: Request) -> None:
        raise asyncio.CancelledError

    async def awaits_cancelled(request: Request) -> None:
        inner = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        inner.cancel()
        await inner

    async def cancels_itself(request: Request) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()

    async def cancels_itself_at_the_end(request: Request) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "end"

    async def cancels_itself_and_thinks_better(request: Request) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task.uncancel()
        return "better"

    functions = [
        raises,
        awaits_cancelled,
        cancels_itself,
        cancels_itself_at_the_end,
        cancels_itself_and_thinks_better,
        quick,
    ]
    await bench.take(*functions)
    consumer = Consumer(bench, *[bench.attempt(function) for function in functions])
    await consumer.task
    assert consumer.verdicts == [
        HANDLER_FAILED,
        HANDLER_FAILED,
        HANDLER_FAILED,
        Done(b'"end"'),
        Done(b'"better"'),
        Done(b'"quick"'),
    ]
    assert consumer.counts == [0] * 6


async def test_timeouts_and_groups_inside_the_handler_work(bench: Any) -> None:
    async def own_timeout(request: Request) -> str:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            return "own"
        return "never"

    async def lets_it_out(request: Request) -> None:
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()

    async def group(request: Request) -> str:
        async def fails() -> None:
            raise KeyError

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fails())
                await asyncio.Event().wait()
        except* KeyError:
            pass
        return "group"

    await bench.take(own_timeout, lets_it_out, group, quick)
    attempts = [bench.attempt(f) for f in (own_timeout, lets_it_out, group, quick)]
    consumer = Consumer(bench, *attempts)
    await consumer.task
    assert consumer.verdicts == [Done(b'"own"'), HANDLER_FAILED, Done(b'"group"'), Done(b'"quick"')]
    assert consumer.counts == [0] * 4


async def test_one_that_takes_back_our_request(bench: Any, until: Until) -> None:
    async def uncancels(request: Request) -> str:
        task = asyncio.current_task()
        assert task is not None
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task.uncancel()
        return "mine"

    await bench.take(uncancels, quick)
    attempt = bench.attempt(uncancels)
    consumer = Consumer(bench, attempt, bench.attempt(quick))
    await until(lambda: bench.time.alarms)
    bench.time.advance(60)
    await consumer.task
    assert consumer.verdicts == [TIMED_OUT, Done(b'"quick"')]
    assert consumer.counts == [0, 0]


@pytest.mark.parametrize("way_out", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_a_way_out_of_the_process_is_none(bench: Any, way_out: type[BaseException]) -> None:
    async def here(request: Request) -> None:
        await asyncio.sleep(0)
        raise way_out

    def there(request: Request) -> None:
        raise way_out

    await bench.take(here, there)
    for function in (here, there):
        attempt = bench.attempt(function, last=False)
        assert await bench.runner.run(attempt) == HANDLER_FAILED


async def test_the_coroutine_of_the_run_may_be_closed(bench: Any, logs: list[Any]) -> None:
    seen: list[str] = []

    async def watches(request: Request) -> None:
        try:
            await asyncio.Event().wait()
        except GeneratorExit:
            seen.append("closed")
            raise

    await bench.take(watches)
    run = bench.runner.run(bench.attempt(watches))
    run.send(None)
    run.close()
    assert seen == ["closed"]
    assert logs == []


async def test_a_decorator_that_is_not_async_at_all(bench: Any, logs: list[Any]) -> None:
    import functools

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(request: Request) -> str:
            return "no coroutine"

        return wrapper

    wrapped = handler(decorate(quick))
    assert await bench.call(wrapped) == HANDLER_FAILED
    assert logs


# ---- in threads


async def test_a_plain_function_runs_in_a_thread(bench: Any) -> None:
    def where(request: Request, a: int) -> list[Any]:
        return [threading.current_thread().name.startswith("handlers-"), a]

    assert await bench.call(where, b"3") == Done(b"[true,3]")
    assert bench.time.alarms[0].cancelled


async def test_what_a_plain_function_raises(bench: Any) -> None:
    def refuses(request: Request) -> None:
        raise RequestError("no", "no")

    def fails(request: Request) -> None:
        raise StopIteration("secret")

    def retries(request: Request) -> None:
        raise Retry(1)

    await bench.take(refuses, fails, retries)
    run = bench.runner.run
    assert await run(bench.attempt(refuses)) == Failed("no", "no")
    assert await run(bench.attempt(fails)) == HANDLER_FAILED
    assert await run(bench.attempt(fails, last=False)) == Again(None, "handler_failed")
    assert await run(bench.attempt(retries, last=False)) == Again(1, "handler_failed")


class Gate:
    """A ``def`` handler that stands still until it is let go."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.go = threading.Event()
        self.saw: list[bool] = []
        gate = self

        def blocks(request: Request) -> str:
            gate.inside.set()
            gate.go.wait(10)
            gate.saw.append(request.cancelled)
            return "let go"

        self.blocks = blocks


async def test_a_thread_is_overdue_until_it_returns(bench: Any, until: Until) -> None:
    gate = Gate()
    await bench.take(gate.blocks, quick)
    timed, cancelled = bench.attempt(gate.blocks), bench.attempt(gate.blocks, seq=2)
    first, second = Consumer(bench, timed), Consumer(bench, cancelled)
    await until(lambda: len(bench.time.alarms) == 2 and gate.inside.is_set())
    cancelled.cancel()
    bench.time.advance(60)
    await asyncio.sleep(0)
    assert timed.overdue
    assert cancelled.overdue
    assert first.verdicts == second.verdicts == []
    gate.go.set()
    await first.task
    await second.task
    assert first.verdicts == [TIMED_OUT]
    assert second.verdicts == [Cancelled()]
    assert gate.saw == [True, True]
    assert first.counts == second.counts == [0]


async def test_waiting_for_a_thread_is_free_and_can_be_cancelled(bench: Any, until: Until) -> None:
    gate = Gate()
    ran: list[int] = []

    def runs(request: Request) -> None:
        ran.append(request.seq)

    await bench.take(gate.blocks, runs)
    blockers = [Consumer(bench, bench.attempt(gate.blocks, seq=n)) for n in (1, 2)]
    await until(lambda: len(bench.time.alarms) == 2)
    attempts = [bench.attempt(runs, seq=n) for n in (3, 4)]
    waiting = [Consumer(bench, attempt) for attempt in attempts]
    await asyncio.sleep(0)
    bench.time.advance(55)
    attempts[0].cancel()
    await waiting[0].task
    assert waiting[0].verdicts == [Cancelled()]
    gate.go.set()
    await waiting[1].task
    assert waiting[1].verdicts == [Done(b"null")]
    assert attempts[1].started == 1055
    assert attempts[1].request.deadline == 1_001_055 + 60
    assert ran == [4]
    for blocker in blockers:
        await blocker.task


async def test_a_consumer_that_is_cancelled_leaves_its_thread(
    bench: Any, until: Until, logs: list[Any]
) -> None:
    gate = Gate()
    gate_method = handler(concurrency=1)(gate.blocks)
    await bench.take(gate_method)
    attempt = bench.attempt(gate_method)
    consumer = Consumer(bench, attempt)
    await until(gate.inside.is_set)
    consumer.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer.task
    assert attempt.request.cancelled
    assert not attempt.overdue
    # The slot is taken until the thread has really ended.
    second = Consumer(bench, bench.attempt(gate_method, seq=2))
    await asyncio.sleep(0.01)
    assert len(bench.time.alarms) == 1
    gate.go.set()
    await second.task
    assert second.verdicts == [Done(b'"let go"')]
    assert gate.saw == [True, False]
    assert "nobody waits for it" in logs[0]["message"]


async def test_a_consumer_that_is_cancelled_while_it_waits_for_a_thread(
    bench: Any, until: Until
) -> None:
    gate = Gate()
    ran: list[int] = []

    @handler(concurrency=1)
    def runs(request: Request) -> None:
        ran.append(request.seq)

    await bench.take(gate.blocks, runs)
    blockers = [Consumer(bench, bench.attempt(gate.blocks, seq=n)) for n in (1, 2)]
    await until(lambda: len(bench.time.alarms) == 2)
    cancelled = Consumer(bench, bench.attempt(runs, seq=3))
    await asyncio.sleep(0)
    cancelled.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled.task
    last = Consumer(bench, bench.attempt(runs, seq=4))
    gate.go.set()
    await last.task
    assert ran == [4]
    for blocker in blockers:
        await blocker.task


async def test_cancelled_both_ways_while_it_waits_for_a_thread(bench: Any, until: Until) -> None:
    gate = Gate()
    await bench.take(gate.blocks)
    blockers = [Consumer(bench, bench.attempt(gate.blocks, seq=n)) for n in (1, 2)]
    await until(lambda: len(bench.time.alarms) == 2)
    for order in (1, -1):
        attempt = bench.attempt(gate.blocks, seq=3)
        consumer = Consumer(bench, attempt)
        await asyncio.sleep(0)
        for cancel in [consumer.task.cancel, attempt.cancel][::order]:
            cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer.task
    gate.go.set()
    for blocker in blockers:
        await blocker.task


async def test_a_cancellation_between_a_threads_end_and_its_verdict(
    bench: Any, until: Until
) -> None:
    gate = Gate()
    await bench.take(gate.blocks)
    attempt = bench.attempt(gate.blocks)
    consumer = Consumer(bench, attempt)
    await until(gate.inside.is_set)
    ended = bench.runner._pool._running.copy().pop()
    original = ended.ended

    def end_and_cancel(left: Any) -> None:
        original(left)
        attempt.cancel()

    ended.ended = end_and_cancel
    gate.go.set()
    await consumer.task
    assert consumer.verdicts == [Cancelled()]


async def test_close_names_a_stuck_thread(bench: Any, until: Until) -> None:
    gate = Gate()

    def never(request: Request) -> None: ...

    await bench.take(gate.blocks, never)
    stuck = [Consumer(bench, bench.attempt(gate.blocks, seq=n)) for n in (1, 2)]
    await until(lambda: len(bench.time.alarms) == 2)
    waiting = Consumer(bench, bench.attempt(never, seq=3))
    await asyncio.sleep(0)
    assert await bench.runner.close(0) == [
        "thread of blocks (s:1 of ada)",
        "thread of blocks (s:2 of ada)",
    ]
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
    late = Consumer(bench, bench.attempt(never, seq=4))
    with pytest.raises(asyncio.CancelledError):
        await late.task
    gate.go.set()
    for consumer in stuck:
        await consumer.task


# ---- slots


@handler(concurrency=1)
async def one_by_one(request: Request) -> int:
    await asyncio.sleep(0)
    return request.seq


async def test_concurrency_is_bounded_over_sessions(bench: Any) -> None:
    running: list[int] = []
    most: list[int] = []

    @handler(concurrency=2)
    async def counts(request: Request) -> None:
        running.append(1)
        most.append(len(running))
        await asyncio.sleep(0)
        running.pop()

    await bench.take(counts)
    consumers = [Consumer(bench, bench.attempt(counts, user=f"u{n}")) for n in range(7)]
    for consumer in consumers:
        await consumer.task
    assert max(most) == 2
    assert len(most) == 7


async def test_cancelled_while_it_waits_for_a_slot(bench: Any, until: Until) -> None:
    go = asyncio.Event()

    @handler(concurrency=1)
    async def holds(request: Request) -> int:
        await go.wait()
        return request.seq

    await bench.take(holds)
    first = Consumer(bench, bench.attempt(holds, seq=1))
    await until(lambda: bench.time.alarms)
    attempts = [bench.attempt(holds, seq=n) for n in range(2, 6)]
    waiting = [Consumer(bench, attempt) for attempt in attempts]
    await asyncio.sleep(0)
    attempts[0].cancel()
    await waiting[0].task
    waiting[1].task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[1].task
    bench.time.advance(30)
    go.set()
    await waiting[3].task
    assert [c.verdicts for c in (first, *waiting)] == [
        [Done(b"1")],
        [Cancelled()],
        [],
        [Done(b"4")],
        [Done(b"5")],
    ]
    assert attempts[2].started == 1030


@pytest.mark.parametrize("how", ["attempt", "task"])
async def test_cancelled_in_the_moment_that_it_gets_its_slot(bench: Any, how: str) -> None:
    await bench.take(one_by_one)
    slots = bench.runner._slots["one_by_one"]
    assert slots.enter() is None
    attempt = bench.attempt(one_by_one, seq=1)
    consumer = Consumer(bench, attempt)
    await asyncio.sleep(0)
    slots.leave()
    if how == "attempt":
        attempt.cancel()
        await consumer.task
        assert consumer.verdicts == [Cancelled()]
        assert bench.time.alarms == []  # It never ran.
    else:
        consumer.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer.task
    assert await bench.runner.run(bench.attempt(one_by_one, seq=2)) == Done(b"2")


# ---- progress


async def test_progress_is_counted_in_each_attempt(bench: Any) -> None:
    async def tells(request: Request) -> None:
        value = {"step": 1}
        request.progress(value)
        value["step"] = 2
        request.progress(value)

    await bench.take(tells)
    for _ in range(2):
        await bench.runner.run(bench.attempt(tells))
    assert bench.progress == [(1, b'{"step":1}'), (2, b'{"step":2}')] * 2


async def test_progress_from_threads(bench: Any) -> None:
    def tells(request: Request) -> str:
        for n in range(3):
            request.progress(n)
        return "end"

    assert await bench.call(tells) == Done(b'"end"')
    assert bench.progress == [(1, b"0"), (2, b"1"), (3, b"2")]


async def test_progress_that_cannot_be_sent(bench: Any, logs: list[Any]) -> None:
    async def tells(request: Request) -> str:
        request.progress(object())
        request.progress("x" * 199)
        request.progress(1)
        return "end"

    assert await bench.call(tells) == Done(b'"end"')
    assert bench.progress == [(1, b"1")]
    assert len(logs) == 2

    def fails(request: Request, n: int, body: bytes) -> None:
        raise OSError

    attempt = bench.attempt(tells, on_progress=fails)
    assert await bench.runner.run(attempt) == Done(b'"end"')
    assert logs[-1]["message"] == "progress could not be sent"


async def test_no_progress_before_or_after(bench: Any) -> None:
    await bench.take(quick)
    attempt = bench.attempt(quick)
    attempt.request.progress(1)
    await bench.runner.run(attempt)
    attempt.request.progress(2)
    assert bench.progress == []


def test_progress_when_the_loop_is_gone(method: Callable[..., Method]) -> None:
    requests: list[Request] = []

    async def main() -> None:
        @handler
        async def keeps(request: Request) -> None:
            requests.append(request)

        made = method(keeps)
        runner = Runner(Methods([made], []), threads=1, outcome_bytes=100)
        await runner.start()
        attempt = runner.attempt(
            made,
            made.bind(None),
            Request(User("ada"), "s", "x", traceparent="00-trace"),
            None,
            True,
            lambda n, body: None,
        )
        assert attempt.request.traceparent == "00-trace"
        await runner.run(attempt)
        assert await runner.close(1) == []

    asyncio.run(main())
    thread = threading.Thread(target=requests[0].progress, args=(1,))
    thread.start()
    thread.join()


# ---- resources, and the real clock


async def test_resources_and_a_real_timeout() -> None:
    @lifespan
    async def life() -> AsyncGenerator[str, None]:
        yield "database"

    @handler(timeout=0.01)
    async def uses(request: Request, wait: bool) -> str:
        if wait:
            await asyncio.Event().wait()
        return str(request.resources)

    options = options_of(uses)
    assert options is not None
    made = Method(uses, options, life)
    runner = Runner(Methods([made], [life]), threads=1, outcome_bytes=100)
    await runner.start()

    def attempt(params: bytes) -> Any:
        return runner.attempt(
            made,
            made.bind(params),
            Request(User("ada"), "s", "x"),
            None,
            True,
            lambda n, body: None,
        )

    assert await runner.run(attempt(b"false")) == Done(b'"database"')
    assert await runner.run(attempt(b"true")) == Failed("timed_out", "it took more than 0.01 s")
    assert await runner.close(10) == []
