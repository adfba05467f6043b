"""The core's conversation with a server, message by message, without a loop."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inorder import errors
from inorder.core import Core
from inorder.credentials import Credentials, State
from inorder.events import (
    Answered,
    CallAccepted,
    CallEnded,
    CallProgress,
    CancelAnswered,
    Ended,
    LoginRefused,
    Lost,
    Opened,
    Outcome,
    OutcomeCame,
    StateChanged,
)
from inorder.phases import PHASES, Phase


def of(events: list[Any], kind: type) -> list[Any]:
    return [event for event in events if type(event) is kind]


# ---- greeting


def test_hello_comes_first_and_alone(make_bench):
    bench = make_bench()
    bench.core.submit("echo", [1])
    bench.open()
    assert bench.hello == [{"type": "hello", "token": "t0", "client": "test"}]
    assert of(bench.seen, Opened)
    assert of(bench.seen, StateChanged) == [StateChanged("connected")]
    assert bench.requests() == [("r1", 1)]
    assert (bench.core.session, bench.core.user, bench.core.token) == ("s1", "ann", "t1")


def test_register_in_place_of_hello(make_bench):
    bench = make_bench()
    bench.core.hello(Credentials(username="ann", password="pw", register=True))
    assert bench.sent() == [{"type": "register", "username": "ann", "password": "pw"}]


def test_welcome_without_limits_and_token(make_bench):
    bench = make_bench()
    bench.open(limits={})
    bench = make_bench()
    bench.core.hello(Credentials(token="x"))
    bench.core.token = "mine"
    bench.say(
        {
            "type": "welcome",
            "session": "s",
            "user": "u",
            "epoch": 1,
            "resumed": False,
            "accepted": 0,
            "settled": 0,
            "acked": 0,
        }
    )
    assert bench.core.token == "mine"
    assert bench.core.limits.queue == 1000


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("unauthenticated", errors.LoginFailed),
        ("rate_limited", errors.LoginFailed),
        ("session_gone", errors.SessionGone),
        ("history_lost", errors.HistoryLost),
    ],
)
def test_a_refused_login_allows_another(make_bench, code, kind):
    bench = make_bench()
    bench.core.hello(Credentials(token="bad"))
    bench.sent()
    error = {"type": "error", "code": code, "message": "no", "retry": False, "of": "hello"}
    (event,) = of(bench.say(error), LoginRefused)
    assert type(event.error) is kind
    assert event.error.accepted is None
    bench.core.hello(Credentials(token="good"))
    assert bench.sent() == [{"type": "hello", "token": "good"}]


def test_resume_says_what_one_has(make_bench):
    bench = make_bench(resume=State("s1", 3, 5)).open(resumed=True, accepted=6, settled=4, acked=3)
    assert bench.hello[0] | {"session": "s1", "seq": 3, "accepted": 5} == bench.hello[0]
    assert bench.core.state == State("s1", 3, 6)
    bench.core.submit("echo")
    assert bench.requests() == [("r1", 7)]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"resumed": False}, errors.SessionGone),
        ({"session": "other"}, errors.SessionGone),
        ({"settled": 2}, errors.HistoryLost),
        ({"accepted": 4}, errors.HistoryLost),
    ],
)
def test_never_a_half_recovery(make_bench, fields, kind):
    bench = make_bench(resume=State("s1", 3, 5))
    call = bench.core.submit("echo")
    bench.open(**{"resumed": True, "accepted": 5, "settled": 5, "acked": 3, **fields})
    (lost,) = of(bench.seen, Lost)
    assert type(lost.error) is kind
    assert type(call.error) is kind
    assert call.error.accepted is False


def test_hello_to_an_ended_session_gives_its_receipt(make_bench, model):
    bench = make_bench(resume=State("s1", 0, 0))
    bench.core.hello(Credentials(token="t"))
    (lost,) = of(bench.say({"type": "bye", "receipt": model().receipt()}), Lost)
    assert isinstance(lost.error, errors.SessionGone)
    assert lost.error.receipt.verified


def test_a_second_welcome_breaks(bench, greeting):
    bench.say(greeting())
    assert bench.core.error.code == "protocol_error"


def test_outcomes_of_an_earlier_start(make_bench):
    bench = make_bench(resume=State("s1", 1, 3)).open(resumed=True, accepted=3, settled=1, acked=1)
    core = bench.core
    assert core.expects_outcomes
    assert core.next_outcome() is None
    assert of(bench.result("old2", 2, "two"), OutcomeCame)
    bench.say({"type": "error", "id": "old3", "seq": 3, "code": "x", "message": "", "retry": False})
    # Not taken: neither acknowledged nor counted as held.
    bench.now += 5
    assert bench.sent() == []
    assert core.next_deadline() is None
    assert core.state == State("s1", 1, 3)
    assert core.next_outcome() == Outcome("old2", 2, "two")
    assert bench.sent() == [{"type": "ack", "seq": 2}]
    taken = core.next_outcome()
    assert (taken.id, taken.seq, taken.error.code) == ("old3", 3, "x")
    assert not core.expects_outcomes
    assert core.state == State("s1", 3, 3)


# ---- requests


def test_a_request_and_its_result(bench):
    call = bench.core.submit("echo", {"a": 1}, timeout=2.5)
    assert bench.sent() == [
        {
            "type": "request",
            "method": "echo",
            "id": "r1",
            "params": {"a": 1},
            "timeout": 2.5,
            "seq": 1,
        }
    ]
    call.watched = True
    assert bench.accept("r1", 1) == [CallAccepted(call)]
    assert bench.result("r1", 1, {"a": 1}) == [CallEnded(call)]
    assert call.result == {"a": 1}
    assert bench.result("r1", 1, "again") == []


def test_params_absent(bench):
    bench.core.submit("echo")
    assert "params" not in bench.sent()[0]


@pytest.mark.parametrize("id", ["", "#1", "x" * 65])
def test_ids_that_cannot_be_used(bench, id):
    with pytest.raises(ValueError, match="1 to 64"):
        bench.core.submit("echo", id=id)


def test_an_id_in_use(bench):
    bench.core.submit("echo", id="mine")
    with pytest.raises(ValueError, match="in use"):
        bench.core.submit("echo", id="mine")


def test_params_that_are_no_json(bench):
    with pytest.raises(TypeError):
        bench.core.submit("echo", object())
    assert bench.sent() == []


def test_ids_begin_with_something_random():
    one, two = Core().submit("echo").id, Core().submit("echo").id
    assert one != two
    assert one.endswith("-1")


def test_window_is_at_least_one():
    with pytest.raises(ValueError, match="window"):
        Core(window=0)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("handler_failed", errors.HandlerFailed),
        ("timed_out", errors.TimedOut),
        ("cancelled", errors.Cancelled),
        ("interrupted", errors.Interrupted),
        ("skipped", errors.Skipped),
        ("result_too_large", errors.ResultTooLarge),
        ("no_funds", errors.RequestFailed),
    ],
)
def test_error_outcomes(bench, code, kind):
    call = bench.core.submit("echo")
    bench.sent()
    outcome = {"type": "error", "id": "r1", "seq": 1, "code": code, "message": "m", "retry": False}
    bench.say({**outcome, "details": [1]})
    assert type(call.error) is kind
    assert (call.error.accepted, call.error.details, call.error.code) == (True, [1], code)


def test_progress_reaches_its_call(bench):
    call = bench.core.submit("echo")
    bench.sent()
    base = {"type": "progress", "seq": 1, "attempt": 1, "n": 1, "progress": {"at": 1}}
    (event,) = bench.say({**base, "id": "r1"})
    assert isinstance(event, CallProgress)
    assert event.call is call
    assert json.loads(bytes(event.value)) == {"at": 1}
    assert bench.say({**base, "id": "other"}) == []


def test_token_draining_and_unknown_messages(bench):
    bench.core.submit("echo")
    bench.say({"type": "token", "token": "t2", "expires_in": 9.0}, {"type": "news", "x": 1})
    assert bench.core.token == "t2"
    assert bench.say({"type": "draining", "deadline": 30.0}) == [StateChanged("draining")]
    bench.say({"type": "draining", "deadline": 20.0})
    assert bench.sent() == []
    assert bench.core.next_deadline() is None


def test_draining_ends_unaccepted_with_the_connection(bench):
    sent, unsent = bench.core.submit("echo"), None
    bench.sent()
    bench.say({"type": "draining", "deadline": 30.0})
    unsent = bench.core.submit("echo")
    accepted = bench.core.submit("echo")
    bench.core.connection_lost(1012, "draining")
    bench.events()
    assert sent.error.accepted is None
    assert unsent.error.accepted is accepted.error.accepted is False
    assert unsent.error.code == "draining"
    assert unsent.error.retry
    assert unsent.error.close_code == 1012


# ---- acknowledging


def settle(bench, count: int, start: int = 1) -> None:
    for n in range(start, start + count):
        bench.result(f"r{n}", n)


def test_ack_after_a_hundred_or_a_second(bench):
    for _ in range(150):
        bench.core.submit("echo")
    bench.sent()
    assert bench.core.next_deadline() is None
    settle(bench, 99)
    assert bench.sent() == []
    assert bench.core.next_deadline() == bench.now + 1
    settle(bench, 1, 100)
    assert bench.sent() == [{"type": "ack", "seq": 100}]
    assert bench.core.next_deadline() is None
    bench.now += 10
    settle(bench, 1, 101)
    assert bench.core.next_deadline() == bench.now + 1
    bench.now += 1
    assert bench.sent() == [{"type": "ack", "seq": 101}]
    assert bench.core.next_deadline() is None


def test_ack_early_where_few_are_kept(make_bench):
    bench = make_bench().open(limits={"unacked": 4})
    for _ in range(6):
        bench.core.submit("echo")
    assert [seq for _, seq in bench.requests()] == [1, 2, 3, 4]
    settle(bench, 1)
    assert bench.sent() == []
    settle(bench, 1, 2)
    assert bench.frames() == [
        b'[{"type":"ack","seq":2},'
        b'{"type":"request","method":"echo","id":"r5","seq":5},'
        b'{"type":"request","method":"echo","id":"r6","seq":6}]'
    ]


def test_detach_acknowledges_and_ends_all(bench):
    done, accepted, sent = (bench.core.submit("echo") for _ in range(3))
    bench.sent()
    unsent = bench.core.submit("echo")
    ask = bench.core.status()
    bench.result("r1", 1)
    bench.accept("r2", 2)
    bench.core.detach()
    assert bench.sent()[-1] == {"type": "ack", "seq": 1}
    assert done.error is None
    assert [c.error.accepted for c in (accepted, sent, unsent)] == [True, None, False]
    assert accepted.error.code == "detached"
    (answered,) = of(bench.seen, Answered)
    assert answered.ask is ask
    assert bench.core.state == State("s1", 1, 2)
    bench.core.detach()
    bench.core.connection_lost(1000, "")
    with pytest.raises(errors.ConnectionLost) as caught:
        bench.core.submit("echo")
    assert caught.value.accepted is False


# ---- questions


def test_questions_are_answered_in_turn(bench, model):
    core = bench.core
    one, two, methods, ping, bare = (
        core.status(),
        core.status(5),
        core.methods(),
        core.ping([1]),
        core.ping(),
    )
    assert bench.sent() == [
        {"type": "status"},
        {"type": "status", "from": 5},
        {"type": "methods"},
        {"type": "ping", "data": [1]},
        {"type": "ping"},
    ]
    status = model().handle({"type": "status"})[0]
    refused = {"type": "error", "code": "overloaded", "message": "", "retry": True, "of": "status"}
    events = bench.say(
        status,
        refused,
        *model().handle({"type": "methods"}),
        {"type": "pong", "data": [1]},
        {"type": "pong"},
        {"type": "pong"},
    )
    assert [e.ask for e in events] == [one, two, methods, ping, bare]
    answers = [e.answer for e in events]
    assert answers[0].queued == 0
    assert isinstance(answers[1], errors.Refused)
    assert answers[1].retry
    assert answers[2][0].name == "echo"
    assert answers[3:] == [[1], None]


def test_questions_need_a_session(make_bench):
    with pytest.raises(errors.ConnectionLost):
        make_bench().core.status()


# ---- cancelling


def cancel_error(code: str, id: str = "r1") -> dict[str, Any]:
    return {"type": "error", "code": code, "message": "", "retry": False, "of": "cancel", "id": id}


def test_cancel_of_an_accepted_call(bench):
    call = bench.core.submit("echo")
    bench.sent()
    bench.accept("r1", 1)
    assert bench.core.cancel(call) is None
    assert bench.sent() == [{"type": "cancel", "id": "r1"}]
    cancelling = {"type": "cancelling", "id": "r1", "seq": 1}
    assert bench.say(cancelling) == [CancelAnswered(call, True)]
    bench.say(
        {"type": "error", "id": "r1", "seq": 1, "code": "cancelled", "message": "", "retry": False}
    )
    assert bench.core.cancel(call) is True
    assert bench.say(cancelling) == []
    assert bench.say(cancel_error("not_found")) == []


def test_cancel_of_an_unsent_call(bench):
    bench.say({"type": "draining", "deadline": 1.0})
    call = bench.core.submit("echo")
    assert bench.core.cancel(call) is True
    assert isinstance(call.error, errors.Cancelled)
    assert call.error.accepted is False


def test_cancel_that_comes_too_late(bench):
    call = bench.core.submit("echo")
    bench.sent()
    assert bench.core.cancel(call) is None
    bench.sent()
    assert bench.say(cancel_error("not_found")) == [CancelAnswered(call, False)]
    bench.result("r1", 1)
    assert bench.core.cancel(call) is False


def test_cancel_that_can_not_be_stored(bench):
    call = bench.core.submit("echo")
    bench.sent()
    bench.core.cancel(call)
    (event,) = bench.say(cancel_error("store_unavailable"))
    assert isinstance(event.answer, errors.Refused)
    assert event.answer.accepted is None


def test_cancel_of_what_was_refused_meanwhile(bench, refused):
    """The cancel met a request that the gap had swallowed: it must not be sent again."""
    bench.core.submit("echo")
    call = bench.core.submit("echo")
    bench.sent()
    bench.core.cancel(call)
    bench.sent()
    bench.say(refused("queue_full", "r1", retry=True, after=1.0))
    events = bench.say(cancel_error("not_found", "r2"))
    assert events == [CallEnded(call), CancelAnswered(call, True)]
    bench.now += 1
    assert bench.requests() == [("r1", 1)]


def test_cancel_goes_again_after_a_second_sending(bench, refused):
    bench.core.submit("echo")
    call = bench.core.submit("echo")
    bench.sent()
    bench.core.cancel(call)
    bench.sent()
    bench.say(refused("unknown_method", "r1"))
    assert bench.requests() == [("r2", 1)]
    assert bench.say(cancel_error("not_found", "r2")) == []
    assert bench.sent() == [{"type": "cancel", "id": "r2"}]
    assert bench.say(cancel_error("not_found", "r2")) == [CancelAnswered(call, False)]


def test_cancel_needs_a_session(bench):
    call = bench.core.submit("echo")
    bench.sent()
    bench.core.connection_lost(1006, "")
    assert bench.core.cancel(call) is False


# ---- closing


def test_close_waits_for_acceptance_then_says_bye(bench, model):
    first, second = bench.core.submit("echo"), bench.core.submit("echo")
    bench.core.close()
    with pytest.raises(errors.Refused) as caught:
        bench.core.submit("echo")
    assert (caught.value.code, caught.value.accepted) == ("closing", False)
    with pytest.raises(errors.Refused):
        bench.core.close()
    assert [m["type"] for m in bench.sent()] == ["request", "request"]
    bench.result("r1", 1)
    assert bench.sent() == []
    bench.accept("r2", 2)
    assert bench.sent() == [{"type": "ack", "seq": 1}, {"type": "bye"}]
    bench.result("r2", 2)
    receipt = {**model().receipt(), "accepted": 2, "done": 2}
    events = bench.say({"type": "bye", "receipt": receipt})
    assert of(events, Ended)[0].receipt.done == 2
    assert of(events, StateChanged) == [StateChanged("closed")]
    assert first.error is second.error is None
    assert bench.core.receipt.verified
    with pytest.raises(errors.SessionGone):
        bench.core.submit("echo")


def test_close_by_cancelling_refuses_what_is_unsent(make_bench, model, refused):
    bench = make_bench(window=3).open()
    calls = [bench.core.submit("echo") for _ in range(5)]
    bench.sent()
    bench.core.close("cancel")
    bench.events()
    assert [c.error and c.error.code for c in calls] == [None, None, None, "closing", "closing"]
    assert bench.sent() == [{"type": "bye", "mode": "cancel"}]
    bench.accept("r1", 1)
    bench.say(refused("queue_full", "r2", retry=True))
    # Nothing can be sent again after ``bye``.
    assert [c.error and c.error.accepted for c in calls[:3]] == [None, False, False]
    bench.say({"type": "bye", "receipt": {**model().receipt(), "accepted": 1, "pending": 1}})
    assert isinstance(calls[0].error, errors.SessionGone)
    assert calls[0].error.accepted is True


def test_the_receipt_says_what_was_accepted(make_bench, model):
    bench = make_bench().open()
    calls = [bench.core.submit("echo") for _ in range(2)]
    bench.sent()
    bench.say({"type": "bye", "receipt": {**model().receipt(), "accepted": 1, "pending": 1}})
    assert [c.error.accepted for c in calls] == [True, False]


def test_close_while_draining(bench):
    bench.core.submit("echo")
    bench.sent()
    bench.say({"type": "draining", "deadline": 1.0})
    bench.accept("r1", 1)
    bench.core.close()
    assert bench.sent() == [{"type": "bye"}]


def test_draining_while_closing_holds_the_rest(make_bench):
    bench = make_bench(window=1).open()
    bench.core.submit("echo")
    bench.core.submit("echo")
    bench.sent()
    bench.core.close()
    bench.say({"type": "draining", "deadline": 1.0})
    bench.result("r1", 1)
    bench.now += 1
    assert bench.sent() == [{"type": "ack", "seq": 1}]
    bench.core.connection_lost(1012, "draining")
    with pytest.raises(errors.ConnectionLost):
        bench.core.close()


def test_bye_is_said_again_where_the_store_was_away(bench):
    bench.core.close()
    assert bench.sent() == [{"type": "bye"}]
    no = {"type": "error", "code": "store_unavailable", "message": "", "retry": True, "of": "bye"}
    bench.say({**no, "after": 2.0})
    assert bench.sent() == []
    assert bench.core.next_deadline() == bench.now + 2
    bench.now += 2
    assert bench.sent() == [{"type": "bye"}]
    bench.say({**no, "retry": False})
    assert bench.core.error.code == "store_unavailable"


def test_close_modes(bench):
    with pytest.raises(ValueError, match="mode"):
        bench.core.close("later")


# ---- what breaks the connection


@pytest.mark.parametrize(
    "message",
    [
        {"type": "result", "id": "r2", "seq": 2, "result": 1},
        {"type": "result", "id": "stranger", "seq": 1, "result": 1},
        {"type": "accepted", "id": "stranger", "seq": 9, "ahead": 0},
        {"type": "accepted", "id": 5, "seq": 9, "ahead": 0},
        {"type": "error", "code": "bad_json", "message": "not JSON", "retry": False},
    ],
    ids=["gap", "stranger", "unsent", "malformed", "lost frame"],
)
def test_what_breaks_the_connection(bench, message):
    first, second = bench.core.submit("echo"), bench.core.submit("echo")
    bench.sent()
    events = bench.say(message, {"type": "result", "id": "r1", "seq": 1, "result": 1})
    assert len(of(events, Lost)) == 1
    assert isinstance(first.error, errors.ConnectionLost)
    assert first.error.accepted is second.error.accepted is None
    assert first.error.retry
    assert bench.result("r1", 1) == []
    assert bench.core.next_deadline() is None


def test_an_outcome_beyond_what_was_sent(make_bench):
    bench = make_bench().open()
    call = bench.core.submit("echo")
    bench.result("r1", 1)
    assert isinstance(call.error, errors.ConnectionLost)


def test_a_frame_before_hello_is_passed_over(make_bench):
    bench = make_bench()
    assert bench.say({"type": "hint", "message": "type"}) == []
    bench.open()
    assert bench.say({"type": "hint", "message": "type"}) == []


# ---- frames


def frames_of(bench) -> list[list[Any]]:
    found = []
    for frame in bench.frames():
        value = json.loads(frame)
        found.append(value if isinstance(value, list) else [value])
    return found


def test_frames_hold_a_batch(make_bench):
    bench = make_bench().open(limits={"batch": 3})
    for _ in range(7):
        bench.core.submit("echo")
    assert [len(f) for f in frames_of(bench)] == [3, 3, 1]


def test_frames_hold_their_bytes(make_bench):
    bench = make_bench().open(limits={"message_bytes": 300})
    for n in range(20):
        bench.core.submit("echo", "x" * (10 * n))
    frames = bench.frames()
    assert all(len(frame) <= 300 for frame in frames)
    assert len(frames) > 5


def test_a_request_over_the_limit_takes_no_number(make_bench):
    bench = make_bench().open(limits={"message_bytes": 300})
    large = bench.core.submit("echo", "x" * 300)
    bench.core.submit("echo")
    assert bench.requests() == [("r2", 1)]
    assert isinstance(large.error, errors.MessageTooLarge)
    assert (large.error.accepted, large.error.code) == (False, "message_too_large")


# ---- phases


def test_every_phase_has_its_moves():
    assert set(PHASES) == set(Phase)
    assert PHASES[Phase.ENDED] == ()


def test_an_illegal_move_changes_nothing(bench):
    with pytest.raises(AssertionError, match="OPEN to GREETING"):
        bench.core.hello(Credentials(token="x"))
    assert bench.core.phase is Phase.OPEN
