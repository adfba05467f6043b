"""The ways between the clients of a fault run and its server, and what goes wrong on them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from proxy import Proxy

DOORS = 3


class Door:
    """A proxy with the clients that came through it; ``abandon`` is called for each client
    whose connection has gone dead without anybody saying so."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.frozen = False
        self.inside: set[Callable[[], None]] = set()


class Network:
    """Some proxies to one server, which may come back on another port."""

    def __init__(self, doors: list[Door], rng: random.Random) -> None:
        self._doors = doors
        self._rng = rng

    def point(self, url: str) -> None:
        """Where the server is now."""
        for door in self._doors:
            door.proxy.target = url

    def refuse(self) -> None:
        """Nobody is let in any more."""
        for door in self._doors:
            door.proxy.refuse()

    def admit(self) -> None:
        """Everybody is let in again."""
        for door in self._doors:
            door.proxy.admit()

    def door(self, n: int | None = None) -> Door:
        """The door of the n-th client; without a number any that is not frozen."""
        if n is not None:
            return self._doors[n % len(self._doors)]
        return self._rng.choice([d for d in self._doors if not d.frozen] or self._doors)

    async def drop(self, size: float) -> None:
        """Resets the connections of one door, or of all."""
        for door in self._some(size):
            door.proxy.drop() if size < 0.8 else door.proxy.close()

    async def cut(self, size: float) -> None:
        """For a moment connections end in the middle of a frame, one way or the other."""

        def cut(_: int, chunk: bytes) -> int | None:
            return self._rng.randint(0, len(chunk) - 1) if self._rng.random() < 0.2 else None

        doors = self._some(size)
        for door in doors:
            if size < 0.7:
                door.proxy.cut_down = cut
            if size > 0.3:
                door.proxy.cut_up = cut
        await asyncio.sleep(0.05 + 0.2 * size)
        for door in doors:
            door.proxy.cut_down = door.proxy.cut_up = None

    async def delay(self, size: float) -> None:
        """For a moment all takes longer."""
        doors = self._some(size)
        for door in doors:
            door.proxy.delay = 0.002 + 0.02 * size
        await asyncio.sleep(0.2)
        for door in doors:
            door.proxy.delay = 0

    async def half_open(self, size: float) -> None:
        """Connections go dead; who notices comes back by another door, beside the dead one."""
        door = self._some(0)[0]
        door.frozen = True
        door.proxy.freeze()
        await asyncio.sleep(0.02)
        for abandon in list(door.inside):
            abandon()
        await asyncio.sleep(0.1 + 0.5 * size)
        door.frozen = False
        door.proxy.thaw()

    def _some(self, size: float) -> list[Door]:
        return self._rng.sample(self._doors, len(self._doors) if size > 0.5 else 1)


@asynccontextmanager
async def network(url: str, rng: random.Random) -> AsyncIterator[Network]:
    """The proxies to this server."""
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy(url)) for _ in range(DOORS)]
        yield Network([Door(proxy) for proxy in proxies], rng)
        for proxy in proxies:
            proxy.thaw()
