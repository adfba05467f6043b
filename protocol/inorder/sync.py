"""The client for programs without asyncio: the same names, and calls that wait.

Each session has a thread with an event loop of its own, in which :mod:`inorder.aio` runs; a
session and its jobs may be used from several threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import Any, Literal, TypeVar

from msgspec import UNSET

from . import aio, job
from .credentials import State
from .events import Outcome
from .messages import MethodLine, Receipt, StatusReport

T = TypeVar("T")
_END = object()


class _Loop:
    """A thread that runs an event loop until it is stopped."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="inorder", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()

    def wait(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Runs it there and waits. Raises ``TimeoutError`` after ``timeout`` seconds."""
        if not self._thread.is_alive():
            work.close()
            raise RuntimeError("the session has been left")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()


class Job:
    """A request that was submitted; :meth:`result` waits for it."""

    def __init__(self, loop: _Loop, inner: job.Job) -> None:
        self._loop = loop
        self._job = inner

    def __repr__(self) -> str:
        return repr(self._job)

    @property
    def id(self) -> str:
        """The name it has in its session."""
        return self._job.id

    @property
    def seq(self) -> int | None:
        """Its number; None until it is accepted."""
        return self._job.seq

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._job.done

    def result(self, timeout: float | None = None) -> Any:
        """Waits for its result, or raises its error. After ``timeout`` seconds raises
        ``TimeoutError``; the request goes on."""
        if self._job.done:
            if (error := self._job._call.error) is not None:
                raise error
            return self._job._call.result
        return self._loop.wait(_awaited(self._job), timeout)

    def accepted(self, timeout: float | None = None) -> int:
        """Waits until the server has it for good; returns its seq."""
        return int(self._loop.wait(_awaited(self._job.accepted), timeout))

    def progress(self) -> Iterator[Any]:
        """What the handler tells while it runs, until the request ends. Lossy."""
        return _iterate(self._loop, self._job.progress())

    def cancel(self) -> bool:
        """Asks that it be cancelled: True when it is being cancelled or was."""
        return self._loop.wait(self._job.cancel())


class Session:
    """A session on a live connection; :class:`connect` makes it."""

    def __init__(self, loop: _Loop, inner: aio.Session) -> None:
        self._loop = loop
        self._session = inner

    @property
    def id(self) -> str:
        """The session's id, by which it can be resumed."""
        return self._session.id

    @property
    def user(self) -> str:
        """The name that one is logged in by."""
        return self._session.user

    @property
    def token(self) -> str | None:
        """The newest token for this user; good for the next login."""
        return self._session.token

    @property
    def state(self) -> State:
        """What to keep, in order to pass it to ``resume=`` later."""
        return self._session.state

    @property
    def receipt(self) -> Receipt | None:
        """The proof that the queue ended empty, once :meth:`close` has brought it."""
        return self._session.receipt

    def request(self, method: str, /, *args: Any, **params: Any) -> Any:
        """Calls a method and waits for its result. Raises ``InorderError``."""
        return self._loop.wait(self._session.request(method, *args, **params))

    def submit(
        self,
        method: str,
        params: Any = None,
        id: str | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Takes a request and returns; it is sent in its turn (see ``aio.Session.submit``)."""

        async def submit() -> job.Job:
            return self._session.submit(method, params, id, timeout)

        return Job(self._loop, self._loop.wait(submit()))

    def outcomes(self) -> Iterator[Outcome]:
        """After a resume: how the requests ended that an earlier start had sent, in order."""
        return _iterate(self._loop, self._session.outcomes())

    def status(self, from_seq: int | None = None) -> StatusReport:
        """How the session stands on the server."""
        return self._loop.wait(self._session.status(from_seq))

    def methods(self) -> list[MethodLine]:
        """What can be called."""
        return self._loop.wait(self._session.methods())

    def ping(self, data: Any = UNSET) -> float:
        """Seconds to the server and back."""
        return self._loop.wait(self._session.ping(data))

    def close(self, mode: Literal["finish", "cancel"] = "finish") -> Receipt:
        """Ends the session and returns its receipt."""
        if self.receipt is not None:
            return self.receipt
        return self._leave(self._session.close(mode))

    def detach(self) -> State:
        """Leaves the session without ending it. Returns the state to resume with."""
        if not self._loop._thread.is_alive():
            return self.state
        return self._leave(self._session.detach())

    def _leave(self, work: Coroutine[Any, Any, T]) -> T:
        result = self._loop.wait(work)
        self._loop.stop()
        return result


class connect:
    """Opens a session: ``with connect(url, token=…) as session``.

    Options and errors are those of :class:`inorder.connect`; ``auth`` and ``on_state`` are
    called in the session's thread, and must not wait for the session there.
    ``connect(…).open()`` leaves the end to the program.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._connect = aio.connect(url, **options)
        self._session: Session | None = None

    def open(self) -> Session:
        """Opens the session; it lasts until its ``close()`` or ``detach()``."""
        loop = _Loop()
        try:
            inner = loop.wait(_awaited(self._connect))
        except BaseException:
            loop.stop()
            raise
        return Session(loop, inner)

    def __enter__(self) -> Session:
        self._session = self.open()
        return self._session

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        session = self._session
        assert session is not None
        try:
            if kind is None and session._loop._thread.is_alive():
                session.close()
            else:
                session.detach()
        finally:
            session._loop.stop()


async def _awaited(work: Any) -> Any:
    return await work


def _iterate(loop: _Loop, items: Any) -> Iterator[Any]:
    while (item := loop.wait(anext(items, _END))) is not _END:
        yield item


__all__ = ["Job", "Session", "connect"]
