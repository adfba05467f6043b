"""Times in buckets."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from inorder_server.bench.histogram import Histogram

values = st.lists(st.integers(0, 10**10), min_size=1)


def histogram(items: list[int]) -> Histogram:
    made = Histogram()
    for item in items:
        made.record(item)
    return made


def exact(items: list[int], percent: float) -> int:
    return sorted(items)[max(0, math.ceil(len(items) * percent / 100) - 1)]


@given(values, st.floats(0.1, 100))
def test_a_percentile_is_at_most_a_bucket_too_high_and_never_too_low(
    items: list[int], percent: float
) -> None:
    found, true = histogram(items).percentile(percent), exact(items, percent)
    assert true <= found <= true * (1 + 1 / 128)


@given(values)
def test_the_largest_and_the_mean_are_exact(items: list[int]) -> None:
    made = histogram(items)
    assert made.largest == made.percentile(100) == max(items)
    assert made.count == len(items)
    assert made.mean == sum(items) / len(items)


@given(values, values)
def test_merged_is_as_if_all_had_been_recorded_in_one(one: list[int], two: list[int]) -> None:
    merged = histogram(one)
    merged.merge(histogram(two))
    assert merged.dump() == histogram(one + two).dump()
    assert merged.count == len(one) + len(two)


@given(values)
def test_it_goes_over_the_wire(items: list[int]) -> None:
    made = histogram(items)
    dumped = msgspec.json.decode(msgspec.json.encode(made.dump()))
    again = Histogram.load(*dumped)
    assert again.dump() == made.dump()
    assert again.count == made.count


def test_small_values_are_exact() -> None:
    made = histogram(list(range(256)))
    assert [made.percentile((n + 1) / 2.56) for n in range(256)] == list(range(256))


def test_nothing_recorded() -> None:
    made = Histogram()
    assert (made.percentile(99), made.mean, made.count, made.largest) == (0, 0.0, 0, 0)


def test_memory_grows_with_the_logarithm_of_the_largest_value_only() -> None:
    made = Histogram()
    for value in range(100_000):
        made.record(value)
    made.record(10**12)
    assert len(made.dump()[2]) < 2000
