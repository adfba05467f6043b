"""One run of a handler: where it stands, how it is asked to stop, how its progress goes out.

Source: design.md sections 5 ("Threads") and 7.
"""

from __future__ import annotations

import asyncio
import threading
import types
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from enum import Enum, auto
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from .api import Request
from .methods import Method
from .params import Arguments

OnProgress = Callable[[Request, int, bytes], None]


class Timer(Protocol):
    def cancel(self) -> None: ...


class Surroundings(Protocol):
    """What an attempt needs of the node that it runs on."""

    outcome_bytes: int
    loop: asyncio.AbstractEventLoop
    thread: int
    """The loop's."""

    def clock(self) -> float:
        """Monotonic seconds."""

    def wall(self) -> float:
        """Seconds since 1970."""

    def later(self, delay: float, call: Callable[[], None]) -> Timer:
        """Calls ``call`` on the loop, ``delay`` seconds from now."""


class Phase(Enum):
    """NEW → WAITING (for a slot or a thread) → RUNNING → ENDED; any of them may be the last
    before ENDED."""

    NEW = auto()
    WAITING = auto()
    RUNNING = auto()
    ENDED = auto()


class Stop(Enum):
    """Why it was asked to stop. A cancellation outweighs a timeout."""

    NO = auto()
    TIMEOUT = auto()
    CANCEL = auto()


# Global names: to look a member up by its class takes ten times as long (Python 3.11).
NEW, WAITING, RUNNING, ENDED = Phase
NO, TIMEOUT, CANCEL = Stop


class Attempt(Struct, eq=False):
    """One run of a handler. Used on the event loop only, :meth:`progress` apart.

    ``started`` is when it began to run (monotonic seconds), ``timeout`` how long it may. ``left``
    is what it left behind, where it ended in its first step; ``steps`` what an ``async def``
    handler goes through once it has suspended.
    """

    _around: Surroundings
    method: Method
    arguments: Arguments
    request: Request
    timeout: float
    last: bool
    _on_progress: OnProgress
    left: Any = None
    started: float = 0.0
    phase: Phase = NEW
    stop: Stop = NO
    steps: Steps | None = None
    _task: asyncio.Task[Any] | None = None
    _n: int = 0
    _timer: Timer | None = None
    _withdraw: Callable[[], object] | None = None

    @property
    def overdue(self) -> bool:
        """Whether it was asked to stop but still runs."""
        return self.stop is not NO and self.phase is RUNNING

    # ---- its course

    def wait(self, withdraw: Callable[[], object]) -> None:
        """It waits for something; ``withdraw`` gives that up."""
        self.phase = WAITING
        self._withdraw = withdraw

    def begin(self, task: asyncio.Task[Any] | None = None) -> None:
        """It runs: its time counts from here. ``task`` is where an ``async def`` handler does."""
        self._task = task
        self.phase = RUNNING
        self._withdraw = None
        self.started = self._around.clock()
        request = self.request
        request.deadline = self._around.wall() + self.timeout
        request.emit = self.progress

    def watch(self) -> None:
        """Sets the timer for its time, if that was not done before."""
        if self._timer is None:
            left = self.started + self.timeout - self._around.clock()
            self._timer = self._around.later(max(0.0, left), self._expire)

    def unwatch(self) -> None:
        """Its time no longer counts."""
        if self._timer is not None:
            self._timer.cancel()

    def end(self) -> None:
        """It is over: no progress goes out, and nothing can stop it any more."""
        self.phase = ENDED
        self._withdraw = None
        if self._timer is not None:
            self._timer.cancel()
        # Freed as soon as nobody has it, rather than found by the collector: with a cycle in
        # what each request leaves, that one took a fifth of all time (measured).
        self.steps = None
        self.request.emit = over

    # ---- asking it to stop

    def cancel(self) -> None:
        """Asks it to stop: a handler on the loop gets CancelledError, one in a thread sees
        ``request.cancelled``, one that waits never starts. The verdict is Cancelled."""
        if self.phase is ENDED or self.stop is CANCEL:
            return
        self.stop = CANCEL
        self.request.cancelled = True
        if self._withdraw is not None:
            self._withdraw()
        self._interrupt()

    def _expire(self) -> None:
        if self.phase is not RUNNING or self.stop is not NO:
            return
        self.stop = TIMEOUT
        self.request.cancelled = True
        self._interrupt()

    def _interrupt(self) -> None:
        if self.phase is not RUNNING:
            return
        if self.steps is not None:
            self.steps.interrupt()
        elif self._task is not None:
            # From inside its first step it shows as the handler's own doing.
            self._task.cancel()

    # ---- progress

    def progress(self, value: Any) -> None:
        """Sends progress, from whichever thread; never raises. It is encoded at once, so
        that the value may change afterwards."""
        log = self.request.log
        try:
            body = msgspec.json.encode(value)
        except Exception as exc:
            log.opt(exception=exc).warning("progress that is no JSON value was dropped")
            return
        if len(body) > self._around.outcome_bytes:
            log.warning("progress of {} bytes was dropped", len(body))
        elif threading.get_ident() == self._around.thread:
            self._emit(body)
        else:
            # A closed loop has nobody to send it to.
            with suppress(RuntimeError):
                self._around.loop.call_soon_threadsafe(self._emit, body)

    def _emit(self, body: bytes) -> None:
        if self.phase is not RUNNING:
            return
        self._n += 1
        try:
            self._on_progress(self.request, self._n, body)
        except Exception as exc:
            self.request.log.opt(exception=exc).error("progress could not be sent")


def over(value: Any) -> None:
    """What becomes of progress when the handler has ended."""


class Steps:
    """Awaits a handler's coroutine from its first suspension on, step by step, in the task of
    the one who awaits it.

    A plain ``await`` would do, but for two things. The timer is set only when the handler
    first suspends, which most never do. And when it has ended one must know who cancelled
    the task: ``Task.cancel`` only counts. Of that count (``Task.cancelling``) our own
    requests are known, those that the handler made are seen as it grows *within* a step
    (and a timeout of its own takes back what it asked for), and what is left came from
    outside: somebody wants to end the task, and must not be robbed of it.
    """

    __slots__ = (
        "_coroutine",
        "_handlers",
        "_inside",
        "_ours",
        "_suspends",
        "_task",
        "_waits_for",
        "result",
    )

    def __init__(
        self,
        task: asyncio.Task[Any],
        suspends: Callable[[], None],
        coroutine: Coroutine[Any, Any, Any] | None = None,
        waits_for: Any = None,
    ) -> None:
        self.result: Any = None
        """What the coroutine returned."""
        self._inside = False
        self._task = task
        self._suspends = suspends
        self._ours = 0
        # Nobody had cancelled the task before its first step.
        self._handlers = task.cancelling()
        self._coroutine = coroutine
        self._waits_for = waits_for

    def interrupt(self) -> None:
        """The handler gets CancelledError where it waits."""
        if not self._inside:
            # From inside it shows as the handler's own doing.
            self._ours += 1
        self._task.cancel()

    @types.coroutine
    def rest(self) -> Generator[Any, Any, None]:
        """Awaits the coroutine from its first suspension to its end."""
        coroutine, ended = self._coroutine, False
        assert coroutine is not None
        while not ended:
            self._suspends()
            try:
                value = yield self._waits_for
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as exc:
                ended = self._step(coroutine.throw, exc)
            else:
                ended = self._step(coroutine.send, value)

    def _step(self, step: Callable[[Any], Any], value: Any) -> bool:
        before = self._task.cancelling()
        self._inside = True
        try:
            self._waits_for = step(value)
        except StopIteration as end:
            self.result = end.value
            return True
        finally:
            self._inside = False
            after = self._task.cancelling()
            if after != before:
                self._handlers = max(0, self._handlers + after - before)
        return False

    async def wanted_elsewhere(self) -> bool:
        """Whether somebody else cancelled the task meanwhile. Leaves the task as it was,
        but for such a cancellation."""
        if self._handlers:
            # Cancelled by the handler in its last step, the task would stumble later.
            with suppress(asyncio.CancelledError):
                await _once()
        foreign = max(0, self._task.cancelling() - self._ours - self._handlers)
        while self._task.cancelling() > foreign:
            self._task.uncancel()
        return foreign > 0


@types.coroutine
def _once() -> Generator[None, None, None]:
    """Lets the loop turn once."""
    yield
