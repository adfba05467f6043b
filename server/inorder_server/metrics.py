"""What the server counts, in the form that Prometheus reads.

The hot path adds to plain integers; a collector turns them into metric families when somebody
asks. Names and meanings are listed in README.md, "Metrics".
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Histogram:
    """Counts of observations by upper bound, and their sum.

    ``observe`` adds one. They are sorted in many at a time, where somebody looks and
    after each commit: the hot path only appends.
    """

    __slots__ = ("_bounds", "_counts", "_new", "_sum", "observe")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._new: list[float] = []
        self.observe: Callable[[float], None] = self._new.append

    def sort(self) -> None:
        """Puts the newest observations where they belong."""
        bounds, counts, new = self._bounds, self._counts, self._new
        low = high = math.inf
        at = here = 0
        for value in new:
            # Most belong where the one before did.
            if low < value <= high:
                here += 1
                continue
            counts[at] += here
            at, here = bisect_left(bounds, value), 1
            low = bounds[at - 1] if at else -math.inf
            high = bounds[at] if at < len(bounds) else math.inf
        counts[at] += here
        self._sum += sum(new)
        new.clear()

    def family(self, name: str, words: str) -> HistogramMetricFamily:
        """As a metric family, with cumulative buckets."""
        self.sort()
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(name, words, buckets=buckets, sum_value=self._sum)


class Metrics:
    """The counters of one node."""

    def __init__(self) -> None:
        self.connections = 0
        self.connections_opened = 0
        self.logins: Counter[str] = Counter()
        self.accepted = 0
        self.settled: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.receipts = 0
        self.violations = 0
        self.commits = 0
        self.commit_sizes = Histogram(_SIZES)
        self.waited = Histogram(_SECONDS)
        self.ran = Histogram(_SECONDS)
        self.live: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Sessions on this node, and requests waiting or running in their queues."""
        self.ready: Callable[[], bool] = lambda: False
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def committed(self, writes: int) -> None:
        """One commit of so many writes is durable."""
        self.commits += 1
        self.commit_sizes.observe(writes)
        for histogram in (self.commit_sizes, self.waited, self.ran):
            histogram.sort()

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """The metric families; prometheus_client's collector protocol."""
        sessions, depth = self.live()
        yield GaugeMetricFamily("inorder_ready", "1 while the node takes requests", self.ready())
        yield GaugeMetricFamily(
            "inorder_connections", "Open WebSocket connections", self.connections
        )
        yield CounterMetricFamily(
            "inorder_connections_opened", "Connections ever opened", self.connections_opened
        )
        yield GaugeMetricFamily("inorder_sessions", "Sessions on this node", sessions)
        yield GaugeMetricFamily("inorder_queue_depth", "Requests waiting or running", depth)
        yield _labelled("inorder_logins", "Logins by result", "result", self.logins)
        yield CounterMetricFamily("inorder_accepted", "Requests accepted", self.accepted)
        yield _labelled("inorder_settled", "Outcomes by kind", "outcome", self.settled)
        yield _labelled("inorder_refused", "Refusals by code", "code", self.refused)
        yield self.waited.family("inorder_waited_seconds", "From accepted to its start")
        yield self.ran.family("inorder_ran_seconds", "From a request's start to its outcome")
        yield CounterMetricFamily("inorder_commits", "Commits of the journal", self.commits)
        yield self.commit_sizes.family("inorder_commit_writes", "Writes in a commit")
        yield CounterMetricFamily(
            "inorder_receipts_verified", "Receipts that verified", self.receipts
        )
        yield CounterMetricFamily(
            "inorder_violations", "Checks that failed: receipts, damaged sessions", self.violations
        )


def _labelled(name: str, words: str, label: str, counts: Counter[str]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, words, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family
