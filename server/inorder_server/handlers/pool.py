"""A pool of threads that is shared fairly among users.

Source: design.md section 5, "Threads", and section 7. All bookkeeping is done on the event
loop; a thread only ever takes its next job and hands back what came of it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Generic, TypeVar

from loguru import logger

T = TypeVar("T")


class Job(Generic[T]):
    """One call in a thread. ``name`` is for the one who asks what is stuck.

    On the loop, ``started`` is called when a thread takes it and ``ended`` with what
    ``work`` returned, or ``dropped`` where the pool closed before; ``work`` must not raise.
    """

    __slots__ = ("dropped", "ended", "name", "started", "user", "work")

    def __init__(
        self,
        user: str,
        name: str,
        work: Callable[[], T],
        started: Callable[[], None],
        ended: Callable[[T], None],
        dropped: Callable[[], None],
    ) -> None:
        self.user = user
        self.name = name
        self.work = work
        self.started = started
        self.ended = ended
        self.dropped = dropped


class Pool(Generic[T]):
    """Up to ``threads`` threads; users take turns at them, so that none can keep the
    others waiting by asking for more.

    The threads are daemons: one that is stuck for ever does not hold up the exit.
    """

    def __init__(self, threads: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = threads
        self._made = 0
        self._closed = False
        self._ready: SimpleQueue[Job[T] | None] = SimpleQueue()
        self._waiting: dict[str, deque[Job[T]]] = {}
        self._turns: deque[str] = deque()
        self._running: set[Job[T]] = set()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._make_thread()

    def submit(self, job: Job[T]) -> None:
        """Runs the job as soon as it is its user's turn, perhaps at once."""
        if self._closed:
            job.dropped()
            return
        queue = self._waiting.get(job.user)
        if queue is None:
            queue = self._waiting[job.user] = deque()
            self._turns.append(job.user)
        queue.append(job)
        self._start_what_can()

    def withdraw(self, job: Job[T]) -> bool:
        """Takes back a job that still waits; false where it runs or has run."""
        queue = self._waiting.get(job.user)
        if queue is None or job not in queue:
            return False
        queue.remove(job)
        if not queue:
            del self._waiting[job.user]
            self._turns.remove(job.user)
        return True

    async def close(self, seconds: float) -> list[str]:
        """Takes no more jobs, waits up to ``seconds`` for those that run, and
        returns the names of those that still do."""
        self._closed = True
        waiting = [job for queue in self._waiting.values() for job in queue]
        self._waiting.clear()
        self._turns.clear()
        for job in waiting:
            job.dropped()
        for _ in range(self._made):
            self._ready.put(None)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._quiet.wait()
        return sorted(job.name for job in self._running)

    def _start_what_can(self) -> None:
        while self._turns and self._has_thread():
            user = self._turns.popleft()
            queue = self._waiting[user]
            job = queue.popleft()
            if queue:
                self._turns.append(user)
            else:
                del self._waiting[user]
            self._start(job)

    def _has_thread(self) -> bool:
        """Whether a thread is free, or could be made."""
        if len(self._running) < self._made:
            return True
        if self._made == self._threads:
            return False
        try:
            self._make_thread()
        except RuntimeError:
            # The system gives no more: those there are must do.
            logger.warning("no more than {} threads for handlers could be made", self._made)
            self._threads = self._made
            return False
        return True

    def _make_thread(self) -> None:
        name = f"handlers-{self._made + 1}"
        threading.Thread(target=self._work, name=name, daemon=True).start()
        self._made += 1

    def _start(self, job: Job[T]) -> None:
        self._running.add(job)
        self._quiet.clear()
        job.started()
        self._ready.put(job)

    def _work(self) -> None:
        while (job := self._ready.get()) is not None:
            outcome = job.work()
            try:
                self._loop.call_soon_threadsafe(self._end, job, outcome)
            except RuntimeError:
                return  # The loop is closed: nobody waits for this any more.
            del job, outcome

    def _end(self, job: Job[T], outcome: T) -> None:
        self._running.remove(job)
        if not self._running:
            self._quiet.set()
        try:
            job.ended(outcome)
        finally:
            self._start_what_can()
