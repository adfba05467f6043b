"""Many fault runs: ``python tests/faults/run.py --runs 500 --seed 1``, on one node and SQLite;
with ``--nodes 3`` on so many, with MongoDB between them.

Prints totals, and for each run in which a promise was broken its seed and what was seen;
``--seed N --runs 1`` runs the same clients, requests and faults again. The exit status is 1
where anything was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from fleet_plan import FleetPlan, fleet_plan  # noqa: E402
from fleet_trial import fleet_trial  # noqa: E402
from nursery import Nursery  # noqa: E402
from plan import Plan, plan  # noqa: E402
from trial import Report, trial  # noqa: E402


class Totals:
    """Over all runs."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.numbers: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.broken: list[Report] = []
        self.smallest = 10**9
        self.longest = (0.0, 0)
        """Seconds that a client waited for an outcome, and the run's seed."""

    def add(self, report: Report) -> None:
        self.runs[report.through] += 1
        for name in ("clients", "accepted", "connections", "kills", "undelivered"):
            self.numbers[name] += getattr(report, name)
        self.smallest = min(self.smallest, report.accepted)
        self.longest = max(self.longest, (report.longest, report.seed))
        self.faults += report.faults
        self.outcomes += report.outcomes
        if report.violations:
            self.broken.append(report)

    def lines(self, seconds: float) -> list[str]:
        numbers = self.numbers
        runs = sum(self.runs.values())
        return [
            f"runs          {runs} in {seconds:.0f} s ({_words(self.runs)})",
            f"clients       {numbers['clients']}, {numbers['connections']} connections",
            f"accepted      {numbers['accepted']} requests, at least {self.smallest} a run",
            f"faults        {sum(self.faults.values())} ({_words(self.faults)})",
            f"kills         {numbers['kills']}",
            f"outcomes      {sum(self.outcomes.values())} ({_words(self.outcomes)})",
            f"undelivered   {numbers['undelivered']} that were due at an early bye",
            f"interrupted   {self.longest[0]:.1f} s at most between two outcomes of a client"
            f" (seed {self.longest[1]})",
            f"violations    {sum(len(report.violations) for report in self.broken)}"
            f" in {len(self.broken)} runs {[report.seed for report in self.broken]}",
        ]


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


async def run(
    nursery: Nursery, plans: Iterator[Plan | FleetPlan], *, keep: bool, every: int
) -> Totals:
    """One run after the other."""
    totals, begun = Totals(), time.monotonic()
    for n, one in enumerate(plans, 1):
        if isinstance(one, FleetPlan):
            report = await fleet_trial(one, nursery, keep=keep)
        else:
            report = await trial(one, nursery, keep=keep)
        seed = one.seed
        totals.add(report)
        if report.violations:
            print(f"seed {seed} ({report.through}, {dict(report.faults)}):")
            print("\n".join(f"    {line}" for line in report.violations[:8]), flush=True)
        elif n % every == 0:
            seconds = time.monotonic() - begun
            print(
                f"{n} runs in {seconds:.0f} s, seed {seed} took {report.seconds:.1f} s", flush=True
            )
    print("\n".join(totals.lines(time.monotonic() - begun)))
    return totals


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the first run")
    parser.add_argument("--nodes", type=int, help="so many, on MongoDB")
    parser.add_argument("--through", choices=["raw", "library"], help="not by turns")
    parser.add_argument("--kills", type=int, default=0, help="nothing but so many kills a run")
    parser.add_argument("--keep", action="store_true", help="keep the files of all runs")
    parser.add_argument("--every", type=int, default=10, help="tell after so many runs")
    given = parser.parse_args()
    seeds = range(given.seed, given.seed + given.runs)
    with Nursery() as nursery:
        plans = (
            fleet_plan(seed, given.nodes) if given.nodes else plan(seed, given.through, given.kills)
            for seed in seeds
        )
        totals = asyncio.run(run(nursery, plans, keep=given.keep, every=given.every))
    return 1 if totals.broken else 0


if __name__ == "__main__":
    sys.exit(main())
