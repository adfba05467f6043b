"""One fault run on several nodes: nodes, store, clients, the faults of a plan; the invariants."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from pathlib import Path

import checker
import fleet_checker
from evidence import Witness
from fleet import Fleet, fleet
from fleet_plan import FleetPlan
from fleet_weather import FleetWeather
from nursery import Nursery
from outside import metrics_of
from rivals import Quarrel
from runs import Runs
from trial import Player, Report
from vault import Vault, vault
from wanderer import Passenger, Wanderer

PATIENCE = 120.0
"""Seconds that a run may take: most take ten, on a machine that others use it may be many more."""


async def fleet_trial(plan: FleetPlan, nursery: Nursery, *, keep: bool = False) -> Report:
    """Runs it in a folder of its own, which is kept where something is wrong."""
    folder = Path(tempfile.mkdtemp(prefix=f"inorder-{plan.seed}-"))
    report = Report(plan.seed, f"{plan.nodes} nodes", clients=len(plan.clients) + 2)
    begun = time.monotonic()
    runs = Runs(folder)
    try:
        async with vault(folder) as bank:
            rng = random.Random(plan.seed)
            async with fleet(nursery, folder, plan.nodes, plan.config, rng) as ships:
                await _play(plan, ships, bank, runs, report)
    finally:
        runs.close()
        report.seconds = time.monotonic() - begun
    if report.violations:
        report.violations.append(f"its files are in {folder}")
    elif not keep:
        shutil.rmtree(folder)
    return report


def _players(plan: FleetPlan, ships: Fleet, runs: Runs) -> list[Player]:
    """Raw frames and the library by turns; the latter behind the balancer."""
    players: list[Player] = [
        Wanderer(client, ships.network, runs.stopped, n)
        if n % 2
        else Passenger(client, ships.front, runs.stopped, n)
        for n, client in enumerate(plan.clients)
    ]
    return [*players, Quarrel(plan.rivals, ships.network)]


async def _play(plan: FleetPlan, ships: Fleet, bank: Vault, runs: Runs, report: Report) -> None:
    players = _players(plan, ships, runs)
    witnesses = [player.witness for player in players]
    bad = report.violations

    async def look() -> None:
        known = fleet_checker.told(witnesses)
        bad.extend(await asyncio.to_thread(lambda: [*fleet_checker.check_documents(ships, known)]))

    def progress() -> float:
        runs.read()
        if not all(witness.held for witness in witnesses):
            # A session that has accepted nothing ends with its connection: all are to have one.
            return 0.0
        finished = all(task.done() for task in living)
        return 1.0 if finished else min(sum(w.held for w in witnesses) / plan.total, 0.999)

    everybody_in = asyncio.Barrier(len(players))
    living = [asyncio.create_task(player.live(everybody_in)) for player in players]
    weather = FleetWeather(ships, runs, plan.config["server"]["drain_timeout"], look)
    blowing = asyncio.create_task(weather.blow(plan.faults, progress))
    try:
        _, late = await asyncio.wait([blowing, *living], timeout=PATIENCE)
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
        await _judge(ships, bank, runs, witnesses, weather, bad)
    else:
        bad += [words for witness in witnesses for words in witness.trouble]
    report.kills, report.faults = weather.kills, weather.counts
    report.accepted = len(checker.requests_of(witnesses))
    for witness in witnesses:
        report.connections += witness.connections
        report.longest = max(report.longest, witness.longest)
        report.outcomes += witness.endings
        report.undelivered += max((witness.receipt or {}).get("accepted", 0) - witness.held, 0)


async def _judge(
    ships: Fleet,
    bank: Vault,
    runs: Runs,
    witnesses: list[Witness],
    weather: FleetWeather,
    bad: list[str],
) -> None:
    bad += checker.check_witnesses(witnesses)
    bad += await _at_rest(ships)
    for node in ships.nodes:
        await node.stop()
    for n, node in enumerate(ships.nodes):
        if status := await node.ended():
            bad.append(f"node {n} ended with {status}")
    deaths = weather.deaths + fleet_checker.lapses(ships)
    bad += checker.check_books(bank.balances, bank.bookings, bank.answers, witnesses)
    bad += checker.check_runs(runs, witnesses, deaths)
    bad += checker.check_interrupts(witnesses, deaths)
    bad += await asyncio.to_thread(lambda: [*fleet_checker.check_sessions(ships, witnesses)])
    bad += fleet_checker.check_logs(ships)
    bad += [f"a SQLite file: {file}" for file in ships.folder.glob("node-*/*.db*")]
    bad += await ships.verify()


async def _at_rest(ships: Fleet) -> list[str]:
    """What is left, after a while for the teardown of those who have just gone."""
    left: list[str] = []
    for _ in range(250):
        metrics = [await asyncio.to_thread(metrics_of, node) for node in ships.nodes]
        left = [words for one in metrics for words in checker.check_metrics(one)]
        if not left:
            break
        await asyncio.sleep(0.02)
    return left
