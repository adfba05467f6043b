"""How one request comes to its outcome: start marks, attempts, backoff, blocking.

Source: design.md section 5, "Interrupted" and "Retries". The queue waits meanwhile: that is what
order means.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeGuard

from inorder import codec

from .admission import bind
from .handlers.api import User
from .handlers.methods import InvalidParams, Method
from .handlers.runner import Again, Attempt, Cancelled, Done, Failed
from .session import Entry
from .stores.port import Ending

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
    """The head of a queue on its way to an outcome. Made for each, used once."""

    __slots__ = ("_attempt", "_cancelled", "_interruptions", "_queue", "_started", "entry")

    def __init__(self, queue: Queue, entry: Entry) -> None:
        self.entry = entry
        self._queue = queue
        self._attempt: Attempt | None = None
        self._cancelled = False
        self._interruptions = 0
        self._started = queue.node.now()

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
        """Asks the handler to stop."""
        self._cancelled = True
        if self._attempt is not None:
            self._attempt.cancel()

    async def outcome(self) -> Settled:
        """Runs the request. Raises :class:`Parked` where it stays pending."""
        queue, entry = self._queue, self.entry
        while True:
            method = queue.node.methods.get(entry.method)
            if method is not None:
                break
            # A deploy took the method away. What was accepted is never failed for it.
            word = await queue.blocked(entry, "unknown_method", None)
            if word != "again":
                return _told(word)
        async with AsyncExitStack() as stack:
            if entry.loaded:
                interrupted = await self._start_again(method, stack)
                if interrupted is not None:
                    return interrupted
            if method.on_interrupt == "fail" and not entry.attempt:
                await queue.mark(entry, 1)
            return await self._attempts(method)

    async def _start_again(self, method: Method, stack: AsyncExitStack) -> Settled | None:
        """What a head from the store needs before it runs, or the outcome `interrupted`."""
        queue, entry = self._queue, self.entry
        if method.on_interrupt == "fail":
            # Its mark was durable before its first run: it may have taken effect.
            return _interrupted() if entry.attempt else None
        self._interruptions = entry.attempt
        if not entry.suspect:
            return None
        most = queue.node.config.session.max_interrupts
        if entry.attempt >= most:
            return _interrupted()
        if entry.attempt + 1 >= _SUSPECT_MARKS:
            await stack.enter_async_context(queue.node.suspects)
        await queue.mark(entry, entry.attempt + 1)
        entry.suspect = False
        self._interruptions = entry.attempt
        return None

    async def _attempts(self, method: Method) -> Settled:
        queue, entry = self._queue, self.entry
        while True:
            if self._cancelled:
                return failure("cancelled", "cancelled on request")
            if entry.due > queue.node.now():
                # It was parked while it waited: a new connection does not shorten that.
                word = await queue.blocked(entry, "handler_failed", entry.due)
                if word != "again":
                    return _told(word)
            entry.due = 0.0
            entry.tries += 1
            last = entry.tries >= method.attempts
            settled = await self._once(method, last)
            if not isinstance(settled, Again):
                if method.on_exhausted != "block" or not _is_exhausted(settled):
                    return _body(settled)
                code, until = settled.code, None
            else:
                delay = settled.after
                if delay is None:
                    delay = backoff(entry.tries, random.random())
                code, until = settled.code, queue.node.now() + delay
                entry.due = until
            word = await queue.blocked(entry, code, until)
            if word != "again":
                return _told(word)
            entry.due = 0.0
            if until is None:
                entry.tries = 0

    async def _once(self, method: Method, last: bool) -> Done | Failed | Again | Cancelled:
        queue, entry = self._queue, self.entry
        try:
            bound = bind(method, entry)
        except InvalidParams as exc:
            return Failed("handler_failed", f"the method no longer takes these params: {exc}", None)
        attempt = self._attempt = queue.node.runner.attempt(
            method,
            bound,
            user=User(queue.user.name, queue.user.admin),
            session=queue.session.id,
            id=entry.id,
            seq=entry.seq,
            attempt=self.number,
            timeout=entry.timeout,
            traceparent=entry.traceparent,
            last=last,
            on_progress=self._progress,
        )
        self._started = queue.node.now()
        try:
            verdict = await queue.node.runner.run(attempt)
        finally:
            self._attempt = None
        # A cancel that was asked for wins, whatever the handler still returned.
        return Cancelled() if self._cancelled else verdict

    def _progress(self, n: int, body: bytes) -> None:
        link = self._queue.link
        if link is not None:
            link.progress(self.entry, self.number, n, body)


def _is_exhausted(verdict: Done | Failed | Cancelled) -> TypeGuard[Failed]:
    """Whether an operator is to decide, where the handler says ``on_exhausted="block"``."""
    return isinstance(verdict, Failed) and verdict.code in ("handler_failed", "timed_out")


def _told(word: str) -> Settled:
    if word == "skip":
        return failure("skipped", "skipped by an operator")
    return failure("cancelled", "cancelled on request")


def _interrupted() -> Settled:
    return failure("interrupted", "the server stopped while it ran; it is not run again")


def _body(verdict: Done | Failed | Cancelled) -> Settled:
    if isinstance(verdict, Done):
        return "done", verdict.body
    if isinstance(verdict, Failed):
        return failure(verdict.code, verdict.message, verdict.details)
    return failure("cancelled", "cancelled on request")
