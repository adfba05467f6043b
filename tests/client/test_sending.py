"""What the core sends when: acks, questions, cancels, the end, and frames."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inorder import errors
from inorder.credentials import State
from inorder.events import (
    Answered,
    CallEnded,
    CancelAnswered,
    Ended,
    StateChanged,
)


def of(events: list[Any], kind: type) -> list[Any]:
    return [event for event in events if type(event) is kind]


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
    bench.lose(1000, "")
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
    bench.lose()
    assert bench.core.cancel(call) is False


# ---- closing


def test_close_waits_for_the_outcomes_then_says_bye(bench, model):
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
    assert bench.sent() == []
    bench.result("r2", 2)
    assert bench.sent() == [{"type": "ack", "seq": 2}, {"type": "bye"}]
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
    bench.core.close()
    bench.result("r1", 1)
    assert bench.sent() == [{"type": "ack", "seq": 1}, {"type": "bye"}]


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
    bench.lose(1012, "draining")
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
