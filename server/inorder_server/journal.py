"""The journal: group commit in front of the store.

While one commit is under way, everything that arrives waits together for the next: acceptances,
cancels, outcomes, acknowledgements of all sessions. There is no timer, so an idle server commits
at once. Source: design.md section 5, "Commit in groups", and ownership.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from loguru import logger

from .metrics import Metrics
from .stores.port import Store, StoreUnavailable, Write

Committed = Callable[[bool], object]
"""Called once a write is durable (True), or matched nothing because its session is fenced."""

# What may wait for its commit before new requests are refused as `overloaded`.
BACKLOG_BYTES = 64 << 20
# A write costs some memory whatever it carries.
_WRITE_BYTES = 200


def backoff(first: float = 0.05, factor: float = 2.0, most: float = 1.0) -> Iterator[float]:
    """Seconds to wait before each further try of a store that is away."""
    delay = first
    while True:
        yield delay
        delay = min(delay * factor, most)


class Journal:
    """Writes of all sessions, committed in groups, in the order in which they were appended.

    A commit whose answer is an error is tried again, unchanged, until the store is back: what
    was appended is never given up, and never known to be refused. ``available`` is false
    meanwhile, and new requests must be refused.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        *,
        delays: Callable[[], Iterator[float]] = backoff,
    ) -> None:
        self.available = True
        self._store = store
        self._metrics = metrics
        self._delays = delays
        self.turn = 0
        """Rises when what waits is taken for a commit."""
        self._waiting: list[Write] = []
        self._callbacks: list[tuple[str, Committed]] = []
        self._bytes = self._count = 0
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._idle: list[asyncio.Future[None]] = []
        self._closed = False

    @property
    def overloaded(self) -> bool:
        """Whether more waits to be committed than memory should be spent on."""
        return self._bytes > BACKLOG_BYTES

    def start(self) -> None:
        """Begins to commit. Must be called on the loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="journal")

    def append(self, write: Write, committed: Committed, size: int = 0, count: int = 1) -> None:
        """Hands a write over; ``committed`` is called on the loop, in order of appending.

        ``size`` is the bytes of its bodies, ``count`` how many requests it writes to.
        """
        self._waiting.append(write)
        self._callbacks.append((write.session, committed))
        self.more(size, count)
        if self._wake is not None:
            self._rouse()

    def more(self, size: int, count: int) -> None:
        """A write that was appended in this :attr:`turn` has so many more."""
        self._count += count
        self._bytes += _WRITE_BYTES * count + size

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
        self._wake = None

    async def flushed(self) -> None:
        """Returns when everything appended so far is durable and was reported."""
        if self._waiting or self._wake is None:
            done = asyncio.get_running_loop().create_future()
            self._idle.append(done)
            await done

    async def close(self, timeout: float) -> bool:  # noqa: ASYNC109
        """Commits what waits, for at most ``timeout`` seconds. False where some was left."""
        self._closed = True
        if self._task is None:
            return True
        self._rouse()
        _, pending = await asyncio.wait([self._task], timeout=timeout)
        if pending:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1)
            return False
        return True

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._waiting:
                self._report_idle()
                if self._closed:
                    return
                self._wake = loop.create_future()
                await self._wake
            # Let the rest of this turn of the loop join: the requests of one frame, and what
            # those begin who were told of the commit before. One commit is as dear for many
            # as for one.
            await asyncio.sleep(0)
            if not self._waiting:
                continue
            self.turn += 1
            writes, callbacks = self._waiting, self._callbacks
            self._waiting, self._callbacks = [], []
            size, self._bytes = self._bytes, 0
            count, self._count = self._count, 0
            fenced = await self._commit(writes, size)
            self._metrics.committed(count)
            self._report(callbacks, fenced)

    async def _commit(self, writes: list[Write], size: int) -> set[str]:
        delays: Iterator[float] | None = None
        while True:
            try:
                fenced = await self._store.commit(writes)
            except Exception as exc:
                if not isinstance(exc, StoreUnavailable):
                    # A fault of ours: nothing may be lost for it, so it is tried again too.
                    logger.opt(exception=exc).error("a commit failed")
                if delays is None:
                    delays = self._delays()
                    self._bytes += size
                if self.available:
                    self.available = False
                    logger.error("the store is unavailable, nothing more is accepted: {}", exc)
                await asyncio.sleep(next(delays))
            else:
                if delays is not None:
                    self._bytes -= size
                if not self.available:
                    self.available = True
                    logger.info("the store is back; all that waited is committed")
                return fenced

    def _report(self, callbacks: list[tuple[str, Committed]], fenced: set[str]) -> None:
        for session, committed in callbacks:
            try:
                committed(session not in fenced)
            except Exception:
                # One session's trouble must not keep the others from their answers.
                logger.opt(exception=True).error("a committed write could not be reported")

    def _report_idle(self) -> None:
        waiting, self._idle = self._idle, []
        for done in waiting:
            if not done.done():
                done.set_result(None)
