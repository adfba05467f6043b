"""The store of several nodes is away under load: nothing is lost or invented, all goes on again.

A few leases long; ``pytest tests/faults/test_away.py --away 30``: so many seconds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import checker
import fleet_checker
import pytest
from crowd import client, until
from evidence import PASSWORD, Witness
from fleet import Fleet, fleet
from frames import Json, RawClient, request
from nursery import Nursery
from runs import Runs
from vault import vault
from wanderer import Passenger, Wanderer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(330)]

CLIENTS = 9
WORK = 60
# Beyond the outage, for a busy machine with a slow store.
_SPARE = 200.0
_CONFIG = {
    "server": {"ping_interval": 1},
    "handlers": {"modules": ["vault_handlers", "fault_handlers"]},
}


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path)
    yield made
    made.close()


def work() -> list[Json]:
    """Deposits and rolls by turns."""
    return [
        request("deposit", {"amount": 5}) if n % 2 else request("roll", {"ms": 10})
        for n in range(WORK)
    ]


async def refused(socket: RawClient, name: str, url: str) -> None:
    """New requests are, as soon as the store is known to be away: on a connection that stands,
    and at the door."""
    answers: list[Json] = []
    for n in range(2, 1000):
        # What is on its way when it happens waits, and has no answer.
        await socket.send(request("roll", {"ms": 1}, id=f"x{n}"), {"type": "ping", "data": n})
        await socket.until("pong")
        answers = [m for m in socket.seen if m.get("of") == "request"]
        if answers:
            break
        await asyncio.sleep(0.01)
    assert [(m["code"], m["retry"]) for m in answers] == [("store_unavailable", True)]
    # By then its node may run nothing any more, and it learns that its session may move.
    assert await socket.until_closed() == (4509, "moved")
    async with RawClient(url) as late:
        await late.send({"type": "hello", "username": name, "password": PASSWORD})
        answer = await late.until("error")
        assert (answer["code"], answer["retry"]) == ("store_unavailable", True), answer


async def everybody(ships: Fleet, runs: Runs, seconds: float) -> list[Witness]:
    """All clients with all their work, and the outage in the middle of it."""
    network = ships.network
    players = [
        Wanderer(client(f"client-{n}", work(), window=8), network, runs.stopped, n)
        if n % 2
        else Passenger(client(f"client-{n}", work(), window=8), ships.front, runs.stopped, n)
        for n in range(CLIENTS)
    ]
    witnesses = [player.witness for player in players]
    processes = [node.process.pid for node in ships.nodes]
    barrier = asyncio.Barrier(CLIENTS)
    async with asyncio.timeout(seconds + _SPARE), asyncio.TaskGroup() as living:
        for player in players:
            living.create_task(player.live(barrier))
        async with RawClient(ships.nodes[0].url) as one:
            await one.register("ann", PASSWORD)
            await one.send(request("roll", {"ms": 1}, id="x1"))
            await one.until("result")
            await until(lambda: all(witness.held > 5 for witness in witnesses))
            await asyncio.to_thread(ships.store.kill)
            outage = asyncio.create_task(asyncio.sleep(seconds))
            await refused(one, "ann", ships.nodes[0].url)
        told = [witness.told for witness in witnesses]
        assert sum(told) < CLIENTS * WORK
        await outage
        assert [witness.told for witness in witnesses] == told, "accepted by nobody's store"
        await asyncio.to_thread(ships.store.start)
        known = fleet_checker.told(witnesses)
        assert await asyncio.to_thread(lambda: [*fleet_checker.check_documents(ships, known)]) == []
    assert [node.process.pid for node in ships.nodes] == processes
    assert [node.process.poll() for node in ships.nodes] == [None] * len(processes)
    return witnesses


async def test_the_store_is_away_under_load(
    nursery: Nursery, tmp_path: Path, runs: Runs, away: float
) -> None:
    async with (
        vault(tmp_path) as bank,
        fleet(nursery, tmp_path, 3, _CONFIG, random.Random(0)) as ships,
    ):
        witnesses = await everybody(ships, runs, away)
        assert list(checker.check_witnesses(witnesses)) == []
        assert [witness.endings for witness in witnesses] == [{"done": WORK}] * CLIENTS
        books = bank.balances, bank.bookings, bank.answers
        assert list(checker.check_books(*books, witnesses)) == []
        assert list(checker.check_interrupts(witnesses, kills=0)) == []
        for node in ships.nodes:
            await node.stop()
        assert [await node.ended() for node in ships.nodes] == [0] * len(ships.nodes)
        assert list(fleet_checker.check_logs(ships)) == []
        assert await ships.verify() == []
