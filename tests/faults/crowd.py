"""Clients of raw frames that come back by themselves, for the single scenarios."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from frames import Json, request
from network import Network, network
from plan import Client
from runs import Run, Runs
from teller import Teller

PATIENCE = 60.0


def client(name: str, work: list[Json], *, window: int = 200) -> Client:
    """One that sends all its work and says ``bye``; ids are made for it."""
    numbered = [message | {"id": f"{name}-{n}"} for n, message in enumerate(work, 1)]
    return Client(name, seed=0, work=numbered, window=window, ack=10)


def rolls(count: int, ms: float, method: str = "roll") -> list[Json]:
    """So many requests of so many milliseconds each."""
    return [request(method, {"ms": ms}) for _ in range(count)]


async def crowd(
    url: str,
    clients: list[Client],
    runs: Runs,
    during: Callable[[Network, list[Teller]], Awaitable[object]],
) -> list[Teller]:
    """All of them live until their receipts, while something happens to the server."""
    async with network(url, random.Random(0)) as net:
        tellers = [Teller(one, net, runs.stopped, n) for n, one in enumerate(clients)]
        everybody_in = asyncio.Barrier(len(tellers))
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            happening = group.create_task(_happen(during, net, tellers))
            for teller in tellers:
                group.create_task(teller.live(everybody_in))
            await happening
    return tellers


async def _happen(
    during: Callable[[Network, list[Teller]], Awaitable[object]],
    net: Network,
    tellers: list[Teller],
) -> None:
    await during(net, tellers)


async def until(condition: Callable[[], object], patience: float = 30.0) -> None:
    """Waits until it holds."""
    async with asyncio.timeout(patience):
        while not condition():
            await asyncio.sleep(0.005)


def runs_of(runs: Runs, session: str) -> list[Run]:
    """What ran of a session, in order."""
    return [run for run in runs.read() if run.session == session]
