"""What happens to nodes, to their store and to the ways between them, and when."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from fleet import LEASE, Fleet
from plan import Fault
from proxy import Proxy
from runs import Runs

# Beyond `drain_timeout`, by which a stop must have ended; a busy machine has its share.
_STOP_SECONDS = 2.3
# After it was woken a node has looked at its lease by then.
_NOTICES_WITHIN = LEASE / 2


class FleetWeather:
    """Lets the faults happen, each when so much of the work is done (``progress``), while
    earlier ones last: only what happens to one node, or to the store, happens in turn.

    ``look`` is called when a node or the store has died. ``deaths`` counts what may have
    interrupted a request. What must not be goes to ``trouble``.
    """

    def __init__(
        self, fleet: Fleet, runs: Runs, drain_timeout: float, look: Callable[[], Awaitable[None]]
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.kills = 0
        self.deaths = 0
        self.trouble: list[str] = []
        self._fleet = fleet
        self._runs = runs
        self._drain_timeout = drain_timeout
        self._look = look
        self._nodes = [asyncio.Lock() for _ in fleet.nodes]
        self._store = asyncio.Lock()
        network = fleet.network
        self._kinds: dict[str, Callable[[float], Awaitable[None]]] = {
            "kill": self._kill,
            "stop": self._stop,
            "pause": self._pause,
            "store-kill": self._store_kill,
            "store-cut": self._store_cut,
            "store-hole": self._store_hole,
            "store-slow": self._store_slow,
            "drop": network.drop,
            "cut": network.cut,
            "delay": network.delay,
            "half-open": network.half_open,
        }

    async def blow(self, faults: list[Fault], progress: Callable[[], float]) -> None:
        """All of them, to their ends."""
        async with asyncio.TaskGroup() as lasting:
            for fault in faults:
                while progress() < fault.at:
                    await asyncio.sleep(0.005)
                self.counts[fault.kind] += 1
                lasting.create_task(self._one(fault))
            while progress() < 1:
                await asyncio.sleep(0.005)

    async def _one(self, fault: Fault) -> None:
        await self._kinds[fault.kind](fault.size)

    # ---- nodes

    async def _kill(self, size: float) -> None:
        """Others take over, or the next process comes sooner."""
        n = self._which(size)
        async with self._nodes[n]:
            self._check_alive(n)
            self.kills += 1
            self.deaths += 1
            await self._fleet.nodes[n].kill()
            await self._look()
            await asyncio.sleep(2.5 * LEASE * size * size)
            await self._fleet.start(n)

    async def _stop(self, size: float) -> None:
        """A clean one."""
        n = self._which(size)
        async with self._nodes[n]:
            self._check_alive(n)
            self.deaths += 1
            node, begun = self._fleet.nodes[n], time.monotonic()
            await node.stop()
            status = await node.ended()
            took = time.monotonic() - begun
            if status or took > self._drain_timeout + _STOP_SECONDS:
                self.trouble.append(f"a stop took {took:.1f} s and ended with {status}")
            await asyncio.sleep(LEASE * size)
            await self._fleet.start(n)

    async def _pause(self, size: float) -> None:
        """Mostly past the lease; clients notice after a while, and go elsewhere."""
        n = self._which(size)
        async with self._nodes[n]:
            process, door = self._fleet.nodes[n].process.pid, self._fleet.network.door(n)
            self._check_alive(n)
            self.deaths += 1
            os.kill(process, signal.SIGSTOP)
            door.frozen = True
            try:
                await asyncio.sleep(LEASE / 4)
                if size > 0.2:
                    for abandon in list(door.inside):
                        abandon()
                await asyncio.sleep(2 * LEASE * size)
            finally:
                self._runs.woken(process)
                os.kill(process, signal.SIGCONT)
                door.frozen = False
            await asyncio.sleep(_NOTICES_WITHIN)
            self._runs.awake(process)

    # ---- the store

    async def _store_kill(self, size: float) -> None:
        store = self._fleet.store
        async with self._store:
            self.deaths += len(self._nodes)
            await asyncio.to_thread(store.kill)
            await asyncio.sleep(1.5 * LEASE * size)
            await asyncio.to_thread(store.start)
            await self._look()

    async def _store_cut(self, size: float) -> None:
        """Connections break, and new ones are not to be had."""
        links = self._links(size)
        for link in links:
            link.refuse()
            link.drop()
        await asyncio.sleep(2 * LEASE * size)
        for link in links:
            link.admit()

    async def _store_hole(self, size: float) -> None:
        """Nothing comes through; what was under way arrives in the end, also if it is late."""
        links = self._links(size)
        for link in links:
            link.freeze()
        await asyncio.sleep(2 * LEASE * size)
        for link in links:
            link.thaw()

    async def _store_slow(self, size: float) -> None:
        """Up to as long as an operation may take, and over."""
        links = self._links(size)
        for link in links:
            link.delay = 0.2 * LEASE * size
        await asyncio.sleep(LEASE)
        for link in links:
            link.delay = 0

    # ---- which

    def _which(self, size: float) -> int:
        """A node; the last digits of a random number are random, too."""
        return int(size * 1e6) % len(self._nodes)

    def _links(self, size: float) -> list[Proxy]:
        """One node's way to the store; now and then all of them."""
        links = self._fleet.links
        if size * 1e3 % 1 > 0.2:
            links = [links[self._which(size)]]
        self.deaths += len(links)
        return links

    def _check_alive(self, n: int) -> None:
        with suppress(AssertionError):
            if (status := self._fleet.nodes[n].process.poll()) is not None:
                self.trouble.append(f"node {n} had ended with {status}")
