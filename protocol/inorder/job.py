"""A submitted request, as an asyncio program sees it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

import msgspec
from msgspec import Raw

from .errors import Cancelled, InorderError
from .window import Call, Place

PROGRESS_KEPT = 1000
"""Progress that nobody has looked at yet; the oldest goes first, as progress is lossy."""


class Job:
    """A request that was submitted. ``await job`` gives its result or raises its error.

    Awaiting it may be given up (a timeout, a cancelled task): the request goes on all the
    same. Only :meth:`cancel` ends it.
    """

    __slots__ = ("_accepts", "_call", "_cancel", "_cancels", "_progress", "_readers", "_waiters")

    def __init__(self, cancel: Callable[[Call], bool | None]) -> None:
        self._call: Call
        self._cancel = cancel
        self._waiters: list[asyncio.Future[None]] | None = None
        self._accepts: list[asyncio.Future[None]] | None = None
        self._cancels: list[asyncio.Future[bool]] | None = None
        self._readers: list[asyncio.Future[None]] | None = None
        self._progress: deque[Raw] | None = None

    def __repr__(self) -> str:
        return f"<Job {self.id} {self._call.place.name.lower()}>"

    @property
    def id(self) -> str:
        """The name it has in its session."""
        return self._call.id

    @property
    def seq(self) -> int | None:
        """Its number; None until it is accepted."""
        return self._call.seq if self._was_accepted() else None

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._call.place is Place.ENDED

    @property
    def accepted(self) -> Awaitable[int]:
        """``await job.accepted``: its seq, once the server has it for good. Raises what
        ended it before (``Refused``, ``ConnectionLost``)."""
        return _Acceptance(self)

    def __await__(self) -> Generator[Any, None, Any]:
        call = self._call
        if call.place is not Place.ENDED:
            yield from self._wait("_waiters").__await__()
        if call.error is not None:
            raise call.error
        return call.result

    async def progress(self) -> AsyncIterator[Any]:
        """What the handler tells while it runs, until the request ends. Lossy."""
        while True:
            while self._progress:
                yield msgspec.json.decode(self._progress.popleft())
            if self.done:
                return
            await self._wait("_readers")

    async def cancel(self) -> bool:
        """Asks that it be cancelled: True when it is being cancelled or was, False when it
        had ended otherwise. The job then ends with ``Cancelled``, in its turn."""
        answer = self._cancel(self._call)
        if answer is not None:
            return answer
        future = asyncio.get_running_loop().create_future()
        self._cancels = [*(self._cancels or ()), future]
        return bool(await future)

    async def _until_accepted(self) -> int:
        if self._call.place < Place.ACCEPTED:
            self._call.watched = True
            await self._wait("_accepts")
        if not self._was_accepted():
            assert self._call.error is not None
            raise self._call.error
        return self._call.seq

    def _was_accepted(self) -> bool:
        call = self._call
        if call.place is Place.ENDED:
            return call.error is None or call.error.accepted is True
        return call.place is Place.ACCEPTED

    def _wait(self, slot: str) -> asyncio.Future[None]:
        """A future of this waiter's own: another's cancellation must not reach it."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = getattr(self, slot)
        if waiters is None:
            setattr(self, slot, [future])
        else:
            waiters.append(future)
        return future

    # ---- told by the session

    def _on_accepted(self) -> None:
        _wake(self._accepts)

    def _on_progress(self, value: Raw) -> None:
        if self._progress is None:
            self._progress = deque(maxlen=PROGRESS_KEPT)
        self._progress.append(value.copy())  # else it would keep its whole frame
        _wake(self._readers)

    def _on_cancel(self, answer: bool | InorderError) -> None:
        waiters, self._cancels = self._cancels or [], None
        for future in waiters:
            if future.done():
                continue
            if isinstance(answer, bool):
                future.set_result(answer)
            else:
                future.set_exception(answer)

    def _on_ended(self) -> None:
        _wake(self._waiters)
        _wake(self._accepts)
        _wake(self._readers)
        if self._cancels:
            self._on_cancel(isinstance(self._call.error, Cancelled))


class _Acceptance:
    """Awaits that a job is accepted."""

    __slots__ = ("_job",)

    def __init__(self, job: Job) -> None:
        self._job = job

    def __await__(self) -> Generator[Any, None, int]:
        return self._job._until_accepted().__await__()


def _wake(waiters: list[asyncio.Future[None]] | None) -> None:
    if waiters:
        for future in waiters:
            if not future.done():
                future.set_result(None)
        waiters.clear()
