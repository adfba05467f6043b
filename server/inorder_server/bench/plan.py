"""What a process of the generator is told, and what it tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from .histogram import Histogram

SAMPLES = 10
"""So many complaints are told in words; all are counted."""


class BenchError(Exception):
    """The run can't be done, or not go on; the text is for the person who started it."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The load of one process, or of all. Times are seconds.

    ``rate``: requests a second over all connections (the open loop); None: each connection
    keeps ``in_flight`` under way (the closed loop). ``params`` is JSON. ``idle``: further
    connections that only stay open. ``patience``: how long nothing at all may come while
    answers are due. ``bare``: the peer is no inorder server but sends every frame back as it
    came, which is what one compares with.
    """

    url: str
    token: str
    method: str
    params: str
    connections: int
    in_flight: int = 1
    rate: float | None = None
    single_frames: bool = False
    idle: int = 0
    warmup: float = 0.0
    duration: float
    patience: float = 30.0
    bare: bool = False

    def share(self, processes: int) -> list[Plan]:
        """The plans of so many processes: connections and rate divided as evenly as can be."""
        shares = []
        for number in range(processes):
            count = _part(self.connections, processes, number)
            rate = None if self.rate is None else self.rate * count / self.connections
            idle = _part(self.idle, processes, number)
            shares.append(msgspec.structs.replace(self, connections=count, rate=rate, idle=idle))
        return shares


def _part(whole: int, parts: int, number: int) -> int:
    return whole * (number + 1) // parts - whole * number // parts


class Report(msgspec.Struct, kw_only=True):
    """What came of a run, in one process or in all.

    ``answered``: outcomes that came within the measured time, ``seconds``. ``latency``: of the
    requests that were due within it, in microseconds, whenever their outcomes came; see
    :meth:`Histogram.dump`. ``outcomes``: in the whole run, with warm-up and what came after
    the end. ``errors``: those that failed by code, refusals as ``refused CODE``.
    ``elapsed``: seconds from the first request of the run to its last outcome; ``outcomes``
    over it is a throughput that bursts longer than ``seconds`` don't distort.
    ``wrong``: kinds of what must not be, and how often. ``receipts``: sessions that ended with
    a receipt that agrees with what came. ``cpu``: seconds of a processor that the generator
    took within ``seconds``; ``processes``: in so many processes.
    """

    answered: int = 0
    outcomes: int = 0
    sessions: int = 0
    receipts: int = 0
    seconds: float = 0.0
    elapsed: float = 0.0
    cpu: float = 0.0
    busiest: float = 0.0
    processes: int = 1
    latency: tuple[int, int, list[tuple[int, int]]] = (0, 0, [])
    errors: dict[str, int] = {}
    wrong: dict[str, int] = {}
    samples: list[str] = []

    @property
    def per_second(self) -> float:
        """Outcomes a second in the measured time."""
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def whole_per_second(self) -> float:
        """Outcomes a second over the whole run."""
        return self.outcomes / self.elapsed if self.elapsed else 0.0

    @property
    def holds(self) -> bool:
        """Whether every outcome came once and in order, and every receipt agrees."""
        return not self.wrong and self.receipts == self.sessions

    @property
    def histogram(self) -> Histogram:
        """The latencies."""
        return Histogram.load(*self.latency)


def merged(reports: Iterable[Report]) -> Report:
    """The report of several processes that ran at the same time."""
    whole, latency = Report(processes=0), Histogram()
    errors: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for report in reports:
        whole.answered += report.answered
        whole.outcomes += report.outcomes
        whole.sessions += report.sessions
        whole.receipts += report.receipts
        whole.cpu += report.cpu
        whole.processes += report.processes
        whole.seconds = max(whole.seconds, report.seconds)
        whole.elapsed = max(whole.elapsed, report.elapsed)
        whole.busiest = max(whole.busiest, report.busiest)
        whole.samples = [*whole.samples, *report.samples][:SAMPLES]
        latency.merge(report.histogram)
        errors.update(report.errors)
        wrong.update(report.wrong)
    whole.latency, whole.errors, whole.wrong = latency.dump(), dict(errors), dict(wrong)
    return whole
