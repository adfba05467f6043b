"""How one request comes to its outcome: start marks, attempts, backoff, blocking.

Source: design.md section 5, "Interrupted" and "Retries". The queue waits meanwhile: that is what
order means.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from inorder import codec

from .handlers.api import Request
from .handlers.methods import InvalidParams, Method
from .handlers.runner import Again, Attempt, Cancelled, Done, Failed, Verdict
from .handlers.slots import Slots
from .session import RUNNING, WAITING, Entry
from .stores.port import Ending, Outcome

if TYPE_CHECKING:
    from .queue import Queue

Settled = tuple[Ending, bytes]

_FIRST_BACKOFF = 0.5
_MOST_BACKOFF = 60.0
# Heads with that many start marks run one at a time on their node.
_SUSPECT_MARKS = 2


class Parked(Exception):
    """The head stays pending: blocked or waiting to retry while nobody is attached, or the
    node is going down. ``until`` is when it wants to be tried again, if ever by itself."""

    def __init__(self, code: str, until: float | None) -> None:
        super().__init__(code)
        self.code = code
        self.until = until


def backoff(tries: int, jitter: float) -> float:
    """Seconds to wait after so many failed tries; ``jitter`` from 0 to 1 takes off up to half."""
    longest = min(_FIRST_BACKOFF * float(2 ** min(tries - 1, 16)), _MOST_BACKOFF)
    return longest * (1 - jitter / 2)


def failure(code: str, message: str, details: Any = None) -> Settled:
    """An outcome that is no result."""
    body = {"code": code, "message": message}
    if details is not None:
        body["details"] = details
    return ("cancelled" if code == "cancelled" else "failed"), codec.encode(body)


class Execution:
    """The head of a queue on its way to an outcome, used once. Made where it has none at once.

    ``begun`` is when it came to its turn, by the monotonic clock.
    """

    __slots__ = (
        "_alone",
        "_attempt",
        "_begun",
        "_cancelled",
        "_interruptions",
        "_mark",
        "_queue",
        "_started",
        "_turn",
        "begun",
        "entry",
    )

    def __init__(
        self,
        queue: Queue,
        entry: Entry,
        now: float,
        begun: Attempt | None = None,
    ) -> None:
        self.entry = entry
        self._queue = queue
        self._attempt = begun
        # The attempt that `run_through` began.
        self._begun = begun
        self._cancelled = False
        self._interruptions = 0
        # The start mark that is due before it runs, and whether it runs beside no other suspect.
        self._mark: int | None = None
        self._alone = False
        self._turn: asyncio.Future[bool] | None = None
        self.begun = self._started = now

    @property
    def number(self) -> int:
        """The attempt's number from 1, as the handler sees it, interrupted ones included."""
        return self._interruptions + max(self.entry.tries, 1)

    @property
    def overdue(self) -> bool:
        """Whether it was asked to stop and has not."""
        return self._attempt is not None and self._attempt.overdue

    def seconds(self, now: float) -> float:
        """How long this attempt has been running."""
        return now - self._started

    def cancel(self) -> None:
        """Asks the handler to stop, or not to start."""
        self._cancelled = True
        if self._attempt is not None:
            self._attempt.cancel()
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(False)

    async def outcome(self) -> Settled:
        """Runs the request. Raises :class:`Parked` where it stays pending."""
        queue, entry = self._queue, self.entry
        if self._begun is not None:
            return await self._attempts(self._begun.method)
        if entry.skip:
            return _told("skip")
        while (method := queue.node.methods.get(entry.method)) is None:
            # A deploy took the method away. What was accepted is never failed for it.
            word = await queue.blocked(entry, "unknown_method", None)
            if word != "again":
                return _told(word)
        if entry.loaded and self._was_interrupted(method):
            return failure("interrupted", "the server stopped while it ran; it is not run again")
        return await self._attempts(method)

    def _was_interrupted(self, method: Method) -> bool:
        """Whether a head from the store has run too often; else what it needs before it runs."""
        entry = self.entry
        if method.on_interrupt == "fail":
            # Its mark is durable whenever it runs: it may have taken effect.
            return bool(entry.attempt)
        self._interruptions = entry.attempt
        if entry.suspect:
            if entry.attempt >= self._queue.node.config.session.max_interrupts:
                return True
            self._mark = entry.attempt + 1
        self._alone = entry.attempt + entry.suspect >= _SUSPECT_MARKS
        return False

    async def _attempts(self, method: Method) -> Settled:
        queue, entry, code = self._queue, self.entry, "handler_failed"
        while True:
            if entry.due > queue.node.now():
                # Also where it was parked meanwhile: a new connection does not shorten that.
                word = await self._wait(method, code)
                if word != "again":
                    return _told(word)
            if self._begun is not None:
                settled = await self._rest(self._begun)
            else:
                entry.tries += 1
                last = entry.tries >= method.attempts
                settled = await self._guarded(method, last)
            if isinstance(settled, Again):
                delay = settled.after
                if delay is None:
                    delay = backoff(entry.tries, random.random())
                entry.due = queue.node.now() + delay
            elif method.on_exhausted == "block" and _is_exhausted(settled):
                entry.due = math.inf
            else:
                return _body(settled)
            code = settled.code

    async def _wait(self, method: Method, code: str) -> str:
        """Waits for the time of the next attempt, or an operator's word."""
        queue, entry = self._queue, self.entry
        if method.on_interrupt == "fail" and entry.attempt:
            # It does not run now: a crash does not interrupt it.
            await queue.mark(entry, 0)
        until = entry.due if entry.due < math.inf else None
        word = await queue.blocked(entry, code, until)
        if until is None:
            entry.tries = 0
        entry.due = 0.0
        return word

    async def _guarded(self, method: Method, last: bool) -> Verdict:
        """One attempt, and what comes before it: its turn among suspects, its start mark.

        Marked only when it is its turn: who merely waits was not interrupted.
        """
        queue, entry = self._queue, self.entry
        suspects = queue.node.suspects if self._alone else None
        if suspects is not None and not await self._its_turn(suspects):
            return Cancelled()
        try:
            if self._mark is not None:
                mark, self._mark = self._mark, None
                await queue.mark(entry, mark)
                entry.suspect = False
                self._interruptions = mark
            elif method.on_interrupt == "fail" and not entry.attempt:
                await queue.mark(entry, 1)
            return Cancelled() if self._cancelled else await self._once(method, last)
        finally:
            if suspects is not None:
                suspects.leave()

    async def _its_turn(self, suspects: Slots) -> bool:
        """Waits until no other suspect runs. False where it was cancelled meanwhile."""
        turn = self._turn = suspects.enter()
        if turn is None:
            return True
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.result():
                suspects.leave()
            raise
        finally:
            self._turn = None

    async def _once(self, method: Method, last: bool) -> Verdict:
        queue = self._queue
        try:
            # Anew for each attempt: a handler may change its arguments. Nor are those kept that
            # were made when it was accepted: by now they are in no cache, these are (5 %).
            arguments = method.bind(self.entry.params)
        except InvalidParams as exc:
            return Failed("handler_failed", f"the method no longer takes these params: {exc}", None)
        entry, runner = self.entry, queue.node.runner
        request = Request(
            queue.sender,
            queue.session.id,
            entry.id,
            entry.seq,
            self.number,
            traceparent=entry.traceparent,
        )
        attempt = self._attempt = runner.attempt(
            method, arguments, request, entry.timeout, last, queue.progress
        )
        self._started = queue.node.now()
        return await self._ended(runner.run(attempt, queue.consumer))

    async def _rest(self, begun: Attempt) -> Verdict:
        """The verdict on the attempt that :func:`run_through` began."""
        self._begun, queue = None, self._queue
        return await self._ended(queue.node.runner.rest(begun, queue.consumer))

    async def _ended(self, running: Awaitable[Verdict]) -> Verdict:
        try:
            verdict = await running
        finally:
            self._attempt = None
        # A cancel that was asked for wins, whatever the handler still returned.
        return Cancelled() if self._cancelled else verdict


def run_through(queue: Queue, entries: Sequence[Entry]) -> tuple[list[Outcome], Execution | None]:
    """Begins the head, which is the first of these, and where its handler ended without waiting
    for anything, as most do, the next, as long as they are such as may run ahead. Their outcomes,
    and where one has none at once, what is to be awaited for it."""
    node, session, sender = queue.node, queue.session.id, queue.sender
    find, begin, clock = node.methods.get, node.runner.begin, node.now
    consumer, on_progress = queue.consumer, queue.progress
    waited, ran = node.metrics.waited.observe, node.metrics.ran.observe
    outcomes: list[Outcome] = []
    alone = bool(consumer.cancelling())
    now = clock()
    for entry in entries:
        if outcomes and not (entry.free and entry.stage is WAITING and not entry.cancel_asked):
            break
        if entry.stage is not WAITING:
            entry.move(RUNNING)
        entry.stage = RUNNING
        if entry.since:
            waited(now - entry.since)
        method = find(entry.method)
        if (
            method is None
            or not method.prompt
            or entry.loaded
            or entry.skip
            or entry.tries
            or alone
        ):
            return outcomes, Execution(queue, entry, now)
        try:
            arguments = method.bind(entry.params)
        except InvalidParams:
            # A deploy changed what it takes.
            return outcomes, Execution(queue, entry, now)
        entry.tries = 1
        request = Request(sender, session, entry.id, entry.seq, traceparent=entry.traceparent)
        body = begin(
            method,
            arguments,
            request,
            entry.timeout,
            method.attempts == 1,
            on_progress,
            consumer,
        )
        if not isinstance(body, bytes):
            return outcomes, Execution(queue, entry, now, body)
        outcomes.append(Outcome(entry.seq, entry.id, "done", body))
        begun, now = now, clock()
        ran(now - begun)
    return outcomes, None


def _is_exhausted(verdict: Done | Failed | Cancelled) -> TypeGuard[Failed]:
    """Whether an operator is to decide, where the handler says ``on_exhausted="block"``."""
    return isinstance(verdict, Failed) and verdict.code in ("handler_failed", "timed_out")


def _told(word: str) -> Settled:
    if word == "skip":
        return failure("skipped", "skipped by an operator")
    return failure("cancelled", "cancelled on request")


def _body(verdict: Done | Failed | Cancelled) -> Settled:
    if isinstance(verdict, Done):
        return "done", verdict.body
    if isinstance(verdict, Failed):
        return failure(verdict.code, verdict.message, verdict.details)
    return failure("cancelled", "cancelled on request")
