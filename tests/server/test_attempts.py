"""Failed attempts: a sliding window, places held by what is under way, a bound on keys."""

from __future__ import annotations

import pytest

from inorder_server.attempts import Attempts


def fail(attempts: Attempts, key: str, now: float) -> None:
    assert attempts.wait(key, now) == 0
    attempts.begin(key)
    attempts.end(key, now, failed=True)


def test_the_limit_holds_for_a_window_that_slides() -> None:
    attempts = Attempts(3, 60)
    for now in (0, 10, 20):
        fail(attempts, "eve", now)
    assert attempts.wait("eve", 20) == 40
    assert attempts.wait("eve", 59) == 1
    assert attempts.wait("bob", 20) == 0
    fail(attempts, "eve", 60)
    assert attempts.wait("eve", 60) == 10


def test_what_is_under_way_holds_its_place() -> None:
    attempts = Attempts(2, 60)
    attempts.begin("eve")
    assert attempts.wait("eve", 0) == 0
    attempts.begin("eve")
    assert attempts.wait("eve", 0) is None
    attempts.end("eve", 0, failed=False)
    assert attempts.wait("eve", 0) == 0
    attempts.begin("eve")
    attempts.end("eve", 0, failed=True)
    assert attempts.wait("eve", 0) is None
    attempts.end("eve", 5, failed=True)
    assert attempts.wait("eve", 5) == 55


def test_a_clock_that_reaches_the_very_end_of_the_window() -> None:
    attempts = Attempts(1, 0.3)
    fail(attempts, "eve", 0.1)
    assert attempts.wait("eve", 0.1 + 0.3 - 1e-12) == pytest.approx(0.001)
    assert attempts.wait("eve", 0.4) == 0


def test_clear_forgets_and_nothing_stays_behind() -> None:
    attempts = Attempts(1, 60)
    fail(attempts, "eve", 0)
    attempts.begin("bob")
    attempts.clear("eve")
    attempts.clear("nobody")
    assert attempts.wait("eve", 0) == 0
    attempts.begin("eve")
    attempts.end("eve", 0, failed=False)
    attempts.end("bob", 0, failed=False)
    assert len(attempts) == 0


def test_it_is_bounded_and_the_oldest_goes_first() -> None:
    attempts = Attempts(1, 60, entries=2)
    attempts.begin("under way")
    fail(attempts, "old", 0)
    fail(attempts, "new", 1)
    assert len(attempts) == 2
    assert attempts.wait("old", 1) == 0
    assert attempts.wait("new", 1) == 60
    assert attempts.wait("under way", 1) is None


def test_what_is_under_way_is_never_forgotten() -> None:
    attempts = Attempts(1, 60, entries=1)
    for key in ("a", "b", "c"):
        attempts.begin(key)
    assert len(attempts) == 3
    for key in ("a", "b", "c"):
        attempts.end(key, 0, failed=False)
    assert len(attempts) == 0
