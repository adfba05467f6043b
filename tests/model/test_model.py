"""The operations of ownership.md, explored: nothing breaks, and each rule is needed."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from model.configurations import QUICK, explored
from model.world import Bounds

Record = Callable[[str, object], None]

LAPSE = Bounds(requests=1, hellos=1, lapses=1)
LATE = LAPSE._replace(late=1)
# What is left out, within which bounds that is seen, and what breaks.
NEEDED = {
    "claim raises the epoch": (LAPSE, "G3"),
    "a last read before it serves": (Bounds(requests=1, hellos=2, lapses=2), "G3"),
    "stamp": (LAPSE, "G3"),
    "stamp from the highest down": (
        Bounds(requests=2, hellos=1, lapses=1, pipeline=2), "G1",
    ),
    "load after the stamp": (LAPSE, "G3"),
    "no number is adopted": (LAPSE._replace(forgets=True), "G2"),
    "a row is replaced where its epoch is lower": (LATE, "G3"),
    "confirm needs OWN": (LAPSE, "G3"),
    "confirm before announcing": (LAPSE, "G2"),
    "an outcome needs its epoch": (LAPSE, "G3"),
    "an outcome needs its try": (LATE._replace(bye=True), "G3"),
    "each sending has its own try": (LATE._replace(bye=True), "G3"),
    "an outcome is durable before it is sent": (LAPSE, "G3"),
    "a cancel is durable before it is answered": (
        Bounds(requests=1, hellos=0, crashes=1, cancels=1), "P9",
    ),
    "what matches nothing is looked at": (LAPSE, "G2"),
    "acknowledge needs the old `acked`": (Bounds(requests=1, hellos=0, late=1, acks=1), "G6"),
    "strip after `acked` has moved": (Bounds(requests=1, hellos=0, acks=1), "G3"),
    "resume by a write": (LAPSE._replace(hellos=2), "G3"),
    "release needs OWN": (LAPSE, "G6"),
    "release needs `attach`, a hello waits for the release": (
        Bounds(requests=1, hellos=1, late=1, leaves=1), "G6",
    ),
    "end needs OWN, end needs its numbers": (LAPSE._replace(bye=True), "G3"),
    "only a free session expires": (
        Bounds(requests=1, hellos=1, leaves=1, expiry=True), "G3",
    ),
}  # fmt: skip


# By what a row may go, that an insert brings again which was sent twice.
GONE = [
    "an end, and a late write",
    "an expiry, and a late write",
    "an acknowledgement that removes, and a late write",
]


@pytest.mark.parametrize("name", QUICK)
def test_no_promise_is_broken(name: str, record_property: Record) -> None:
    found = explored(QUICK[name])
    assert found.broken is None, str(found)
    # It went somewhere: bounds that let nothing happen would hold, too.
    assert found.states > 2000
    record_property("explored", f"{name}: {found.states} states")


@pytest.mark.parametrize("rules", NEEDED)
def test_without_a_rule_a_promise_is_broken(rules: str, record_property: Record) -> None:
    bounds, promise = NEEDED[rules]
    found = explored(bounds._replace(without=frozenset(rules.split(", "))))
    print(found)
    assert found.broken is not None, f"nobody misses it: {rules} ({found.states} states)"
    assert found.broken.startswith(promise), str(found)
    assert len(found.trace) > 1
    record_property("explored", f"without “{rules}”: {found.broken} ({len(found.trace)} moves)")


# Those that are explored elsewhere, or for longer, apart.
_SMALL = [
    bounds
    for bounds in dict.fromkeys(bounds for bounds, _ in NEEDED.values())
    if bounds not in QUICK.values() and bounds.lapses + bounds.late < 2
]


@pytest.mark.parametrize("bounds", _SMALL, ids=lambda bounds: ",".join(map(str, bounds[:8])))
def test_with_all_rules_the_same_bounds_hold(bounds: Bounds) -> None:
    """It is the rule, and not the bounds, that makes the difference."""
    assert explored(bounds).broken is None


def test_a_guard_that_the_registry_does_without() -> None:
    """A release never goes out and is given up again, so its `attach` is never put to the test:
    an owner that did give one up would be safe by that filter alone."""
    bounds = Bounds(requests=1, hellos=1, late=1, leaves=1)
    hasty = frozenset({"a hello waits for the release"})
    assert explored(bounds._replace(without=hasty)).broken is None


@pytest.mark.parametrize("name", GONE)
def test_an_insert_that_was_sent_twice_comes_when_its_row_is_gone(name: str) -> None:
    """Its sender, who lost the session and does not know, records and announces nothing; and would
    if it could not tell one of its sendings from the other."""
    one_for_all = frozenset({"each sending has its own try"})
    found = explored(QUICK[name]._replace(without=one_for_all))
    assert found.broken is not None
    assert found.broken.startswith("G3"), str(found)
    *_, late, settle = found.trace
    assert late.startswith("late: insert(1, ")
    assert settle.startswith("node 0: settle(1, ")


def test_the_shortest_trace() -> None:
    found = explored(LAPSE._replace(without=frozenset({"confirm before announcing"})))
    assert re.fullmatch(
        r"G2: request 1 is announced as number 1, and is not accepted so, after\n"
        r"  1\. node 0: a group: insert \(1,\)\n"
        r"  2\. node 0: insert\(1, 1, 1, 1\)",
        str(found),
    )
