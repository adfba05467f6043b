"""Losing the connection and coming back, message by message, in virtual time."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import pytest

from inorder import errors
from inorder.credentials import Credentials, State
from inorder.events import (
    Answered,
    CallAccepted,
    CallEnded,
    CancelAnswered,
    Dropped,
    LoginRefused,
    Lost,
    StateChanged,
)
from inorder.phases import Phase


def of(events: list[Any], kind: type) -> list[Any]:
    return [event for event in events if type(event) is kind]


@pytest.fixture
def lasting(make_bench):
    """An open session that comes back after half a second, for a minute."""
    return make_bench(give_up_after=60.0, backoff=lambda: repeat(0.5)).open()


def back(bench, **fields):
    """Half a second later: ``hello`` and ``welcome``."""
    bench.now += 0.5
    assert bench.core.due(bench.now)
    bench.open(**{"resumed": True, **fields})
    assert [message["type"] for message in bench.hello] == ["hello"]


def names(bench) -> list[str]:
    return [event.name for event in of(bench.seen, StateChanged)]


# ---- when


def test_a_lost_connection_is_opened_again_after_a_while(lasting):
    core = lasting.core
    (dropped,) = of(lasting.lose(), Dropped)
    assert dropped.error.close_code == 1006
    assert (core.phase, core.error) == (Phase.AWAY, None)
    assert not core.due(lasting.now)
    assert core.next_deadline() == lasting.now + 0.5
    assert core.time_left(lasting.now) == 60
    assert lasting.sent() == []
    lasting.now += 0.5
    assert core.due(lasting.now)


def test_the_server_says_how_long_to_wait(lasting):
    lasting.lose()
    lasting.core.connect_failed(errors.handshake(429, "", 7.0), lasting.now)
    assert lasting.core.next_deadline() == lasting.now + 7.5


def test_waits_grow_until_something_was_done(make_bench):
    bench = make_bench(give_up_after=None, backoff=lambda: iter(range(1, 100))).open()
    waits = []

    def lose_and_wait() -> None:
        bench.lose()
        waits.append(bench.core.next_deadline() - bench.now)
        bench.now = bench.core.next_deadline()

    lose_and_wait()
    bench.core.connect_failed(errors.closed(1006, ""), bench.now)
    waits.append(bench.core.next_deadline() - bench.now)
    bench.now += 99
    bench.core.submit("echo")
    bench.open(resumed=True)
    lose_and_wait()
    bench.open(resumed=True)
    bench.sent()
    bench.accept("r1", 1)
    lose_and_wait()
    bench.open(resumed=True, accepted=1)
    lose_and_wait()
    bench.open(resumed=True, accepted=1)
    bench.now += 5
    lose_and_wait()
    assert waits == [1, 2, 3, 1, 2, 1]


def test_an_outage_has_its_deadline(lasting):
    core = lasting.core
    accepted, sent = core.submit("echo"), core.submit("echo")
    lasting.sent()
    lasting.accept("r1", 1)
    lasting.lose(1012, "draining")
    unsent = core.submit("echo")
    ask = core.status()
    for _ in range(119):
        lasting.now += 0.5
        assert core.due(lasting.now)
        core.connect_failed(errors.ConnectionLost("unreachable", "no", retry=True), lasting.now)
    assert core.next_deadline() == lasting.now + 0.5
    lasting.now += 0.5
    assert not core.due(lasting.now)
    events = lasting.events()
    assert [call.error.accepted for call in (accepted, sent, unsent)] == [True, None, False]
    assert str(sent.error) == "unreachable: no connection for 60 s; no"
    assert sent.error.retry
    assert of(events, Answered)[0].ask is ask
    assert (names(lasting), core.phase) == (["connected", "reconnecting", "lost"], Phase.LOST)


def test_a_welcome_begins_the_deadline_anew(lasting):
    lasting.lose()
    lasting.core.submit("echo")
    lasting.now += 50
    lasting.open(resumed=True)
    lasting.now += 1
    lasting.lose()
    assert lasting.core.time_left(lasting.now) == 60


def test_a_server_that_breaks_the_rules_each_time_is_given_up(lasting):
    call = lasting.core.submit("echo")
    lasting.sent()
    lasting.accept("r1", 1)
    for _ in range(200):
        lasting.result("r9", 9)
        lasting.now += 0.5
        if not lasting.core.due(lasting.now):
            break
        lasting.open(resumed=True, accepted=1)
    assert lasting.core.phase is Phase.LOST
    assert call.error.code == "protocol_error"
    assert call.error.accepted is True
    assert lasting.now < 200


def test_for_ever_and_not_at_all(make_bench):
    bench = make_bench(give_up_after=None, backoff=lambda: repeat(0.5)).open()
    bench.lose()
    bench.now += 1e9
    assert bench.core.due(bench.now)
    bench = make_bench().open()
    bench.lose()
    assert bench.core.phase is Phase.LOST


def test_the_first_connection_may_be_tried_again(make_bench):
    core, no = make_bench().core, errors.ConnectionLost("unreachable", "no", retry=True)
    core.begin(100.0)
    assert core.due(100.0)
    core.connect_failed(no, 100.0)
    assert core.error is not None
    assert core.error.message == "no"
    core = make_bench(backoff=lambda: repeat(0.5)).core
    core.begin(100.0, 10.0)
    core.connect_failed(no, 100.0)
    assert (core.phase, core.next_deadline()) == (Phase.AWAY, 100.5)
    core.connect_failed(no, 109.9)
    assert not core.due(110.0)
    assert core.error.message == "no connection for 10 s; no"


# ---- or not at all


@pytest.mark.parametrize(
    ("code", "word"),
    [(4409, "replaced"), (4403, "forbidden"), (4400, "bad_message"), (1009, "connection_lost")],
)
def test_codes_that_stop(lasting, code, word):
    call = lasting.core.submit("echo")
    lasting.sent()
    events = lasting.lose(code, "" if code == 1009 else word)
    assert type(of(events, Lost)[0].error) is errors.ConnectionLost
    assert (call.error.code, call.error.retry, call.error.accepted) == (word, False, None)
    assert names(lasting)[-1] == "lost"


def test_a_session_taken_over_says_so(lasting):
    lasting.lose(4409, "replaced")
    assert "another connection has taken" in str(lasting.core.error)


@pytest.mark.parametrize("code", ["forbidden", "unauthenticated", "history_lost"])
def test_a_login_that_is_refused_for_good(lasting, code):
    lasting.core.submit("echo")
    lasting.sent()
    lasting.accept("r1", 1)
    lasting.lose()
    lasting.core.hello(Credentials(token="t"))
    lasting.sent()
    error = {"type": "error", "code": code, "message": "no", "retry": False, "of": "hello"}
    (refused,) = of(lasting.say(error), LoginRefused)
    assert lasting.core.phase is Phase.AWAY
    lasting.core.connect_failed(refused.error, lasting.now)
    assert lasting.core.error.code == code


# ---- what is sent again


def test_requests_in_order_under_their_ids_and_seqs(lasting):
    calls = [lasting.core.submit("echo", n) for n in range(5)]
    for call in calls:
        call.watched = True
    lasting.sent()
    lasting.accept("r1", 1)
    lasting.lose()
    calls.append(lasting.core.submit("echo", 5))
    lasting.seen.clear()
    back(lasting, accepted=3, settled=0)
    assert lasting.hello[0]["session"] == "s1"
    assert (lasting.hello[0]["seq"], lasting.hello[0]["accepted"]) == (0, 1)
    assert [event.call for event in of(lasting.seen, CallAccepted)] == calls[1:3]
    assert lasting.requests() == [("r4", 4), ("r5", 5), ("r6", 6)]
    assert names(lasting) == ["resumed"]


def test_what_the_server_accepts_before_it_is_sent_again(lasting):
    """It was under way to the disk when the welcome was written."""
    for n in range(200):
        lasting.core.submit("echo", n)
    lasting.sent()
    lasting.accept("r1", 1)
    lasting.lose()
    back(lasting, accepted=1)
    lasting.accept("r200", 200)
    assert lasting.core.phase is Phase.OPEN
    assert lasting.core.state == State("s1", 0, 200)


def test_outcomes_that_are_held_are_ignored(lasting):
    first = lasting.core.submit("echo")
    lasting.core.submit("echo")
    lasting.sent()
    lasting.result("r1", 1, "one")
    lasting.lose()
    back(lasting, accepted=2, settled=2)
    assert lasting.result("r1", 1, "another") == []
    assert len(lasting.result("r2", 2)) == 1
    assert first.result == "one"


def test_a_gap_is_a_reason_to_reconnect(lasting):
    lasting.core.submit("echo")
    lasting.core.submit("echo")
    lasting.sent()
    (dropped,) = of(lasting.result("r2", 2), Dropped)
    assert dropped.error.code == "protocol_error"
    assert lasting.result("r1", 1) == []
    back(lasting, accepted=2, settled=2)
    assert len(lasting.result("r1", 1)) == len(lasting.result("r2", 2)) == 1


def test_what_was_acknowledged_elsewhere_does_not_come_again(lasting):
    calls = [lasting.core.submit("echo") for _ in range(4)]
    lasting.sent()
    lasting.accept("r4", 4)
    lasting.lose()
    back(lasting, accepted=4, settled=3, acked=2)
    assert [(c.error and (c.error.code, c.error.accepted)) for c in calls] == [
        ("already_acknowledged", True),
        ("already_acknowledged", True),
        None,
        None,
    ]
    assert len(lasting.result("r3", 3)) == 1
    assert lasting.core.phase is Phase.OPEN


def test_a_state_that_is_older_than_what_was_acknowledged(make_bench):
    bench = make_bench(resume=State("s1", 1, 4)).open(resumed=True, accepted=5, settled=4, acked=3)
    bench.result("old4", 4, "four")
    assert bench.core.next_outcome().seq == 4
    assert bench.core.phase is Phase.OPEN


def test_outcomes_that_the_program_has_not_taken_are_not_acknowledged(make_bench):
    bench = make_bench(resume=State("s1", 0, 2), give_up_after=9.0, backoff=lambda: repeat(0.5))
    bench.open(resumed=True, accepted=2, settled=2)
    bench.result("old1", 1, "one")
    bench.result("old2", 2, "two")
    assert bench.core.next_outcome().result == "one"
    bench.lose()
    back(bench, accepted=2, settled=2, acked=1)
    assert bench.hello[0]["seq"] == 1
    assert bench.result("old2", 2, "two") == []
    assert bench.core.next_outcome().result == "two"
    assert bench.core.next_outcome() is None
    bench.now += 1
    assert bench.sent() == [{"type": "ack", "seq": 2}]


def test_numbers_that_somebody_else_has_used(lasting):
    mine = lasting.core.submit("echo")
    lasting.sent()
    lasting.lose()
    back(lasting, accepted=3)
    assert lasting.requests() == [("r1", 4)]
    for n in (1, 2, 3):
        lasting.result(f"other{n}", n)
    lasting.result("r1", 4, "mine")
    assert mine.result == "mine"


def test_draining_keeps_what_is_not_accepted(lasting):
    lasting.core.submit("echo")
    lasting.sent()
    lasting.say({"type": "draining", "deadline": 9.0})
    lasting.core.submit("echo")
    assert lasting.sent() == []
    lasting.accept("r1", 1)
    lasting.lose(1012, "draining")
    back(lasting, accepted=1)
    assert lasting.requests() == [("r2", 2)]
    assert names(lasting) == ["connected", "draining", "reconnecting", "resumed"]


# ---- cancels and questions


def test_a_cancel_without_an_answer_is_sent_again(lasting):
    accepted, doubtful = lasting.core.submit("echo"), lasting.core.submit("echo")
    lasting.sent()
    lasting.accept("r1", 1)
    lasting.core.cancel(accepted)
    lasting.sent()
    lasting.core.cancel(doubtful)
    lasting.lose()
    assert lasting.core.cancel(doubtful) is None
    back(lasting, accepted=1)
    assert lasting.sent() == [
        {"type": "request", "method": "echo", "id": "r2", "seq": 2},
        {"type": "cancel", "id": "r1"},
        {"type": "cancel", "id": "r2"},
    ]
    lasting.say({"type": "cancelling", "id": "r1", "seq": 1})
    lasting.lose()
    back(lasting, accepted=2)
    assert lasting.sent() == [{"type": "cancel", "id": "r2"}]


def test_a_cancel_of_what_was_refused_meanwhile(lasting, refused):
    lasting.core.submit("echo")
    call = lasting.core.submit("echo")
    lasting.sent()
    lasting.core.cancel(call)
    lasting.sent()
    lasting.say(refused("queue_full", "r1", retry=True, after=1.0))
    lasting.lose()
    lasting.seen.clear()
    back(lasting)
    assert of(lasting.seen, CallEnded) == [CallEnded(call)]
    assert of(lasting.seen, CancelAnswered) == [CancelAnswered(call, True)]
    assert call.error.accepted is False
    assert lasting.requests() == [("r1", 1)]


def test_cancel_while_away(lasting):
    lasting.lose()
    call = lasting.core.submit("echo")
    assert lasting.core.cancel(call) is True
    assert call.error.accepted is False


def test_questions_are_asked_again(lasting):
    lasting.core.submit("echo")
    lasting.sent()
    lasting.accept("r1", 1)
    asked = lasting.core.ping([1])
    lasting.lose()
    later = lasting.core.methods()
    back(lasting, accepted=1)
    sent = lasting.sent()
    assert sorted(message["type"] for message in sent) == ["methods", "ping"]
    events = lasting.say({"type": "pong", "data": [1]}, {"type": "methods", "methods": []})
    assert [event.ask for event in events] == [asked, later]


# ---- sessions that are gone


def gone(bench) -> None:
    """The answer to a ``hello``."""
    bench.now += 0.5
    bench.core.hello(Credentials(token="t0"))
    bench.sent()
    error = {"type": "error", "code": "session_gone", "message": "", "retry": False, "of": "hello"}
    (refused,) = of(bench.say(error), LoginRefused)
    bench.core.connect_failed(refused.error, bench.now)
    bench.events()


def test_a_session_that_accepted_nothing_begins_anew(lasting, refused):
    lasting.core.submit("echo")
    lasting.sent()
    lasting.say(refused("rate_limited", "r1", retry=True, after=9.0))
    lasting.lose()
    lasting.core.submit("echo")
    gone(lasting)
    assert lasting.core.due(lasting.now)
    lasting.open(session="s2")
    assert "session" not in lasting.hello[0]
    assert lasting.requests() == [("r1", 1), ("r2", 2)]
    assert lasting.core.state == State("s2", 0, 0)
    assert names(lasting) == ["connected", "reconnecting", "connected"]


def test_the_close_code_alone_says_it_too(lasting):
    lasting.lose()
    lasting.core.hello(Credentials(token="t0"))
    lasting.sent()
    lasting.lose(4410, "session_gone")
    assert lasting.core.due(lasting.now)
    lasting.open(session="s2")


@pytest.mark.parametrize("accepted", [False, True])
def test_otherwise_nothing_goes_to_another_session(lasting, accepted):
    first, second = lasting.core.submit("echo"), lasting.core.submit("echo")
    lasting.sent()
    if accepted:
        lasting.accept("r1", 1)
    lasting.lose()
    unsent = lasting.core.submit("echo")
    gone(lasting)
    assert lasting.core.phase is Phase.LOST
    verdicts = [call.error.accepted for call in (first, second, unsent)]
    assert verdicts == [True if accepted else None, None, False]
    assert all(type(call.error) is errors.SessionGone for call in (first, second, unsent))


def test_a_state_that_was_kept_is_never_replaced_in_silence(make_bench):
    bench = make_bench(resume=State("s1", 0, 0), give_up_after=60.0)
    bench.core.begin(bench.now)
    bench.core.hello(Credentials(token="t0"))
    bench.sent()
    bench.lose(4410, "session_gone")
    assert type(bench.core.error) is errors.SessionGone


def test_a_session_that_somebody_else_has_ended(lasting, model):
    accepted, doubtful = lasting.core.submit("echo"), lasting.core.submit("echo")
    lasting.sent()
    lasting.accept("r1", 1)
    lasting.lose()
    lasting.core.hello(Credentials(token="t0"))
    lasting.sent()
    lasting.say({"type": "bye", "receipt": {**model().receipt(), "accepted": 1, "done": 1}})
    assert type(lasting.core.error) is errors.SessionGone
    assert lasting.core.error.receipt.accepted == 1
    assert [accepted.error.accepted, doubtful.error.accepted] == [True, None]


# ---- close


def test_close_survives_a_lost_connection(lasting, model):
    lasting.core.submit("echo")
    lasting.sent()
    lasting.core.close()
    lasting.lose()
    with pytest.raises(errors.Refused):
        lasting.core.submit("echo")
    back(lasting, accepted=0)
    assert lasting.requests() == [("r1", 1)]
    lasting.result("r1", 1)
    assert [m["type"] for m in lasting.sent()] == ["ack", "bye"]
    lasting.lose()
    # The server has ended it, and the receipt got lost.
    lasting.now += 0.5
    lasting.core.hello(Credentials(token="t0"))
    lasting.sent()
    lasting.say({"type": "bye", "receipt": {**model().receipt(), "accepted": 1, "done": 1}})
    assert lasting.core.receipt.done == 1
    assert lasting.core.phase is Phase.ENDED
    assert names(lasting)[-1] == "closed"


def test_bye_is_said_again_after_a_resume(lasting):
    lasting.core.submit("echo")
    lasting.sent()
    lasting.result("r1", 1)
    lasting.core.close()
    lasting.sent()
    no = {"type": "error", "code": "store_unavailable", "message": "", "retry": True, "of": "bye"}
    lasting.say({**no, "after": 9.0})
    lasting.lose()
    back(lasting, accepted=1, settled=1, acked=1)
    assert lasting.sent() == [{"type": "bye"}]


# ---- a hello that comes late


def give_up(bench, error=None):
    """Half a second later: a hello that nobody answers in time."""
    bench.now += 0.5
    assert bench.core.due(bench.now)
    bench.core.hello(Credentials(token="t0"), "test")
    assert [message["type"] for message in bench.sent()] == ["hello"]
    error = error or errors.ConnectionLost("unreachable", "no welcome within 1 s", retry=True)
    bench.core.connect_failed(error, bench.now)
    bench.events()


def test_replaced_by_a_hello_that_was_given_up_it_comes_back_once_for_each(lasting):
    call = lasting.core.submit("echo")
    lasting.sent()
    lasting.accept("r1", 1)
    lasting.lose()
    give_up(lasting)
    give_up(lasting)
    back(lasting, accepted=1)
    for _ in range(2):
        (dropped,) = of(lasting.lose(4409, "replaced"), Dropped)
        assert dropped.error.close_code == 4409
        back(lasting, accepted=1)
    assert call.error is None
    (lost,) = of(lasting.lose(4409, "replaced"), Lost)
    assert (lost.error.code, call.error.accepted) == ("replaced", True)
    assert not lost.error.retry


def test_replaced_before_its_welcome_by_a_hello_that_was_given_up(lasting):
    lasting.lose()
    give_up(lasting)
    give_up(lasting, errors.closed(4409, "replaced"))
    assert lasting.core.phase is Phase.AWAY
    give_up(lasting, errors.closed(4409, "replaced"))
    assert lasting.core.phase is Phase.LOST


@pytest.mark.parametrize(("seconds", "phase"), [(60, Phase.AWAY), (61, Phase.LOST)])
def test_a_hello_that_was_given_up_long_ago_is_read_no_more(lasting, seconds, phase):
    lasting.lose()
    give_up(lasting)
    given_up = lasting.now
    back(lasting)
    lasting.now = given_up + seconds
    lasting.lose(4409, "replaced")
    assert lasting.core.phase is phase


def test_replaced_by_somebody_else_it_stops(make_bench):
    """A hello that was answered, was never sent or asked for a new session replaces nobody."""
    bench = make_bench(give_up_after=60.0, backoff=lambda: repeat(0.5))
    bench.core.begin(bench.now, 60.0)
    bench.core.hello(Credentials(token="t0"), "test")
    bench.lose()
    bench.now += 0.5
    bench.open()
    bench.lose()
    bench.core.connect_failed(errors.closed(1006, ""), bench.now)
    bench.now += 0.5
    bench.core.hello(Credentials(token="t0"), "test")
    bench.say({"type": "error", "code": "overloaded", "message": "", "retry": True, "of": "hello"})
    bench.lose()
    bench.core.connect_failed(errors.closed(1013, "overloaded"), bench.now)
    back(bench)
    bench.lose(4409, "replaced")
    assert bench.core.phase is Phase.LOST


def test_close_while_away(lasting):
    lasting.core.submit("echo")
    lasting.sent()
    lasting.result("r1", 1)
    lasting.lose()
    unsent = lasting.core.submit("echo")
    lasting.core.close("cancel")
    assert unsent.error.code == "closing"
    back(lasting, accepted=1, settled=1, acked=1)
    assert lasting.sent() == [{"type": "bye", "mode": "cancel"}]


def test_detach_while_away(lasting):
    lasting.core.submit("echo")
    lasting.sent()
    lasting.result("r1", 1)
    lasting.lose()
    lasting.core.detach()
    assert lasting.sent() == []
    assert lasting.core.state == State("s1", 1, 1)


def status(bench, **fields):
    numbers = {"epoch": 1, "accepted": 1, "settled": 0, "acked": 0, "queued": 1}
    return bench.say({"type": "status", "session": "s1", **numbers, **fields})


def test_close_does_not_wait_for_a_queue_that_is_blocked(lasting, model):
    call = lasting.core.submit("echo")
    lasting.sent()
    lasting.accept("r1", 1)
    lasting.core.close()
    assert lasting.sent() == []
    blocked = {"id": "r1", "seq": 1, "code": "unknown_method"}
    for answer in ({}, {"blocked": {**blocked, "next_retry_s": 3.0}}, {"blocked": blocked}):
        lasting.now = lasting.core.next_deadline()
        assert lasting.sent() == [{"type": "status"}]
        assert lasting.sent() == []
        assert status(lasting, **answer) == []
    assert lasting.sent() == [{"type": "bye"}]
    lasting.say({"type": "bye", "receipt": {**model().receipt(), "accepted": 1, "pending": 1}})
    assert call.error.accepted is True


def test_a_look_at_the_queue_is_not_asked_again(lasting):
    lasting.core.submit("echo")
    lasting.sent()
    lasting.accept("r1", 1)
    lasting.core.close()
    lasting.sent()
    lasting.now += 0.5
    assert lasting.sent() == [{"type": "status"}]
    lasting.lose()
    back(lasting, accepted=1)
    assert lasting.sent() == []
    lasting.result("r1", 1)
    assert [m["type"] for m in lasting.sent()] == ["ack", "bye"]


def test_a_past_pause_is_no_deadline(make_bench, refused):
    """Else a full window behind it would keep the loop busy."""
    bench = make_bench(window=1).open()
    bench.core.submit("echo")
    bench.core.submit("echo")
    bench.sent()
    bench.say(refused("overloaded", "r1", retry=True, after=1.0))
    assert bench.core.next_deadline() == bench.now + 1
    bench.now += 1
    assert bench.requests() == [("r1", 1)]
    assert bench.core.next_deadline() is None
