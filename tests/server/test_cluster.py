"""Leases as arithmetic: when a node must stop, and when another may call it dead."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inorder_server import cluster
from inorder_server.cluster import Lease, Watch
from inorder_server.stores.shared import Neighbour

LEASE = 12.0


def live(name: str, n: int) -> Neighbour:
    return Neighbour(name, n, dead=False)


def test_it_counts_from_when_the_raise_was_sent() -> None:
    lease = Lease(LEASE, 1, sent=100.0)
    assert (lease.n, lease.due, lease.until) == (1, 104.0, 110.0)
    assert not lease.lapsed(109.9)
    assert lease.lapsed(110.0)
    lease.raised(sent=104.5)
    assert (lease.n, lease.due, lease.until) == (2, 108.5, 114.5)


def looked(watch: Watch, start: float, end: float, *nodes: Neighbour, every: float = 2.0) -> float:
    """Looks again and again; when it said first that one is to be declared dead."""
    now = start
    while now < end:
        if watch.look(now, now, nodes):
            return now
        now += every
    return end


def test_a_counter_that_stands_still_for_a_lease_is_dead() -> None:
    watch = Watch("me", LEASE)
    assert looked(watch, 0, 100, live("a", 5)) == LEASE


def test_a_counter_that_moves_lives() -> None:
    watch = Watch("me", LEASE)
    for n in range(20):
        assert watch.look(n * 2.0, n * 2.0, [live("a", n // 5)]) == []
    assert looked(watch, 40, 100, live("a", 3)) == 30 + LEASE


def test_only_the_one_that_stands_still() -> None:
    watch = Watch("me", LEASE)
    for n in range(6):
        assert watch.look(n * 2.0, n * 2.0, [live("a", 1), live("b", n), live("me", 1)]) == []
    assert watch.look(12.0, 12.0, [live("a", 1), live("b", 6), live("me", 1)]) == [live("a", 1)]


def test_the_time_that_a_read_takes_counts_for_nobody() -> None:
    """It began to stand still when it was seen, and was seen at the latest when one asked."""
    watch = Watch("me", LEASE)
    sent, received = 0.0, 3.0
    while not watch.look(sent, received, [live("a", 1)]):
        sent, received = received, received + 3.0
    assert sent >= 3.0 + LEASE


def test_who_looked_away_begins_to_count_anew() -> None:
    watch = Watch("me", LEASE)
    assert looked(watch, 0, 11, live("a", 1)) == 11
    # Four seconds and a bit without a look, more than a third of the lease.
    assert watch.look(14.5, 14.5, [live("a", 1)]) == []
    assert looked(watch, 16.5, 100, live("a", 1)) == 14.5 + LEASE


def test_the_dead_are_not_declared_dead_again() -> None:
    watch = Watch("me", LEASE)
    assert looked(watch, 0, 50, Neighbour("a", 1, dead=True)) == 50
    assert watch.alone


def test_it_knows_whether_it_is_alone() -> None:
    watch = Watch("me", LEASE)
    watch.look(0, 0, [live("me", 1)])
    assert watch.alone
    watch.look(1, 1, [live("me", 1), live("a", 1)])
    assert not watch.alone


@given(
    st.lists(st.tuples(st.floats(0.0, 9.0), st.booleans(), st.booleans()), max_size=8),
    st.lists(st.floats(0.1, 4.0), min_size=12, max_size=80),
    st.floats(0, 1000),
)
def test_nobody_is_declared_dead_before_it_stopped(
    raises: list[tuple[float, bool, bool]], looks: list[float], offset: float
) -> None:
    """One node raises (its raises may be lost, or their answers), another looks; their clocks
    differ. Whenever the second says dead, the first has stopped by what it knew then."""
    lease = Lease(LEASE, 1, sent=0.0)
    events: list[tuple[float, int]] = [(0.0, 1)]  # when the counter moved, and to what
    now, n, until = 0.0, 1, [(0.0, lease.until)]
    for pause, arrives, answered in raises:
        now += pause
        if lease.lapsed(now):
            break
        if arrives:
            n += 1
            events.append((now, n))
            if answered:
                lease.n = n - 1
                lease.raised(sent=now)
        until.append((now, lease.until))
    watch = Watch("b", LEASE)
    then = 0.0
    for pause in looks:
        then += pause
        seen = [n for at, n in events if at <= then][-1]
        if watch.look(then + offset, then + offset, [live("a", seen)]):
            assert then >= [stops for at, stops in until if at <= then][-1]
            return


def test_the_clock_goes_on_while_the_machine_is_suspended() -> None:
    clock: Callable[[], float] = cluster.boottime
    if not hasattr(time, "CLOCK_BOOTTIME"):
        pytest.skip("this system has no such clock")
    assert abs(clock() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1
