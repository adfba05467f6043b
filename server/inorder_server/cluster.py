"""What a node may believe of itself and of others: P0 of ownership.md, without I/O.

No two clocks are ever compared: each node counts by its own, one that counts suspended time too.
A node stops by itself before anybody may declare it dead, because its own count begins when it
*sent* the raise that was acknowledged, and the others' when they have *seen* the counter move.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from .stores.shared import Neighbour

# Of a lease: how often it is raised, and how long before its end a node stops by itself.
_RAISES = 3
_MARGIN = 1 / 6


def _boottime() -> Callable[[], float]:
    clock: Any = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if clock is None else lambda: time.clock_gettime(clock)


boottime = _boottime()
"""Seconds by a clock that goes on while the machine is suspended, where there is one."""


class Lease:
    """This node's own lease. ``seconds`` is its length, ``sent`` when the raise to ``n``, which
    is acknowledged, was sent."""

    def __init__(self, seconds: float, n: int, sent: float) -> None:
        self.n = n
        self._seconds = seconds
        self._sent = sent

    @property
    def until(self) -> float:
        """When everything must have stopped, unless it is raised before."""
        return self._sent + self._seconds * (1 - _MARGIN)

    @property
    def due(self) -> float:
        """When it is to be raised next."""
        return self._sent + self._seconds / _RAISES

    def raised(self, sent: float) -> None:
        """A raise that was sent at ``sent`` is acknowledged."""
        self.n += 1
        self._sent = sent

    def lapsed(self, now: float) -> bool:
        """Whether this node must stop: others may believe it dead soon, or do already."""
        return now >= self.until


class Watch:
    """What one node has seen of the others."""

    def __init__(self, me: str, seconds: float) -> None:
        self._me = me
        self._seconds = seconds
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked: float | None = None

    @property
    def alone(self) -> bool:
        """Whether no other node was alive at the last look."""
        return not self._seen

    def look(
        self, sent: float, received: float, neighbours: Iterable[Neighbour]
    ) -> list[Neighbour]:
        """Which nodes are to be declared dead, given what a read said that was sent and
        received then.

        Their counters stood still for a whole lease, and this node looked all the while: who
        looked away, or was itself suspended, begins to count anew.
        """
        looked, self._looked = self._looked, received
        if looked is None or received - looked > self._seconds / 3:
            self._seen.clear()
        before, self._seen = self._seen, {}
        still = []
        for node in neighbours:
            if node.dead or node.name == self._me:
                continue
            n, since = before.get(node.name, (-1, 0.0))
            if node.n != n:
                since = received
            elif sent - since >= self._seconds:
                still.append(node)
            self._seen[node.name] = (node.n, since)
        return still
