"""The open loop: when requests are due, whatever became of those before."""

from __future__ import annotations

_SECOND = 1_000_000_000


class Pace:
    """Requests 0, 1, 2 … are due at even distances from ``start`` until before ``end``.

    ``rate`` is requests a second; times are nanoseconds of one clock. A generator that was
    held up takes all that became due meanwhile, each with its own time: latency counts from
    there, so that a stall shows in every request that it delayed.
    """

    def __init__(self, rate: float, start: int, end: int) -> None:
        self._rate = rate
        self._start = start
        self._end = end
        self._taken = 0

    def due_at(self, number: int) -> int:
        """When a request is due."""
        return self._start + int(number * _SECOND / self._rate)

    def take(self, now: int) -> list[tuple[int, int]]:
        """Those that are due by now and were not taken before: (number, time)."""
        taken = []
        while (at := self.due_at(self._taken)) <= now and at < self._end:
            taken.append((self._taken, at))
            self._taken += 1
        return taken

    def next_at(self) -> int | None:
        """When the next one is due; None after the last."""
        at = self.due_at(self._taken)
        return at if at < self._end else None
