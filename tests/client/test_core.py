"""The core's conversation with a server, message by message, without a loop."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inorder import errors
from inorder.core import Core
from inorder.credentials import Credentials, State
from inorder.events import (
    CallAccepted,
    CallEnded,
    CallProgress,
    LoginRefused,
    Lost,
    Opened,
    Outcome,
    OutcomeCame,
    StateChanged,
)


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


def nested(depth: int) -> object:
    value: object = {}
    for turn in range(depth - 1):
        value = [value] if turn % 2 else {"a": value}
    return value


def test_params_that_are_nested_deeper_than_a_server_reads(bench):
    core = bench.core
    for deep in (nested(500), [nested(600), 1], nested(20_000)):
        with pytest.raises(ValueError, match="nested more than 500 deep"):
            core.submit("echo", deep)
        with pytest.raises(ValueError, match="nested more than 500 deep"):
            core.ping([deep])
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested more than 500 deep"):
        core.submit("echo", endless)
    assert bench.sent() == []
    # The message itself is one; what stands in strings, or side by side, counts for nothing.
    core.submit("echo", nested(499))
    core.submit("echo", ['[{"\\' * 2000, "]" * 10, "\\"])
    core.submit("echo", [{}] * 2000)


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
    bench.lose(1012, "draining")
    bench.events()
    assert sent.error.accepted is None
    assert unsent.error.accepted is accepted.error.accepted is False
    assert unsent.error.code == "draining"
    assert unsent.error.retry
    assert unsent.error.close_code == 1012


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


@pytest.mark.parametrize(("seq", "accepted"), [(7, True), (1, None)])
def test_an_id_that_was_acknowledged_before(bench, refused, seq, accepted):
    """With the number of its first sending it is known to have been accepted."""
    call = bench.core.submit("echo", id="mine")
    bench.sent()
    bench.say(refused("already_acknowledged", "mine", details={"seq": seq}))
    assert (call.error.code, call.error.accepted) == ("already_acknowledged", accepted)
