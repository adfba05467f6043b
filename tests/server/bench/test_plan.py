"""What processes are told, and what their reports amount to."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from inorder_server.bench.histogram import Histogram
from inorder_server.bench.plan import SAMPLES, Plan, Report, merged


def plan(**more: object) -> Plan:
    given = {"connections": 5, "duration": 1.0} | more
    return Plan(url="ws://a", token="t", method="echo", params="1", **given)  # type: ignore[arg-type]


@given(st.integers(1, 100), st.integers(0, 100), st.integers(1, 100), st.floats(1, 1e5))
def test_shares_add_up_and_differ_by_one_at_most(
    connections: int, idle: int, processes: int, rate: float
) -> None:
    processes = min(processes, connections)
    shares = plan(connections=connections, idle=idle, rate=rate).share(processes)
    counts = [share.connections for share in shares]
    assert sum(counts) == connections
    assert max(counts) - min(counts) <= 1
    assert sum(share.idle for share in shares) == idle
    assert abs(sum(share.rate or 0 for share in shares) - rate) < 1e-6 * rate
    assert len(shares) == processes


def test_a_closed_loop_has_no_rate_to_share() -> None:
    assert [share.rate for share in plan().share(2)] == [None, None]


def test_a_plan_goes_over_the_wire() -> None:
    assert msgspec.json.decode(msgspec.json.encode(plan(rate=3.0)), type=Plan) == plan(rate=3.0)


def report(**more: object) -> Report:
    latency = Histogram()
    latency.record(7)
    given = {"answered": 10, "outcomes": 12, "sessions": 2, "receipts": 2, "seconds": 2.0}
    return Report(latency=latency.dump(), **given | more)  # type: ignore[arg-type]


def test_reports_of_processes_amount_to_one() -> None:
    one = report(errors={"a": 1}, cpu=1.0, busiest=0.5, elapsed=3.0)
    two = report(errors={"a": 1, "b": 2}, cpu=0.5, busiest=0.25)
    whole = merged([one, two])
    assert (whole.answered, whole.outcomes, whole.processes) == (20, 24, 2)
    assert (whole.errors, whole.cpu, whole.busiest) == ({"a": 2, "b": 2}, 1.5, 0.5)
    assert (whole.per_second, whole.whole_per_second) == (10, 8)
    assert whole.histogram.count == 2
    assert whole.holds


def test_it_holds_only_without_complaint_and_with_all_receipts() -> None:
    assert not merged([report(), report(receipts=1)]).holds
    whole = merged([report(wrong={"again": 1}, samples=["x"] * SAMPLES)] * 2)
    assert not whole.holds
    assert whole.wrong == {"again": 2}
    assert len(whole.samples) == SAMPLES


def test_nothing_measured_is_no_throughput() -> None:
    assert Report().per_second == Report().whole_per_second == 0
