"""The numbers of one session: what is accepted, repeated, due and forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from inorder_server.session import (
    SILENT,
    Counts,
    Damaged,
    Entry,
    Refused,
    Session,
    Stage,
)
from inorder_server.stores.port import Claimed, Ending, Outcome, RequestRow, SessionRow


def session(queue: int = 10, unacked: int = 20, rate: float = 0) -> Session:
    return Session("s", "ada", queue_limit=queue, unacked_limit=unacked, rate=rate)


def take(s: Session, id: str | None = None, **options: Any) -> Entry:
    return s.take(id, b"digest", "echo", b"1", None, None, 5.0, **options)


def accept(s: Session, id: str | None = None) -> Entry:
    entry = take(s, id)
    s.confirm([entry])
    return entry


def settle(s: Session, entry: Entry, ending: Ending = "done") -> None:
    entry.move(Stage.SETTLING)
    s.settle([Outcome(entry.seq, entry.id, ending, b"1")])


def done(s: Session, count: int) -> None:
    for _ in range(count):
        settle(s, accept(s))


# ---- stages


@pytest.mark.parametrize("old", list(Stage))
@pytest.mark.parametrize("new", list(Stage))
def test_the_moves_that_are_allowed(old: Stage, new: Stage) -> None:
    allowed = {
        (Stage.COMMITTING, Stage.WAITING),
        (Stage.WAITING, Stage.RUNNING),
        (Stage.WAITING, Stage.SETTLING),
        (Stage.RUNNING, Stage.WAITING),
        (Stage.RUNNING, Stage.SETTLING),
        (Stage.SETTLING, Stage.SETTLED),
    }
    entry = take(session())
    entry.stage = old
    if (old, new) in allowed:
        entry.move(new)
        assert entry.stage is new
    else:
        with pytest.raises(ValueError, match=f"request 1: {old.name} to {new.name}"):
            entry.move(new)
        assert entry.stage is old


# ---- numbering


def test_numbers_are_given_in_order_and_count_once_durable() -> None:
    s = session()
    first, second = take(s), take(s, "mine")
    assert [(e.id, e.seq) for e in (first, second)] == [("#1", 1), ("mine", 2)]
    assert (s.last, s.accepted, s.in_flight) == (2, 0, 2)
    assert s.head() is None
    s.confirm([first, second])
    assert (s.accepted, s.in_flight) == (2, 0)
    assert s.head() is first


def test_what_is_ahead_counts_what_is_unsettled() -> None:
    s = session()
    done(s, 3)
    accept(s)
    s.confirm([take(s)])
    assert s.accepted - s.settled == 2


def test_the_expected_seq_is_in_step() -> None:
    s = session()
    assert s.out_of_step(1) is None
    take(s)
    assert s.out_of_step(2) is None


@pytest.mark.parametrize("seq", [1, 4, 99])
def test_another_seq_opens_a_gap_that_is_told_once(seq: int) -> None:
    s = session()
    done(s, 2)
    refused = s.out_of_step(seq)
    assert refused == Refused("out_of_order", f"expected seq 3, got {seq}", 0, {"expected": 3})
    assert s.out_of_step(seq) is SILENT
    assert s.out_of_step(seq + 1 if seq > 3 else 2) is SILENT
    # The expected one closes it.
    assert s.out_of_step(3) is None
    take(s)
    assert isinstance(s.out_of_step(7), Refused)


def test_behind_a_refusal_is_silence_until_the_connection_is_new() -> None:
    s = session()
    s.open_gap()
    assert s.out_of_step(2) is SILENT
    assert s.out_of_step(1) is None
    s.close_gap()
    assert isinstance(s.out_of_step(2), Refused)


def test_a_seq_that_was_acknowledged_is_told_so_even_within_a_gap() -> None:
    s = session()
    done(s, 3)
    s.acknowledge(2)
    s.open_gap()
    refused = s.out_of_step(2)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.details) == ("already_acknowledged", {"seq": 2})
    assert s.out_of_step(3) is SILENT


# ---- bounds


def test_the_queue_is_bounded_by_what_is_unsettled_in_flight_included() -> None:
    s = session(queue=2)
    first = accept(s)
    take(s)
    refused = s.room(0)
    assert refused is not None
    assert (refused.code, refused.after) == ("queue_full", 1.0)
    settle(s, first)
    assert s.room(0) is None


def test_outcomes_that_are_not_acknowledged_are_bounded() -> None:
    s = session(queue=10, unacked=3)
    done(s, 3)
    refused = s.room(0)
    assert refused is not None
    assert refused.code == "queue_full"
    assert "acknowledged" in refused.message
    s.acknowledge(1)
    assert s.room(0) is None


def test_a_rate_lets_a_burst_through_and_then_a_second_s_worth() -> None:
    s = session(rate=2)
    assert [s.room(100.0) is None for _ in range(3)] == [True, True, False]
    refused = s.room(100.0)
    assert refused is not None
    assert (refused.code, refused.after) == ("rate_limited", pytest.approx(0.5))
    assert s.room(100.25) is not None
    assert s.room(100.5) is None
    assert s.room(100.5) is not None
    # An hour's silence saves up no more than the burst.
    assert [s.room(3700.0) is None for _ in range(3)] == [True, True, False]


def test_waiting_as_long_as_told_is_enough() -> None:
    s = session(rate=3)
    now = 1e6 + 0.1
    for _ in range(50):
        refused = s.room(now)
        if refused is not None:
            assert refused.after is not None
            now += refused.after
            assert s.room(now) is None


def test_a_rate_below_one_still_lets_one_through() -> None:
    s = session(rate=0.1)
    assert s.room(0.0) is None
    refused = s.room(0.0)
    assert refused is not None
    assert refused.after == pytest.approx(10)
    assert s.room(10.0) is None


def test_a_refusal_for_room_takes_no_token() -> None:
    s = session(queue=1, rate=1)
    entry = accept(s)
    for _ in range(5):
        refused = s.room(0.0)
        assert refused is not None
        assert refused.code == "queue_full"
    settle(s, entry)
    assert s.room(0.0) is None


# ---- settling


def test_outcomes_come_in_order() -> None:
    s = session()
    first, second = accept(s), accept(s)
    second.move(Stage.SETTLING)
    with pytest.raises(ValueError, match="request 2 settled before 1"):
        s.settle([Outcome(2, second.id, "done", b"1")])
    assert (s.settled, second.stage) == (0, Stage.SETTLING)
    settle(s, first, "failed")
    s.settle([Outcome(2, second.id, "cancelled", b"{}")])
    assert s.settled == 2
    assert s.tally == {"done": 0, "failed": 1, "cancelled": 1}


def test_a_settled_request_holds_no_params() -> None:
    s = session()
    entry = accept(s)
    settle(s, entry)
    assert entry.params is None


def test_counts_are_counted() -> None:
    s = session()
    done(s, 2)
    settle(s, accept(s), "failed")
    accept(s)
    take(s)
    assert s.counts() == Counts(accepted=4, done=2, failed=1, cancelled=0, pending=1)


# ---- acknowledging


def test_an_acknowledgement_is_cumulative_and_bounded_by_what_is_settled() -> None:
    s = session()
    done(s, 3)
    accept(s)
    assert s.acknowledge(2)
    assert not s.acknowledge(2)
    assert not s.acknowledge(1)
    assert not s.acknowledge(0)
    assert s.acked == 2
    assert s.acknowledge(1 << 50)
    assert s.acked == 3
    assert not s.acknowledge(4)


def test_ids_are_remembered_for_a_queue_s_length() -> None:
    s = session(queue=3)
    done(s, 6)
    s.acknowledge(5)
    assert [s.known(f"#{n}") is not None for n in range(1, 7)] == [False] * 2 + [True] * 4
    assert len(s._by_id) == len(s._retained) == 4
    done(s, 1)
    s.acknowledge(7)
    assert s.known("#4") is None


def test_memory_is_bounded_by_the_limits() -> None:
    s = session(queue=5, unacked=10)
    for n in range(1, 500):
        done(s, 1)
        if n % 7 == 0:
            s.acknowledge(n)
        assert len(s._by_id) == len(s._retained) <= 15
    assert not s.unsettled


def test_a_forgotten_id_may_be_used_again() -> None:
    s = session(queue=1)
    settle(s, accept(s, "a"))
    s.acknowledge(1)
    assert s.known("a") is not None
    settle(s, accept(s, "b"))
    s.acknowledge(2)
    assert s.known("a") is None
    again = accept(s, "a")
    assert s.known("a") is again


# ---- cancelling and status


def test_what_can_be_cancelled() -> None:
    s = session()
    settled, settling, running, waiting = (accept(s, id) for id in "abcd")
    settle(s, settled)
    settling.move(Stage.SETTLING)
    running.move(Stage.RUNNING)
    committing = take(s, "e")
    found = [s.cancellable(id) for id in ("a", "b", "c", "d", "e", "f")]
    assert found == [None, None, running, waiting, committing, None]


def test_lines_say_how_each_stands() -> None:
    s = session()
    for id, ending in (("a", "done"), ("b", "done"), ("c", "failed"), ("d", "cancelled")):
        settle(s, accept(s, id), ending)  # type: ignore[arg-type]
    s.acknowledge(1)
    running, cancelling = accept(s, "e"), accept(s, "f")
    running.move(Stage.RUNNING)
    cancelling.cancel_asked = True
    accept(s, "g")
    take(s, "h")
    lines = [(line.id, line.seq, line.method, line.state) for line in s.lines(0, 100)]
    assert lines == [
        ("b", 2, "echo", "done"),
        ("c", 3, "echo", "failed"),
        ("d", 4, "echo", "cancelled"),
        ("e", 5, "echo", "running"),
        ("f", 6, "echo", "cancelling"),
        ("g", 7, "echo", "waiting"),
    ]
    assert [line.seq for line in s.lines(4, 2)] == [4, 5]
    assert s.lines(8, 10) == []
    running.move(Stage.SETTLING)
    assert s.lines(5, 1)[0].state == "running"


# ---- from the store


def row(seq: int, ending: Ending | None = None, **changes: Any) -> RequestRow:
    made = RequestRow(seq, f"id{seq}", b"d", "echo", b"1", 0, ending=ending)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def claimed(
    rows: list[RequestRow], accepted: int, acked: int = 0, clean: bool = True, **tally: int
) -> Claimed:
    counts = {"done": acked, "failed": 0, "cancelled": 0} | tally
    made = SessionRow(
        "s",
        "ada",
        4,
        7,
        "n1",
        accepted,
        acked,
        **counts,
        clean=False,
        open=True,
        state="live",
        created_ms=0,
        left_ms=0,
    )
    return Claimed(made, clean, rows)


def test_a_session_is_taken_up_where_it_stood() -> None:
    s = session()
    rows = [
        row(1, stripped=True, method="", params=None),
        row(2, stripped=True, method="", params=None),
        row(3, "done"),
        row(4, "failed"),
        row(5, attempt=2, cancel=True),
        row(6, timeout=2.0, traceparent="00-a"),
    ]
    s.load(claimed(rows, accepted=6, acked=2, done=1, cancelled=1))
    assert (s.epoch, s.attach, s.has_row) == (4, 7, True)
    assert (s.last, s.accepted, s.settled, s.acked) == (6, 6, 4, 2)
    assert s.counts() == Counts(6, 2, 1, 1, 2)
    head = s.head()
    assert head is not None
    assert (head.seq, head.attempt, head.cancel_asked, head.loaded) == (5, 2, True, True)
    assert not head.suspect
    assert (s.unsettled[1].timeout, s.unsettled[1].traceparent) == (2.0, "00-a")
    assert [s.known(f"id{n}") is not None for n in range(1, 8)] == [True] * 6 + [False]
    assert s.cancellable("id1") is None
    assert [line.state for line in s.lines(0, 9)] == ["done", "failed", "cancelling", "waiting"]
    assert s.out_of_step(7) is None


@pytest.mark.parametrize("clean", [True, False])
def test_only_the_head_of_a_session_left_in_a_hurry_is_suspect(clean: bool) -> None:
    s = session()
    s.load(claimed([row(1, "done"), row(2), row(3)], accepted=3, clean=clean))
    assert [entry.suspect for entry in s.unsettled] == [not clean, False]


def test_a_session_without_work_has_no_suspect() -> None:
    s = session()
    s.load(claimed([row(1, "done")], accepted=1, clean=False))
    assert s.head() is None
    assert not s.unsettled


@pytest.mark.parametrize(
    ("rows", "accepted", "acked", "words"),
    [
        ([row(1), row(3)], 3, 0, "request 2 .* has no row"),
        ([row(2)], 2, 0, "request 1 .* has no row"),
        ([row(1)], 2, 0, "request 2 .* has no row"),
        ([], 1, 0, "request 1 .* has no row"),
        ([row(2, stripped=True), row(4)], 4, 2, "request 3 .* has no row"),
        ([row(1), row(2, "done")], 2, 0, "request 2 .* has an outcome too early"),
    ],
)
def test_what_the_store_lacks_is_never_papered_over(
    rows: list[RequestRow], accepted: int, acked: int, words: str
) -> None:
    with pytest.raises(Damaged, match=words):
        session().load(claimed(rows, accepted, acked))


def test_a_session_that_was_loaded_forgets_as_any_other() -> None:
    s = session(queue=2)
    rows = [row(n, stripped=True) for n in range(1, 4)] + [row(4, "done"), row(5, "done")]
    s.load(claimed(rows, accepted=5, acked=3))
    s.acknowledge(5)
    assert [s.known(f"id{n}") is not None for n in range(1, 6)] == [False] * 3 + [True] * 2
