"""Numbers: windows, going back, numbering anew (SPEC.md, "Numbers")."""

from __future__ import annotations

import pytest

from inorder import errors
from inorder.window import Call, Place


def submit(bench, count: int) -> list[Call]:
    return [bench.core.submit("echo") for _ in range(count)]


def seqs(bench) -> list[int]:
    return [seq for _, seq in bench.requests()]


def test_the_window_bounds_what_is_unsettled(make_bench):
    bench = make_bench(window=4).open()
    submit(bench, 10)
    assert seqs(bench) == [1, 2, 3, 4]
    bench.accept("r4", 4)
    assert seqs(bench) == []
    bench.result("r1", 1)
    bench.result("r2", 2)
    assert seqs(bench) == [5, 6]


def test_the_queue_bounds_it_too(make_bench):
    bench = make_bench().open(limits={"queue": 3})
    submit(bench, 10)
    assert seqs(bench) == [1, 2, 3]


def test_what_an_earlier_start_left_counts(make_bench):
    bench = make_bench(window=3).open(accepted=2, settled=0, acked=0)
    submit(bench, 10)
    assert seqs(bench) == [3]


def test_unacknowledged_outcomes_bound_it(make_bench):
    bench = make_bench().open(limits={"unacked": 2})
    submit(bench, 5)
    assert seqs(bench) == [1, 2]
    bench.result("r1", 1)
    assert seqs(bench) == [3]


def test_accepted_counts_for_all_before(bench):
    calls = submit(bench, 4)
    bench.sent()
    calls[0].watched = calls[2].watched = True
    assert [e.call for e in bench.accept("r3", 3)] == [calls[0], calls[2]]
    assert [c.place for c in calls] == [Place.ACCEPTED] * 3 + [Place.SENT]
    assert bench.accept("r2", 2) == []


def test_an_outcome_counts_as_accepted(bench):
    calls = submit(bench, 2)
    bench.sent()
    bench.say(
        {"type": "result", "id": "r1", "seq": 1, "result": 1},
        {"type": "result", "id": "r2", "seq": 2, "result": 2},
    )
    assert [c.result for c in calls] == [1, 2]
    assert bench.core.state.accepted == 2


def test_final_refusal_renumbers_those_behind(bench, refused):
    calls = submit(bench, 5)
    bench.sent()
    bench.accept("r2", 2)
    bench.say(refused("unknown_method", "r3", details={"seq": 3}))
    assert isinstance(calls[2].error, errors.Refused)
    assert calls[2].error.accepted is False
    assert bench.requests() == [("r4", 3), ("r5", 4)]


def test_refusal_before_the_acceptance_of_earlier_ones(bench, refused):
    calls = submit(bench, 4)
    bench.sent()
    bench.say(refused("invalid_params", "r3"))
    assert bench.requests() == [("r4", 3)]
    bench.accept("r4", 3)
    assert [c.place for c in calls] == [*[Place.ACCEPTED] * 2, Place.ENDED, Place.ACCEPTED]


def test_two_final_refusals(bench, refused):
    submit(bench, 6)
    bench.sent()
    bench.say(refused("unknown_method", "r1"))
    assert bench.requests() == [("r2", 1), ("r3", 2), ("r4", 3), ("r5", 4), ("r6", 5)]
    bench.say(refused("unknown_method", "r3"))
    assert bench.requests() == [("r4", 2), ("r5", 3), ("r6", 4)]


def test_final_refusal_of_an_earlier_sending_is_still_true(bench, refused):
    submit(bench, 4)
    bench.sent()
    # Ids are looked up inside a gap too: r3 is refused although r1 opened one.
    bench.say(refused("unknown_method", "r1"), refused("id_conflict", "r3", details={"seq": 77}))
    assert bench.requests() == [("r2", 1), ("r4", 2)]
    assert bench.say(refused("id_conflict", "r3")) == []


def test_retryable_refusal_waits_and_starts_small(make_bench, refused):
    bench = make_bench().open()
    submit(bench, 200)
    assert len(bench.sent()) == 200
    bench.say(refused("queue_full", "r1", retry=True, after=3.0))
    assert bench.sent() == []
    assert bench.core.next_deadline() == bench.now + 3
    bench.now += 3
    assert seqs(bench) == list(range(1, 33))
    bench.accept("r32", 32)
    assert seqs(bench) == list(range(33, 97))
    bench.accept("r96", 96)
    assert seqs(bench) == list(range(97, 201))


def test_small_windows_stay_small(make_bench, refused):
    bench = make_bench(window=4).open()
    submit(bench, 9)
    bench.sent()
    bench.say(refused("overloaded", "r1", retry=True))
    assert bench.core.next_deadline() == bench.now + 1
    bench.now += 1
    assert seqs(bench) == [1, 2, 3, 4]


def test_the_nearest_deadline_counts(bench, refused):
    submit(bench, 2)
    bench.sent()
    bench.result("r1", 1)
    bench.say(refused("rate_limited", "r2", retry=True, after=0.5))
    assert bench.core.next_deadline() == bench.now + 0.5


def test_a_draining_refusal_holds(bench, refused):
    (call,) = submit(bench, 1)
    bench.sent()
    bench.say(refused("draining", "r1", retry=True, after=1.0))
    bench.now += 100
    assert bench.sent() == []
    assert bench.core.next_deadline() is None
    bench.lose(1012, "draining")
    assert call.error.accepted is False


def test_out_of_order_goes_back_to_the_expected(bench, refused):
    submit(bench, 6)
    bench.sent()
    details = {"expected": 3, "seq": 5}
    bench.say(refused("out_of_order", "r5", retry=True, after=0, details=details))
    assert bench.requests() == [("r3", 3), ("r4", 4), ("r5", 5), ("r6", 6)]


def test_out_of_order_where_others_took_numbers(bench, refused):
    (call,) = submit(bench, 1)
    bench.sent()
    bench.say(refused("out_of_order", "r1", retry=True, details={"expected": 4, "seq": 1}))
    assert bench.requests() == [("r1", 4)]
    for n in (1, 2, 3):
        bench.result(f"other{n}", n)
    bench.result("r1", 4, "mine")
    assert call.result == "mine"


def test_stale_refusals_are_passed_over(bench, refused):
    submit(bench, 4)
    bench.sent()
    bench.say(refused("unknown_method", "r1", details={"seq": 1}))
    stale = refused("out_of_order", "r3", retry=True, details={"expected": 1, "seq": 3})
    bench.say(stale)  # not sent again yet
    assert bench.requests() == [("r2", 1), ("r3", 2), ("r4", 3)]
    bench.say(stale)  # under another number since
    bench.say(refused("queue_full", "gone", retry=True))
    assert bench.requests() == []
    bench.accept("r2", 1)
    bench.say(refused("out_of_order", "r3", retry=True, details={"expected": 1}))
    assert bench.requests() == []
    assert bench.core.error is None


@pytest.mark.parametrize("expected", [1, "2"])
def test_a_server_that_forgot(bench, refused, expected):
    submit(bench, 2)
    bench.sent()
    bench.accept("r1", 1)
    details = {"expected": expected, "seq": 2}
    bench.say(refused("out_of_order", "r2", retry=True, details=details))
    assert bench.core.error.code == "protocol_error"


def test_a_known_id_frees_its_number(make_bench):
    """An id from an earlier start: the server names its old number."""
    bench = make_bench().open(accepted=5, settled=3, acked=3)
    old = bench.core.submit("echo", id="old")
    old.watched = True
    submit(bench, 2)
    assert bench.requests() == [("old", 6), ("r1", 7), ("r2", 8)]
    (event,) = bench.accept("old", 4)
    assert event.call is old
    assert bench.requests() == [("r1", 6), ("r2", 7)]
    bench.result("old", 4, "four")
    assert (old.seq, old.result) == (4, "four")


def test_a_known_id_whose_outcome_is_held(make_bench):
    bench = make_bench().open(accepted=5, settled=5, acked=5)
    bench.core.submit("echo")
    old = bench.core.submit("echo", id="old")
    submit(bench, 1)
    bench.sent()
    bench.result("old", 2, "two")
    assert (old.seq, old.result) == (2, "two")
    assert bench.requests() == [("r2", 7)]


def test_a_known_id_that_waits_to_be_sent_again(bench, refused):
    submit(bench, 1)
    old = bench.core.submit("echo", id="old")
    bench.sent()
    bench.result("r1", 1)
    submit(bench, 1)
    bench.sent()
    bench.say(refused("queue_full", "old", retry=True, after=1.0))
    bench.accept("old", 1)
    assert old.place is Place.ACCEPTED
    bench.now += 1
    assert ("r2", 2) in bench.requests()


def test_places_move_by_their_table():
    call = Call("x", b"{")
    with pytest.raises(AssertionError, match="UNSENT to UNSENT"):
        call.move(Place.UNSENT)
    assert call.place is Place.UNSENT
