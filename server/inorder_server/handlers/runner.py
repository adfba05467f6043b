"""Runs handlers: ``async def`` in the task of the caller, ``def`` in a pool of threads.

Source: design.md sections 5 ("Threads") and 7.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from .api import Request
from .attempt import ENDED, NO, RUNNING, Attempt, OnProgress, Phase, Steps, Stop, Timer, over
from .lifespans import Lifespans
from .methods import Method, Methods
from .params import Arguments
from .pool import Job, Pool
from .slots import Slots
from .verdicts import (
    Again,
    Cancelled,
    Done,
    Failed,
    Verdict,
    judge_exception,
    judge_result,
    judge_timeout,
    result_body,
)

# What a handler left behind: the verdict on its result, or what it raised.
_Left = Done | Failed | BaseException


class Runner:
    """Runs the methods of one node.

    ``threads`` bounds the handlers that run in threads, ``outcome_bytes`` the JSON of a
    result. Clock (monotonic seconds), wall (seconds since 1970) and timer can be replaced.
    """

    def __init__(
        self,
        methods: Methods,
        *,
        threads: int,
        outcome_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        later: Callable[[float, Callable[[], None]], Timer] | None = None,
    ) -> None:
        self.methods = methods
        self.outcome_bytes = outcome_bytes
        self.clock = clock
        self.wall = wall
        self._later = later
        self._threads = threads
        self._lifespans = Lifespans(methods.lifespans)
        self._slots = {m.name: Slots(m.concurrency) for m in methods if m.concurrency is not None}
        self.loop: asyncio.AbstractEventLoop
        self.thread = 0
        self._pool: Pool[_Left]

    async def start(self) -> None:
        """Enters the lifespans. Raises :class:`HandlerError` where one fails."""
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self._pool = Pool(self._threads)
        try:
            await self._lifespans.enter()
        except BaseException:
            await self._pool.close(0)
            raise

    async def close(self, timeout: float) -> list[str]:  # noqa: ASYNC109
        """Stops the threads and leaves the lifespans, within about ``timeout`` seconds.

        Returns what is left: threads that are stuck, lifespans that did not end. Whoever
        still waits in :meth:`run` for a thread gets CancelledError.
        """
        stuck = await self._pool.close(timeout / 2)
        return stuck + await self._lifespans.leave(timeout / 2)

    def later(self, delay: float, call: Callable[[], None]) -> Timer:
        return (self._later or self.loop.call_later)(delay, call)

    def attempt(
        self,
        method: Method,
        arguments: Arguments,
        request: Request,
        timeout: float | None,
        last: bool,
        on_progress: OnProgress,
    ) -> Attempt:
        """One run, to be handed to :meth:`run`.

        ``timeout`` (seconds) is the client's wish, ``last`` says that no other attempt will
        follow, ``on_progress`` is called on the loop with the request, n (from 1) and
        encoded JSON.
        """
        if method.lifespan is not None:
            request.resources = self._lifespans.resources.get(method.lifespan)
        seconds = method.timeout if timeout is None else min(method.timeout, timeout)
        return Attempt(self, method, arguments, request, seconds, last, on_progress)

    def begin(
        self,
        method: Method,
        arguments: Arguments,
        request: Request,
        timeout: float | None,
        last: bool,
        on_progress: OnProgress,
        task: asyncio.Task[Any],
    ) -> bytes | Attempt:
        """Begins an attempt of an ``async def`` method that needs no slot, or has it, in the task
        of the caller, which nobody has cancelled: all of it in one function, for it is done
        for nearly every request. The result's JSON where it ended with that, as most do; else
        :meth:`rest` awaits its end.
        """
        if method.lifespan is not None:
            request.resources = self._lifespans.resources.get(method.lifespan)
        seconds = method.timeout if timeout is None else min(method.timeout, timeout)
        attempt = Attempt(
            self, method, arguments, request, seconds, last, on_progress,
            None, self.clock(), RUNNING, NO, None, task,
        )  # fmt: skip
        request.deadline = self.wall() + seconds
        request.emit = attempt.progress
        left = self._first_step(attempt, task)
        if type(left) is bytes and attempt.stop is NO and not task.cancelling():
            attempt.phase = ENDED
            request.emit = over
            return left
        attempt.left = Done(left) if isinstance(left, bytes) else left
        return attempt

    async def rest(self, attempt: Attempt, task: asyncio.Task[Any]) -> Verdict:
        """The verdict on what :meth:`begin` began. Raises as :meth:`run` does."""
        try:
            return self._verdict(attempt, await self._on(attempt, task))
        finally:
            attempt.end()

    async def run(self, attempt: Attempt, task: asyncio.Task[Any] | None = None) -> Verdict:
        """Runs it to its end, in the task of the caller. Once only.

        ``task`` is that task, where the caller knows it: asking costs more than all of this.
        Raises nothing but CancelledError, and that only where somebody else cancelled this
        task: nothing is known then of the handler's end.
        """
        task = task or asyncio.current_task()
        assert task is not None
        if attempt.phase is not Phase.NEW:
            raise RuntimeError("an attempt runs once")
        try:
            if task.cancelling():
                raise asyncio.CancelledError
            if attempt.stop is Stop.CANCEL:
                return Cancelled()
            slots = self._slots.get(attempt.method.name)
            if slots is not None and not await _turn(attempt, slots):
                return Cancelled()
            if not attempt.method.is_async:
                left = await self._in_thread(attempt, slots)
            else:
                try:
                    attempt.begin(task)
                    first = self._first_step(attempt, task)
                    attempt.left = Done(first) if isinstance(first, bytes) else first
                    left = await self._on(attempt, task)
                finally:
                    _leave(slots)
            return self._verdict(attempt, left)
        finally:
            attempt.end()

    # ---- async def

    def _first_step(
        self, attempt: Attempt, task: asyncio.Task[Any]
    ) -> bytes | Failed | BaseException | None:
        """What it left behind, a result as JSON; None where it waits for something."""
        request = attempt.request
        try:
            coroutine = attempt.method.function(request, **attempt.arguments)
            try:
                waits_for = coroutine.send(None)
            except StopIteration as end:
                return result_body(request, end.value, self.outcome_bytes)
            attempt.steps = Steps(task, attempt.watch, coroutine, waits_for)
        except BaseException as exc:
            return exc
        return None

    async def _on(self, attempt: Attempt, task: asyncio.Task[Any]) -> _Left:
        """From the end of its first step to its own."""
        left: _Left | None = attempt.left
        attempt.left = None
        steps = attempt.steps or Steps(task, attempt.watch)
        if left is None:
            try:
                await steps.rest()
                left = judge_result(attempt.request, steps.result, self.outcome_bytes)
            except BaseException as exc:
                left = exc
        attempt.unwatch()
        if task.cancelling() and await steps.wanted_elsewhere():
            raise asyncio.CancelledError
        return left

    # ---- def

    async def _in_thread(self, attempt: Attempt, slots: Slots | None) -> _Left | None:
        """What it left behind; None where it never ran, because it was cancelled before."""
        request, method = attempt.request, attempt.method
        over: asyncio.Future[_Left | None] = self.loop.create_future()

        def work() -> _Left:
            try:
                result = method.function(request, **attempt.arguments)
            except BaseException as exc:
                return exc
            return judge_result(request, result, self.outcome_bytes)

        def started() -> None:
            attempt.begin()
            attempt.watch()

        def ended(left: _Left) -> None:
            # The slot is free only now, even if nobody waited to see this.
            _leave(slots)
            attempt.unwatch()
            if over.done():
                request.log.warning("the handler has ended at last; nobody waits for it")
            else:
                over.set_result(left)

        def dropped() -> None:
            _leave(slots)
            over.cancel()

        name = f"thread of {method.name} ({request.key} of {request.user.name})"
        job: Job[_Left] = Job(request.user.name, name, work, started, ended, dropped)

        def withdraw() -> None:
            if self._pool.withdraw(job):
                _leave(slots)
                if not over.done():
                    over.set_result(None)

        attempt.wait(withdraw)
        self._pool.submit(job)
        try:
            return await over
        except asyncio.CancelledError:
            # Not our doing: a thread is never stopped by way of the task.
            withdraw()
            request.cancelled = True
            raise

    # ---- what came of it

    def _verdict(self, attempt: Attempt, left: _Left | None) -> Verdict:
        request = attempt.request
        if attempt.stop is not Stop.NO and isinstance(left, Exception):
            request.log.opt(exception=left).warning("the handler failed when it was stopped")
        if attempt.stop is Stop.CANCEL or left is None:
            return Cancelled()
        if attempt.stop is Stop.TIMEOUT:
            return judge_timeout(request, attempt.method, attempt.timeout, attempt.last)
        if isinstance(left, BaseException):
            return judge_exception(request, attempt.method, left, attempt.last, self.outcome_bytes)
        return left


async def _turn(attempt: Attempt, slots: Slots) -> bool:
    """Waits for a slot of the method; false where the attempt was cancelled meanwhile."""
    turn = slots.enter()
    if turn is None:
        return True

    def withdraw() -> None:
        if not turn.done():
            turn.set_result(False)

    attempt.wait(withdraw)
    try:
        has_slot = await turn
    except asyncio.CancelledError:
        if not turn.cancelled() and turn.result():
            slots.leave()
        raise
    if has_slot and attempt.stop is Stop.CANCEL:
        slots.leave()
        return False
    return has_slot


def _leave(slots: Slots | None) -> None:
    if slots is not None:
        slots.leave()


__all__ = ["Again", "Attempt", "Cancelled", "Done", "Failed", "Runner", "Verdict"]
