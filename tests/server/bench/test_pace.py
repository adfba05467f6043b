"""The open loop."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inorder_server.bench.histogram import Histogram
from inorder_server.bench.pace import Pace

MS = 1_000_000


def test_requests_are_due_at_even_distances() -> None:
    pace = Pace(100, 0, 50 * MS)
    assert pace.take(0) == [(0, 0)]
    assert pace.take(9 * MS) == []
    assert pace.next_at() == 10 * MS
    assert pace.take(25 * MS) == [(1, 10 * MS), (2, 20 * MS)]
    assert pace.take(1000 * MS) == [(3, 30 * MS), (4, 40 * MS)]
    assert pace.next_at() is None
    assert pace.take(2000 * MS) == []


@given(st.floats(0.5, 100_000), st.lists(st.integers(0, 2000), max_size=30))
def test_whenever_it_is_asked_each_is_due_once_and_at_its_own_time(
    rate: float, steps: list[int]
) -> None:
    pace, start, end = Pace(rate, 7, 7 + 100 * MS), 7, 7 + 100 * MS
    taken, now = [], start
    for step in [*steps, 200_000]:
        now += step * 1000
        taken += pace.take(now)
    assert [number for number, _ in taken] == list(range(len(taken)))
    assert all(at == pace.due_at(number) and start <= at < end for number, at in taken)
    assert pace.next_at() is None
    assert abs(len(taken) - rate / 10) <= 1


def test_a_stall_shows_in_every_request_that_it_delayed() -> None:
    """A server that answers at once, but for half a second in which it does nothing."""
    pace, latency, now = Pace(1000, 0, 1000 * MS), Histogram(), 0
    while pace.next_at() is not None:
        answered = 700 * MS if 200 * MS <= now < 700 * MS else now
        for _, due in pace.take(answered):
            latency.record((answered - due) // MS)
        now = answered + MS
    assert latency.count == 1000
    # Half of the requests came due in the stall, and waited half of it at the median.
    assert 240 <= latency.percentile(75) <= 260
    assert 490 <= latency.largest <= 500
    assert latency.percentile(49) <= 1
