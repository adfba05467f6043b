"""What a session under load sends, and what it finds wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from puppet import LIMITS

from inorder_server.bench.plan import SAMPLES, BenchError, Plan
from inorder_server.bench.session import Session, Tally

SECOND = 1_000_000_000


class Under:
    """A session under load, welcomed, and what a server says to it."""

    def __init__(self, limits: dict[str, Any] | None = None, **more: Any) -> None:
        given = {"connections": 1, "duration": 1.0, "in_flight": 4, "params": '{"a":1}'} | more
        self.tally = Tally()
        self.tally.end = SECOND
        self.session = Session(Plan(url="", token="t", method="echo", **given), self.tally)
        self.sent: list[dict[str, Any]] = []
        if not self.session.is_bare:
            self.say({"type": "welcome", "limits": LIMITS | (limits or {})})

    def say(self, *messages: dict[str, Any], now: int = 0) -> None:
        frame = messages[0] if len(messages) == 1 else list(messages)
        self.session.receive(json.dumps(frame).encode(), now)

    def send(self, now: int = 0) -> list[Any]:
        """The frames that it sends; ``sent`` has their messages."""
        frames = [json.loads(frame) for frame in self.session.frames(now)]
        for frame in frames:
            self.sent += frame if isinstance(frame, list) else [frame]
        return frames

    def load(self, now: int = 0) -> list[Any]:
        self.session.refill(now)
        return self.send(now)

    def outcome(self, seq: int) -> dict[str, Any]:
        id = next(message["id"] for message in self.sent if message.get("seq") == seq)
        return {"type": "result", "id": id, "seq": seq, "result": {"a": 1}}

    @property
    def seqs(self) -> list[int]:
        return [message["seq"] for message in self.sent if message["type"] == "request"]


def test_the_closed_loop_sends_one_for_each_outcome_that_came() -> None:
    under = Under()
    [frame] = under.load()
    assert [message["seq"] for message in frame] == [1, 2, 3, 4]
    assert {(message["method"], message["params"]["a"]) for message in frame} == {("echo", 1)}
    assert len({message["id"] for message in frame}) == 4
    under.say({"type": "accepted", "id": "x", "seq": 4}, under.outcome(1), under.outcome(2))
    [frame] = under.load()
    assert [message["seq"] for message in frame] == [5, 6]
    assert (under.session.settled, under.session.unsettled) == (2, 4)
    assert not under.tally.wrong


def test_single_frames_hold_one_message_each() -> None:
    frames = Under(single_frames=True).load()
    assert [frame["seq"] for frame in frames] == [1, 2, 3, 4]


def test_arrays_keep_to_the_servers_batch_and_bytes() -> None:
    assert [len(frame) for frame in Under({"batch": 3}, in_flight=7).load()] == [3, 3, 1]
    long = json.dumps("x" * 1000)
    under = Under({"message_bytes": 3600}, in_flight=7, params=long)
    assert [len(frame) for frame in under.load()] == [3, 3, 1]
    assert all(len(frame) <= 3600 for frame in under.session.frames(0))


def test_a_load_that_the_server_can_never_take_is_told_at_once() -> None:
    with pytest.raises(BenchError, match="at most 3 requests in flight"):
        Under({"queue": 3})
    with pytest.raises(BenchError, match="at most 100 bytes"):
        Under({"message_bytes": 100})
    with pytest.raises(BenchError, match="no limits"):
        Under().say({"type": "welcome"})


def test_latency_counts_from_when_a_request_was_due() -> None:
    under = Under(in_flight=1)
    for due in (1000, 2000, 3000):
        under.session.issue(due * 1000)
    assert [frame["seq"] for frame in under.send()] == [1]
    under.say(under.outcome(1), now=10_000_000)
    assert [frame["seq"] for frame in under.send()] == [2]
    under.say(under.outcome(2), now=20_000_000)
    latency = under.tally.latency
    assert (latency.count, latency.total) == (2, 9_000 + 18_000)


def test_only_the_measured_time_counts() -> None:
    under = Under(in_flight=3)
    under.tally.begin, under.tally.end = 100_000, 200_000
    for due in (99_000, 150_000, 250_000):
        under.session.issue(due)
    under.send()
    under.say(under.outcome(1), now=150_000)  # due before
    under.say(under.outcome(2), now=900_000)  # came after the end, and was due before
    under.say(under.outcome(3), now=900_000)
    tally = under.tally
    assert (tally.answered, tally.outcomes) == (1, 3)
    assert (tally.latency.count, tally.latency.largest) == (1, 750)
    tally.start = 50_000
    report = tally.report(1.0, 0.0)
    assert report.elapsed == pytest.approx(850e-6)
    assert report.whole_per_second == pytest.approx(3 / 850e-6)


# ---- what must not be


def wrong(under: Under) -> dict[str, int]:
    return dict(under.tally.wrong)


def test_an_outcome_that_comes_twice() -> None:
    under = Under()
    under.load()
    under.say(under.outcome(1), under.outcome(1))
    assert wrong(under) == {"again": 1}
    assert under.session.settled == 1


def test_outcomes_out_of_order() -> None:
    under = Under()
    under.load()
    under.say(under.outcome(2), under.outcome(1))
    assert wrong(under) == {"missing": 1, "again": 1}
    assert under.session.settled == 2


def test_an_outcome_that_never_came() -> None:
    under = Under()
    under.load(now=1000)
    under.say(under.outcome(1), under.outcome(4), now=2000)
    assert wrong(under) == {"missing": 1}
    assert under.session.unsettled == 0
    assert under.tally.latency.count == 2


def test_an_outcome_that_nobody_asked_for() -> None:
    under = Under()
    under.load()
    under.say({"type": "result", "id": "x", "seq": 5}, {"type": "accepted", "id": "x", "seq": 9})
    assert wrong(under) == {"unknown": 2}
    assert under.session.settled == 0


def test_an_outcome_of_the_right_number_under_anothers_id() -> None:
    under = Under()
    under.load()
    under.say({**under.outcome(1), "id": under.outcome(2)["id"]})
    assert wrong(under) == {"id": 1}


@pytest.mark.parametrize("frame", [b"{", b'"x"', b'{"type": 3}', b"\xff"])
def test_what_can_not_be_read(frame: bytes) -> None:
    under = Under()
    under.session.receive(frame, 0)
    assert wrong(under) == {"unreadable": 1}


def test_all_is_counted_and_some_told_in_words() -> None:
    under = Under()
    under.load()
    for _ in range(100):
        under.say({"type": "result", "id": "x", "seq": 5})
    assert wrong(under) == {"unknown": 100}
    assert under.tally.samples == ["unknown: outcome 5, sent 4"] * SAMPLES


def test_what_is_new_in_the_protocol_is_ignored() -> None:
    under = Under()
    under.say({"type": "progress", "seq": 1}, {"type": "token"}, {"type": "tomorrow", "x": []})
    assert not under.tally.wrong


# ---- errors and refusals


def failure(under: Under, seq: int, code: str = "handler_failed") -> dict[str, Any]:
    id = under.outcome(seq)["id"]
    return {"type": "error", "code": code, "message": "", "retry": False, "id": id, "seq": seq}


def refusal(code: str, **more: Any) -> dict[str, Any]:
    about = {"type": "error", "code": code, "message": "why", "of": "request", "retry": True}
    return about | more


def test_outcomes_that_are_errors_are_outcomes() -> None:
    under = Under()
    under.load()
    under.say(under.outcome(1), failure(under, 2), failure(under, 3, "timeout"))
    assert under.tally.errors == {"handler_failed": 1, "timeout": 1}
    assert (under.session.settled, under.session.failed) == (3, 2)


def test_after_a_refusal_it_goes_back_to_that_number_and_waits() -> None:
    under = Under()
    under.load()
    under.say(under.outcome(1), refusal("rate_limited", details={"seq": 2}, after=0.5), now=SECOND)
    assert under.tally.errors == {"refused rate_limited": 1}
    assert under.session.resume_at == SECOND * 3 // 2
    assert under.load(now=SECOND) == []
    [frame] = under.send(now=SECOND * 3 // 2)
    assert [message["seq"] for message in frame] == [2, 3, 4, 5]
    assert frame[0]["id"] == under.outcome(2)["id"]


def test_after_a_refusal_the_window_opens_step_by_step() -> None:
    under = Under(in_flight=100)
    under.load()
    under.say(refusal("queue_full", details={"seq": 1}))
    sizes = []
    for _ in range(4):
        [frame] = under.load()
        sizes.append(sum(message["type"] == "request" for message in frame))
        settled = under.session.settled
        under.say(*(under.outcome(seq) for seq in range(settled + 1, under.session.sent + 1)))
    assert sizes == [32, 64, 100, 100]
    assert not under.tally.wrong


def test_the_echo_of_an_older_gap_is_no_reason_to_go_back_again() -> None:
    under = Under()
    under.load()
    under.say(refusal("out_of_order", retry=False, details={"expected": 1}, after=0))
    assert under.session.sent == 0
    under.say(refusal("out_of_order", retry=False, details={"expected": 1}, after=0))
    [frame] = under.send()
    assert [message["seq"] for message in frame] == [1, 2, 3, 4]


@pytest.mark.parametrize("of", ["request", "hello"])
def test_a_final_refusal_ends_the_run(of: str) -> None:
    under = Under()
    under.load()
    with pytest.raises(BenchError, match="unknown_method: why"):
        under.say(refusal("unknown_method", retry=False, of=of, details={"seq": 1}))


def test_a_login_that_is_refused_for_now_ends_the_run_too() -> None:
    with pytest.raises(BenchError, match="overloaded"):
        Under().say(refusal("overloaded", of="hello"))


# ---- acknowledgements and the end


def test_it_acknowledges_every_hundred_and_what_is_held_when_asked() -> None:
    under = Under(in_flight=60)
    acks = []
    for _ in range(5):
        under.load()
        settled = under.session.settled
        under.say(*(under.outcome(seq) for seq in range(settled + 1, settled + 61)))
    under.send()
    acks = [message["seq"] for message in under.sent if message["type"] == "ack"]
    assert acks == [120, 240]
    assert json.loads(under.session.ack()[0]) == {"type": "ack", "seq": 300}
    assert under.session.ack() == []


def ended(under: Under, **receipt: Any) -> Under:
    told = {"session": "s", "accepted": 4, "done": 4, "failed": 0, "cancelled": 0, "pending": 0}
    under.say({"type": "bye", "receipt": told | {"verified": True} | receipt})
    return under


def worked(**more: Any) -> Under:
    under = Under(**more)
    under.load()
    under.say(*(under.outcome(seq) for seq in (1, 2, 3, 4)))
    return under


def test_the_last_words_acknowledge_and_say_bye() -> None:
    frames = [json.loads(frame) for frame in worked().session.bye()]
    assert frames == [{"type": "ack", "seq": 4}, {"type": "bye"}]


def test_a_receipt_that_agrees() -> None:
    under = ended(worked())
    assert under.session.ended
    assert (under.tally.receipts, wrong(under)) == (1, {})


def test_failed_and_cancelled_ones_stand_in_the_receipt() -> None:
    under = Under()
    under.load()
    under.say(under.outcome(1), under.outcome(2), failure(under, 3), failure(under, 4, "cancelled"))
    ended(under, done=2, failed=1, cancelled=1)
    assert (under.tally.receipts, wrong(under)) == (1, {})


@pytest.mark.parametrize(
    "lie",
    [
        {"accepted": 5},
        {"done": 3},
        {"done": 3, "failed": 1},
        {"done": 3, "cancelled": 1},
        {"pending": 1},
        {"verified": False},
    ],
)
def test_a_receipt_that_does_not_agree(lie: dict[str, Any]) -> None:
    under = ended(worked(), **lie)
    assert (under.tally.receipts, wrong(under)) == (0, {"receipt": 1})


def test_no_receipt_in_the_bye() -> None:
    under = worked()
    under.say({"type": "bye"})
    assert wrong(under) == {"receipt": 1}


# ---- the bare peer


def test_a_bare_peer_gets_the_same_messages_and_no_others() -> None:
    under = Under(bare=True, in_flight=120)
    for _ in range(2):
        [frame] = under.load()
        assert len(frame) == 120
        under.session.receive(json.dumps(frame).encode(), 0)
    assert under.session.settled == 240
    assert {message["type"] for message in under.sent} == {"request"}
    assert under.session.ack() == []
    under.session.receive(json.dumps(frame[0]).encode(), 0)
    assert wrong(under) == {"again": 1}
