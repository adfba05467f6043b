"""What Prometheus reads: every counter by its name, and histograms that add up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from inorder_server.metrics import Histogram, Metrics


def samples(metrics: Metrics) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sample.labels.items())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_a_node_that_has_done_nothing() -> None:
    found = samples(Metrics())
    assert found["inorder_ready"] == 0
    assert found["inorder_accepted_total"] == 0
    assert found["inorder_violations_total"] == 0
    assert found["inorder_waited_seconds_count"] == 0


def test_every_counter_is_shown() -> None:
    metrics = Metrics()
    metrics.ready = lambda: True
    metrics.live = lambda: (3, 17)
    metrics.connections, metrics.connections_opened = 2, 9
    metrics.logins.update(ok=4, unauthenticated=1)
    metrics.accepted = 20
    metrics.settled.update(done=2, failed=1)
    metrics.refused.update(queue_full=5)
    metrics.receipts, metrics.violations = 6, 1
    metrics.committed(3)
    metrics.committed(5000)
    metrics.waited.observe(0.02)
    metrics.ran.observe(400)
    found = samples(metrics)
    assert {name: found[name] for name in found if "bucket" not in name} == {
        "inorder_ready": 1,
        "inorder_connections": 2,
        "inorder_connections_opened_total": 9,
        "inorder_sessions": 3,
        "inorder_queue_depth": 17,
        "inorder_logins_total{result=ok}": 4,
        "inorder_logins_total{result=unauthenticated}": 1,
        "inorder_accepted_total": 20,
        "inorder_settled_total{outcome=done}": 2,
        "inorder_settled_total{outcome=failed}": 1,
        "inorder_refused_total{code=queue_full}": 5,
        "inorder_waited_seconds_count": 1,
        "inorder_waited_seconds_sum": 0.02,
        "inorder_ran_seconds_count": 1,
        "inorder_ran_seconds_sum": 400,
        "inorder_commits_total": 2,
        "inorder_commit_writes_count": 2,
        "inorder_commit_writes_sum": 5003,
        "inorder_receipts_verified_total": 6,
        "inorder_violations_total": 1,
    }
    assert found["inorder_commit_writes_bucket{le=4}"] == 1
    assert found["inorder_commit_writes_bucket{le=4096}"] == 1
    assert found["inorder_commit_writes_bucket{le=+Inf}"] == 2


def test_buckets_are_cumulative_and_their_bounds_included() -> None:
    histogram = Histogram((1, 2, 5))
    for value in (0, 1, 1.5, 2, 5, 6):
        histogram.observe(value)
    family = histogram.family("seen", "words")
    found = [(s.labels["le"], s.value) for s in family.samples if s.name == "seen_bucket"]
    assert found == [("1", 2), ("2", 4), ("5", 5), ("+Inf", 6)]
    assert [s.value for s in family.samples if s.name == "seen_sum"] == [15.5]


@given(st.lists(st.lists(st.sampled_from([0, 0.5, 1, 1.5, 2, 3, 5, 6, 9]))))
def test_each_is_counted_where_it_belongs(parts: list[list[float]]) -> None:
    histogram = Histogram((1, 2, 5))
    for part in parts:
        for value in part:
            histogram.observe(value)
        histogram.sort()
    every = [value for part in parts for value in part]
    family = histogram.family("seen", "words")
    found = {s.labels["le"]: s.value for s in family.samples if s.name == "seen_bucket"}
    assert found == {
        **{str(bound): sum(v <= bound for v in every) for bound in (1, 2, 5)},
        "+Inf": len(every),
    }


def test_two_nodes_count_for_themselves() -> None:
    one, other = Metrics(), Metrics()
    one.accepted = 5
    assert samples(other)["inorder_accepted_total"] == 0
