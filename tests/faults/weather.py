"""What happens to the server of a fault run, and when."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import vector_server
from network import Network
from outside import locked
from plan import Fault
from vector_server import ServerProcess

# Beyond `drain_timeout`, by which a stop must have ended.
_STOP_SECONDS = 2.0


class Weather:
    """Lets the faults happen, each when so much of the work is done (``progress``).

    ``after_death`` is called while no server runs. What must not be goes to ``trouble``.
    """

    def __init__(
        self,
        server: ServerProcess,
        network: Network,
        drain_timeout: float,
        after_death: Callable[[], object],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.restarts = 0
        self.kills = 0
        self.trouble: list[str] = []
        self._server = server
        self._network = network
        self._drain_timeout = drain_timeout
        self._after_death = after_death

    async def blow(self, faults: list[Fault], progress: Callable[[], float]) -> None:
        """All of them; those on the network last while the next ones happen."""
        lasting: list[asyncio.Task[None]] = []
        for fault in faults:
            while progress() < fault.at:
                await asyncio.sleep(0.002)
            self.counts[fault.kind] += 1
            on_network: dict[str, Callable[[float], Awaitable[None]]] = {
                "drop": self._network.drop,
                "cut": self._network.cut,
                "delay": self._network.delay,
                "half-open": self._network.half_open,
            }
            if fault.kind in on_network:
                lasting.append(asyncio.ensure_future(on_network[fault.kind](fault.size)))
            else:
                on_server = getattr(self, f"_{fault.kind}")
                await on_server(fault.size)
        if lasting:
            await asyncio.gather(*lasting)

    async def _start(self) -> None:
        await self._server.start()
        self._network.point(self._server.url)

    async def _kill(self, size: float) -> None:
        """Now and then once more, while it starts or has just started."""
        for again in (size < 0.25, False):
            if size > 0.8:
                # It dies without having read what lies in its sockets.
                self._signal(signal.SIGSTOP)
                await asyncio.sleep(0.03)
            self._check_alive("before a kill")
            self.kills += 1
            self.restarts += 1
            await self._server.kill()
            self._after_death()
            await self._start()
            if not again:
                return
            await asyncio.sleep(size * size)

    async def _stop(self, size: float) -> None:
        """A clean stop; or one that a second signal, or a kill, cuts short."""
        self._check_alive("before a stop")
        self.restarts += 1
        begun = time.monotonic()
        await self._server.stop()
        hasty = size > 0.8
        if hasty:
            await asyncio.sleep(size * self._drain_timeout / 4)
            if self._server.process.poll() is None:
                await self._server.stop() if size < 0.9 else self._server.process.kill()
        status = await self._server.ended()
        took = time.monotonic() - begun
        if not hasty and (status or took > self._drain_timeout + _STOP_SECONDS + 0.3):
            self.trouble.append(f"a stop took {took:.1f} s and ended with {status}")
        self._after_death()
        await self._start()

    async def _pause(self, size: float) -> None:
        self._signal(signal.SIGSTOP)
        await asyncio.sleep(0.02 + 0.4 * size)
        self._signal(signal.SIGCONT)

    async def _lock(self, size: float) -> None:
        """Nothing can be written to the database: shortly, or for longer than the server waits."""
        if vector_server.databases is not None and not vector_server.databases.owned:
            return await self._pause(size)
        seconds = 2.5 if size > 0.9 else 0.02 + 0.5 * size
        return await asyncio.to_thread(self._hold, seconds)

    def _hold(self, seconds: float) -> None:
        with locked(self._server):
            time.sleep(seconds)

    async def _full(self, size: float) -> None:
        """No file grows any more, some bytes from now, or at once; then they do again.

        What the kernel says (EFBIG) is an I/O error to SQLite; nobody needs to be root for it.
        """
        with FullDisk(self._server.process.pid, 1 if size < 0.5 else self._log_size()):
            await asyncio.sleep(0.05 + 0.3 * size)

    def _log_size(self) -> int:
        log = self._server.database.with_name("inorder.db-wal")
        return log.stat().st_size + 5000 if log.exists() else 1

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._server.process.pid, number)

    def _check_alive(self, when: str) -> None:
        if (status := self._server.process.poll()) is not None:
            self.trouble.append(f"{when} it had ended with {status}")


class FullDisk:
    """``with``: this process can't write to any file beyond ``limit`` bytes."""

    def __init__(self, pid: int, limit: int) -> None:
        self._pid = pid
        self._limit = limit

    def __enter__(self) -> None:
        _, hard = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (self._limit, hard))

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            _, hard = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (hard, hard))
