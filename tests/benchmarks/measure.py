"""One measurement, and many of them by turns."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
from collections.abc import Callable, Sequence

import msgspec
from cases import Case, Load
from machine import cpu_seconds, processors
from subjects import Subject

from inorder_server.bench.crew import Crew
from inorder_server.bench.plan import BenchError, Plan


class Run(msgspec.Struct, kw_only=True):
    """One run. ``cpu_us``: microseconds of a processor that the server took a request;
    ``latency``: milliseconds by name; ``busiest``: how busy the load generator was, 0 to 1;
    ``complaints``: what its check found."""

    per_second: float
    latency: dict[str, float]
    cpu_us: float | None
    busiest: float
    complaints: list[str]
    rate: float | None = None


class Result(msgspec.Struct, kw_only=True):
    """All runs of a case, by bar; the runs of a round have the same index."""

    name: str
    over: str | None
    runs: dict[str, list[Run]]

    def spread(self, bar: str) -> Spread:
        """Throughput."""
        return spread_of([run.per_second for run in self.runs[bar]])

    def ratio(self, bar: str) -> Spread | None:
        """A bar's throughput over that of the case's measure in the same round."""
        if self.over is None or bar == self.over:
            return None
        pairs = zip(self.runs[bar], self.runs[self.over], strict=True)
        return spread_of([a.per_second / b.per_second if b.per_second else 0.0 for a, b in pairs])

    def cpu_ratio(self, bar: str) -> float | None:
        """How many of its requests take the server as much of a processor as one of this bar.

        Steadier than the throughput where others use the machine, too.
        """
        mine = self.cpu_us(bar)
        measure = None if self.over in (None, bar) else self.cpu_us(str(self.over))
        return None if not mine or measure is None else measure / mine

    def latency(self, bar: str, name: str) -> float:
        """Milliseconds; the median of the rounds."""
        return statistics.median(run.latency[name] for run in self.runs[bar])

    def cpu_us(self, bar: str) -> float | None:
        """The median of the rounds."""
        known = [run.cpu_us for run in self.runs[bar] if run.cpu_us is not None]
        return statistics.median(known) if known else None


class Spread(msgspec.Struct, frozen=True):
    """The median of the rounds, the lowest and the highest."""

    median: float
    low: float
    high: float


def spread_of(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """How long it all takes. ``seconds`` are measured, after ``warmup``."""

    rounds: int
    seconds: float
    warmup: float
    processes: int = 1


async def measure(subject: Subject, load: Load, form: Form) -> Run:
    """One run of one load against one server."""
    if subject.load:
        return await _measure_by(subject, load, form)
    rate = None
    if load.rate is not None:
        probe = msgspec.structs.replace(load, rate=None, longer=1, whole=True)
        rate = max(1.0, load.rate * (await measure(subject, probe, form)).per_second)
    plan = Plan(
        url=subject.url,
        token=subject.token,
        bare=subject.bare,
        method="echo",
        params=load.params,
        connections=load.connections,
        in_flight=load.in_flight,
        single_frames=load.single_frames,
        idle=load.idle,
        rate=rate,
        warmup=form.warmup,
        duration=load.longer * form.seconds,
    )
    split = processors()
    async with Crew(plan, form.processes, cpus=split and split[1]) as crew:
        before = cpu_of(subject)
        await crew.run()
        after = cpu_of(subject)
        report = await crew.finish()
    latency = report.histogram
    names = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9}
    took = None if before is None or after is None else after - before
    return Run(
        per_second=report.whole_per_second if load.whole else report.per_second,
        latency={
            **{name: latency.percentile(percent) / 1000 for name, percent in names.items()},
            "max": latency.largest / 1000,
        },
        cpu_us=None if took is None or not report.outcomes else took * 1e6 / report.outcomes,
        busiest=report.busiest,
        rate=rate,
        complaints=[
            *report.samples,
            *(f"error {code}, {count} times" for code, count in report.errors.items()),
            *([] if report.holds else [f"the check fails: {report.wrong}"]),
        ],
    )


async def _measure_by(subject: Subject, load: Load, form: Form) -> Run:
    """The same by a load generator of the server's own: one process."""
    told = {
        "url": subject.url,
        "connections": load.connections,
        "inFlight": load.in_flight,
        "params": load.params,
        "warmup": form.warmup,
        "seconds": load.longer * form.seconds,
    }
    before = cpu_of(subject)
    process = await asyncio.create_subprocess_exec(
        *subject.load, json.dumps(told), stdout=asyncio.subprocess.PIPE, env=subject.env
    )
    if split := processors():
        os.sched_setaffinity(process.pid, split[1])
    output, _ = await process.communicate()
    after = cpu_of(subject)
    report = json.loads(output or "{}")
    if process.returncode:
        raise BenchError(f"{subject.load[-1]}: {report or 'it ended by itself'}")
    took = None if before is None or after is None else after - before
    return Run(
        per_second=report["per_second"],
        latency=report["latency"],
        cpu_us=None if took is None else took * 1e6 / max(1, report["outcomes"]),
        busiest=report["busiest"],
        complaints=report["complaints"],
    )


def cpu_of(subject: Subject) -> float | None:
    """Seconds of a processor that all of its processes took so far."""
    known = [cpu_seconds(pid) for pid in subject.pids]
    return None if None in known else sum(value or 0.0 for value in known)


async def by_turns(
    case: Case,
    subjects: dict[str, Subject],
    form: Form,
    tell: Callable[[str, Run], None],
    load_of: Callable[[Load], Load] = lambda load: load,
) -> Result:
    """All bars of a case, one after the other, as often as there are rounds."""
    runs: dict[str, list[Run]] = {bar: [] for bar in case.bars}
    for number in range(form.rounds):
        # Every second round backwards: who comes first has no advantage by it.
        bars = list(case.bars.items())
        for bar, (who, load) in bars if number % 2 == 0 else reversed(bars):
            run = await measure(subjects[who], load_of(load), form)
            runs[bar].append(run)
            tell(bar, run)
    return Result(name=case.name, over=case.over, runs=runs)
