"""Times by the million in a few kilobytes."""

from __future__ import annotations

from collections.abc import Iterable

# 128 steps in each power of two: a value is told to within 0.8 %.
_BITS = 7
_EXACT = 2 << _BITS


class Histogram:
    """Counts of integers from 0 on, in buckets that grow with the value.

    Up to 255 every integer has a bucket of its own. Memory grows with the logarithm of the
    largest value, never with the number of values.
    """

    __slots__ = ("_buckets", "count", "largest", "total")

    def __init__(self) -> None:
        self._buckets: list[int] = [0] * _EXACT
        self.count = 0
        self.total = 0
        self.largest = 0

    def record(self, value: int) -> None:
        """Counts one value."""
        shift = value.bit_length() - _BITS - 1
        index = value if shift <= 0 else (shift << _BITS) + (value >> shift)
        try:
            self._buckets[index] += 1
        except IndexError:
            self._buckets += [0] * (index + 1 - len(self._buckets))
            self._buckets[index] += 1
        self.count += 1
        self.total += value
        if value > self.largest:
            self.largest = value

    def percentile(self, percent: float) -> int:
        """The value that so many percent of the values don't exceed; 0 where there are none.

        It is a bucket's upper end, so at most 0.8 % too high and never too low.
        """
        wanted = self.count * percent / 100
        seen = 0
        for index, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                return min(_upper_end(index), self.largest)
        return 0

    @property
    def mean(self) -> float:
        """The mean of the values themselves; 0 where there are none."""
        return self.total / self.count if self.count else 0.0

    def merge(self, other: Histogram) -> None:
        """Adds another's counts."""
        missing = len(other._buckets) - len(self._buckets)
        self._buckets += [0] * missing
        for index, count in enumerate(other._buckets):
            self._buckets[index] += count
        self.count += other.count
        self.total += other.total
        self.largest = max(self.largest, other.largest)

    def dump(self) -> tuple[int, int, list[tuple[int, int]]]:
        """Plain values, from which :meth:`load` makes it again: total, largest, buckets."""
        filled = [(index, count) for index, count in enumerate(self._buckets) if count]
        return self.total, self.largest, filled

    @classmethod
    def load(cls, total: int, largest: int, buckets: Iterable[tuple[int, int]]) -> Histogram:
        """See :meth:`dump`."""
        made = cls()
        made.total, made.largest = total, largest
        for index, count in buckets:
            made._buckets += [0] * (index + 1 - len(made._buckets))
            made._buckets[index] = count
            made.count += count
        return made


def _upper_end(index: int) -> int:
    if index < _EXACT:
        return index
    shift = (index >> _BITS) - 1
    return ((index - (shift << _BITS) + 1) << shift) - 1
