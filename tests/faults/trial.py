"""One fault run: a server, its clients, the faults of a plan; then the invariants."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import checker
from evidence import Watch, Witness
from network import Network, network
from nursery import Nursery, NurseryServer
from outside import metrics_of
from plan import Client, Plan
from runs import Runs
from teller import Teller
from weather import Weather

PATIENCE = 60.0
"""Seconds that a run may take, and as many again for fifty faults."""
_HANDLERS = Path(__file__).with_name("fault_handlers.py")


class Player(Protocol):
    """A client of a run, in whatever way it talks."""

    witness: Witness

    async def live(self, everybody_in: asyncio.Barrier) -> None: ...


Make = Callable[[Client, Network, Watch, int], Player]


@dataclass
class Report:
    """What a run was, in numbers, and what must not have been."""

    seed: int
    through: str
    seconds: float = 0.0
    clients: int = 0
    accepted: int = 0
    connections: int = 0
    kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    undelivered: int = 0
    longest: float = 0.0
    """Seconds that a client waited for a new outcome, at most."""
    violations: list[str] = field(default_factory=list)


def make(through: str) -> Make:
    """How the clients of a run are made."""
    if through == "library":
        from borrower import Borrower

        return Borrower
    return Teller


async def trial(plan: Plan, nursery: Nursery, *, keep: bool = False) -> Report:
    """Runs it in a folder of its own, which is kept where something is wrong."""
    folder = Path(tempfile.mkdtemp(prefix=f"inorder-{plan.seed}-"))
    report = Report(plan.seed, plan.through, clients=len(plan.clients))
    begun = time.monotonic()
    shutil.copy(_HANDLERS, folder)
    runs = Runs(folder)
    server = NurseryServer(nursery, folder, plan.config)
    try:
        await server.start()
        await _play(plan, server, runs, report)
    finally:
        await server.kill()
        runs.close()
        report.seconds = time.monotonic() - begun
    if report.violations:
        report.violations.append(f"its files are in {folder}")
    elif not keep:
        shutil.rmtree(folder)
    return report


async def _play(plan: Plan, server: NurseryServer, runs: Runs, report: Report) -> None:
    rng = random.Random(plan.seed)
    async with network(server.url, rng) as net:
        players = [make(plan.through)(c, net, runs.stopped, n) for n, c in enumerate(plan.clients)]
        witnesses = [player.witness for player in players]
        bad = report.violations

        def after_death() -> None:
            bad.extend(checker.check_journal(server, witnesses))

        def progress() -> float:
            runs.read()
            finished = all(task.done() for task in living)
            return 1.0 if finished else sum(w.held for w in witnesses) / plan.total

        everybody_in = asyncio.Barrier(len(players))
        living = [asyncio.create_task(player.live(everybody_in)) for player in players]
        weather = Weather(server, net, plan.config["server"]["drain_timeout"], after_death)
        blowing = asyncio.create_task(weather.blow(plan.faults, progress))
        try:
            _, late = await asyncio.wait(
                [blowing, *living], timeout=PATIENCE * (1 + len(plan.faults) / 50)
            )
            for player, task in zip(players, living, strict=True):
                if task in late:
                    bad.append(f"{player.witness.name} is stuck: {player!r}")
            if blowing in late:
                bad.append("a fault has no end")
        finally:
            for task in (blowing, *living):
                task.cancel()
            ends = await asyncio.gather(blowing, *living, return_exceptions=True)
        bad += [f"the run failed: {end!r}" for end in ends if isinstance(end, Exception)]
        bad += weather.trouble
        if not bad:
            await _judge(plan, server, runs, witnesses, weather, report)
        else:
            bad += [words for witness in witnesses for words in witness.trouble]
    report.kills, report.faults = weather.kills, weather.counts
    report.accepted = len(checker.requests_of(witnesses))
    report.connections = sum(witness.connections for witness in witnesses)
    for witness in witnesses:
        report.outcomes += witness.endings
        report.undelivered += max((witness.receipt or {}).get("accepted", 0) - witness.held, 0)


async def _judge(
    plan: Plan,
    server: NurseryServer,
    runs: Runs,
    witnesses: list[Witness],
    weather: Weather,
    report: Report,
) -> None:
    bad = report.violations
    most_interrupts = plan.config["session"].get("max_interrupts", 3)
    bad += checker.check_witnesses(witnesses)
    bad += await _at_rest(server)
    await server.stop()
    if status := await server.ended():
        bad.append(f"it ended with {status}")
    bad += checker.check_ledger(server.folder / "ledger.db", witnesses)
    bad += checker.check_runs(runs, witnesses, weather.restarts)
    bad += checker.check_interrupts(witnesses, weather.kills, most_interrupts)
    bad += checker.check_totals(server, witnesses)
    bad += checker.check_log(server.output())
    bad += await server.verify()


async def _at_rest(server: NurseryServer) -> list[str]:
    """What is left, after a while for the teardown of those who have just gone."""
    for _ in range(100):
        left = list(checker.check_metrics(await asyncio.to_thread(metrics_of, server)))
        if not left:
            break
        await asyncio.sleep(0.02)
    return left
