"""A thread with a SQLite connection that only it touches.

Calls are run one after the other. SQLite's own errors end here: they come out as
:class:`StoreUnavailable`, and a connection that may be damaged is replaced before the
next call.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, TypeVar

from .port import StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")

_Job = tuple[Callable[..., Any], tuple[Any, ...], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]

# After these the connection is as good as before; the transaction is rolled back.
_HARMLESS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_CONSTRAINT,
}


class SqliteThread:
    """Runs functions that take a connection, in order, off the event loop.

    ``connect`` is called in the thread, at the first call and after trouble.
    """

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._db: sqlite3.Connection | None = None
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._ended: asyncio.Future[None] | None = None
        # Daemon: a process that must end at once doesn't wait for a disk that hangs.
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def call(
        self, do: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **_: P.kwargs
    ) -> T:
        """What ``do(connection, *args)`` returns. A caller that is cancelled doesn't stop it.

        Raises :class:`StoreUnavailable` for everything that SQLite raises.
        """
        if self._ended is not None:
            raise StoreUnavailable("the store is closed")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._jobs.put((do, args, loop, answer))
        return await answer

    async def close(self, last: Callable[[sqlite3.Connection], None] | None = None) -> None:
        """Runs what was called before, then ``last``, closes the connection and ends the thread."""
        if self._ended is None:
            loop = asyncio.get_running_loop()
            self._ended = loop.create_future()
            if last is not None:
                self._jobs.put((last, (), loop, loop.create_future()))
            self._jobs.put((_end, (), loop, self._ended))
        await asyncio.shield(self._ended)

    # -- in the thread

    def _run(self) -> None:
        while True:
            do, args, loop, answer = self._jobs.get()
            result: Any = None
            error: Exception | None = None
            if do is _end:
                self._drop()
            else:
                try:
                    if self._db is None:
                        self._db = self._connect()
                    result = do(self._db, *args)
                except Exception as exc:
                    self._recover(exc)
                    error = exc
                    if isinstance(exc, sqlite3.Error):
                        error = StoreUnavailable(f"SQLite: {exc}")
                        error.__cause__ = exc
            # A loop that is closed is gone with whoever asked.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_answer, answer, result, error)
            if do is _end:
                return
            # What was answered is not kept alive until the next call.
            del do, args, loop, answer, result, error

    def _recover(self, exc: Exception) -> None:
        """Leaves no transaction open, and no connection that may be damaged."""
        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_CONSTRAINT)
        if code & 0xFF not in _HARMLESS:
            self._drop()
        elif self._db is not None and self._db.in_transaction:
            try:
                self._db.execute("ROLLBACK")
            except sqlite3.Error:
                self._drop()

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            # What was committed is safe, and nothing else counts.
            with contextlib.suppress(sqlite3.Error):
                db.close()


def _end() -> None:
    """The last call: ends the thread."""


def _answer(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
