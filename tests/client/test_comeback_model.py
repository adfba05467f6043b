"""The core against a server whose connections break, which crashes, and takes time to commit.

Whatever happens, everything that was submitted ends exactly once, with the right outcome or a
true word on its acceptance, and the server has accepted each id once.
"""

from __future__ import annotations

import json
from collections import deque
from itertools import repeat
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inorder import errors
from inorder.credentials import Credentials
from inorder.events import CallAccepted, CallEnded, CancelAnswered, Dropped, StateChanged
from inorder.phases import Phase

SOME = st.integers(0, 4)
STEP = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 9)),
    st.tuples(st.just("arrive"), st.integers(1, 3)),
    st.tuples(st.just("commit"), st.integers(1, 9)),
    st.tuples(st.just("settle"), st.integers(1, 5)),
    st.tuples(st.just("answer"), st.integers(1, 5)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("wait"), st.just(1.0)),
    st.tuples(st.just("drop"), st.tuples(SOME, SOME)),
    st.tuples(st.just("crash"), st.none()),
    st.tuples(st.just("drain"), st.none()),
)
FEW = st.lists(STEP, max_size=12)
MANY = st.lists(STEP, min_size=30, max_size=80)


@pytest.fixture(scope="session")
def server(model):
    """A model that is slow to commit, and whose sessions can be resumed."""

    class Server(model):  # type: ignore[misc]
        def __init__(self, **limits: Any) -> None:
            super().__init__(**limits)
            self.name = "s1"
            self.sessions = 1
            self.committed = 0
            self.ended: dict[str, Any] | None = None

        def _hello(self, message: dict[str, Any]) -> list[dict[str, Any]]:
            self.gap = False
            self.said_bye = None
            wanted = message.get("session")
            if wanted is None:
                assert not self.requests, "a new session while there is one"
                self.sessions += 1
                self.name = f"s{self.sessions}"
            elif self.ended is not None:
                return [{"type": "bye", "receipt": self.ended}]
            elif wanted != self.name or not self.requests:
                gone = {"code": "session_gone", "message": "", "retry": False, "of": "hello"}
                return [{"type": "error", **gone}]
            else:
                assert message["seq"] <= self.settled
                assert message["accepted"] <= self.committed
                self.acked = max(self.acked, message["seq"])
            first, *rest = super()._hello(message)
            return [first | {"accepted": self.committed, "session": self.name}, *rest]

        def _request(self, message: dict[str, Any]) -> list[dict[str, Any]]:
            answers = super()._request(message)
            if len(answers) == 1 and answers[0].get("type") == "accepted":
                return [] if answers[0]["seq"] > self.committed else answers
            return answers

        def commit(self) -> list[dict[str, Any]]:
            if self.committed == len(self.requests):
                return []
            self.committed += 1
            id = self.requests[self.committed - 1]["id"]
            return [{"type": "accepted", "id": id, "seq": self.committed, "ahead": 0}]

        def settle(self) -> list[dict[str, Any]]:
            return super().settle() if self.settled < self.committed else []

        def _bye(self, message: dict[str, Any]) -> list[dict[str, Any]]:
            while self.committed < len(self.requests):
                self.commit()
            answers = super()._bye(message)
            self.ended = answers[-1]["receipt"] if self.requests else None
            return answers

        def crash(self) -> None:
            for request in self.requests[self.committed :]:
                del self.seqs[request["id"]]
                self.cancelled.discard(request["id"])
            del self.requests[self.committed :]

    return Server


class Road:
    """A core and a server, and frames under way between them while there is a connection."""

    def __init__(self, bench: Any, server: Any) -> None:
        self.bench = bench
        self.server = server
        self.up: deque[bytes] = deque()
        self.down: deque[dict[str, Any]] = deque()
        self.connected = False
        self.draining = False
        self.calls: list[Any] = []
        self.ended: list[Any] = []
        self.accepted: list[Any] = []
        self.asked: list[Any] = []
        self.answered: list[Any] = []
        self.states: list[str] = []

    def pump(self) -> None:
        core = self.bench.core
        if not self.connected and core.phase is Phase.AWAY and core.due(self.bench.now):
            core.hello(Credentials(token="t"))
            self.connected = True
        frames = self.bench.frames()
        if self.connected:
            self.up += frames
        else:
            assert frames == []
        for event in self.bench.seen:
            if type(event) is CallEnded:
                self.ended.append(event.call)
            elif type(event) is CallAccepted:
                self.accepted.append(event.call)
            elif type(event) is CancelAnswered:
                self.answered.append(event.call)
            elif type(event) is StateChanged:
                self.states.append(event.name)
            elif type(event) is Dropped:
                self.connected = False
                self.up.clear()
                self.down.clear()
        self.bench.seen.clear()

    def open(self) -> Road:
        self.bench.core.begin(self.bench.now)
        self.bench.core.hello(Credentials(token="t"))
        self.connected = True
        self.pump()
        self.move("arrive")
        self.move("answer")
        self.pump()
        return self

    def step(self, what: str, amount: Any) -> None:
        if what == "submit":
            if not self.bench.core.closing and self.bench.core.phase < Phase.ENDED:
                for _ in range(amount):
                    call = self.bench.core.submit("echo", len(self.calls))
                    call.watched = True
                    self.calls.append(call)
        elif what == "cancel":
            if amount < len(self.calls):
                call = self.calls[amount]
                if self.bench.core.cancel(call) is None:
                    self.asked.append(call)
        elif what == "wait":
            self.bench.now += amount
        elif what == "drop":
            self.drop(*amount)
        elif what == "crash":
            self.drop(0, 0)
            self.server.crash()
        elif what == "drain":
            if self.connected:
                self.say([{"type": "draining", "deadline": 9.0}])
                self.drop(1, len(self.down), 1012)
        else:
            for _ in range(amount):
                self.move(what)
        self.pump()

    def drop(self, up: int, down: int, code: int = 1006) -> None:
        """Some frames of each direction still get through."""
        if not self.connected:
            return
        for _ in range(up):
            self.move("arrive")
        for _ in range(down):
            self.move("answer")
        if self.connected:
            self.connected = False
            self.up.clear()
            self.down.clear()
            self.bench.core.connection_lost(code, "", self.bench.now)

    def say(self, messages: list[dict[str, Any]]) -> None:
        if self.connected:
            self.down += messages

    def move(self, what: str) -> None:
        if what == "arrive" and self.up:
            value = json.loads(self.up.popleft())
            for message in value if isinstance(value, list) else [value]:
                self.say(self.server.handle(message))
        elif what == "commit":
            self.say(self.server.commit())
        elif what == "settle":
            self.say(self.server.settle())
        elif what == "answer" and self.down:
            self.hear(self.down.popleft())

    def hear(self, message: dict[str, Any]) -> None:
        core = self.bench.core
        self.bench.say(message)
        if message["type"] == "error" and message.get("of") == "hello":
            error = errors.SessionGone("session_gone", "no such session")
            core.connect_failed(error, self.bench.now)
            self.bench.events()
        self.pump()

    def quiet(self) -> None:
        """Time goes on and everything gets through, until all has ended."""
        core, more = self.bench.core, 4
        for _ in range(300):
            self.step("wait", 1.0)
            while self.up or self.down:
                self.move("arrive")
                self.move("answer")
                self.pump()
            self.step("commit", 50)
            self.step("settle", 20)
            while self.down:
                self.move("answer")
            self.pump()
            more -= len(self.ended) == len(self.calls) and core.phase is not Phase.AWAY
            if not more or core.phase >= Phase.ENDED:
                return
        raise AssertionError(f"{core.phase.name}: {len(self.ended)} of {len(self.calls)}")


def road(make_bench: Any, server: Any, window: int, queue: int, *, begun: bool = True) -> Road:
    """``begun``: something is accepted, so that the session can be resumed."""
    bench = make_bench(window=window, give_up_after=None, backoff=lambda: repeat(0.5))
    line = Road(bench, server(queue=queue)).open()
    if begun:
        for step in (("submit", 1), ("arrive", 1), ("commit", 1), ("answer", 1)):
            line.step(*step)
        assert bench.core.state.accepted == 1
    return line


def check(road: Road) -> None:
    far, calls = road.server, road.calls
    # Everything ended, and once.
    assert len(road.ended) == len(calls)
    assert set(road.ended) == set(calls)
    # Each id was accepted once, and in the order of submission.
    ids = [request["id"] for request in far.requests]
    assert len(set(ids)) == len(ids)
    known = set(ids)
    assert ids == [call.id for call in calls if call.id in known]
    for call in calls:
        accepted = call.error is None or call.error.accepted
        if accepted is not None:
            assert accepted == (call.id in known), call.error
        if call.error is None:
            assert call.result == calls.index(call)
            assert far.seqs[call.id] == call.seq
    # Outcomes came in order.
    done = [call for call in road.ended if call.error is None or call.error.accepted]
    if road.bench.core.error is None:
        assert done == [call for call in calls if call in set(done)]
        assert set(road.accepted) == set(done)
    # Whoever asked for a cancellation was answered, or has the outcome.
    assert set(road.asked) <= set(road.answered) | set(road.ended)


@given(steps=MANY, window=st.integers(1, 40), queue=st.integers(1, 12))
@settings(max_examples=200)
def test_everything_ends_once_whatever_breaks(make_bench, server, steps, window, queue):
    line = road(make_bench, server, window, queue)
    for step in steps:
        line.step(*step)
    line.quiet()
    check(line)
    core = line.bench.core
    assert core.error is None
    assert {type(call.error) for call in line.calls} <= {type(None), errors.Cancelled}
    assert line.server.most <= min(window, queue)
    assert line.server.acked == line.server.settled == core.state.held


@given(steps=FEW, window=st.integers(1, 40))
def test_a_session_that_has_accepted_nothing(make_bench, server, steps, window):
    line = road(make_bench, server, window, 12, begun=False)
    for step in steps:
        line.step(*step)
    line.quiet()
    check(line)
    core = line.bench.core
    if core.error is not None:
        # The session had accepted nothing, and it can't be told of what was under way.
        assert isinstance(core.error, errors.SessionGone)
        assert not line.server.requests
        assert None in [call.error.accepted for call in line.calls]
    for before, after in zip(line.states, line.states[1:], strict=False):
        assert (after == "reconnecting") == (before in ("connected", "resumed", "draining")) or (
            after in ("draining", "lost")
        )


@given(
    before=FEW,
    after=FEW,
    mode=st.sampled_from(["finish", "cancel"]),
    queue=st.integers(1, 12),
)
@settings(max_examples=200)
def test_close_gets_its_receipt_whatever_breaks(make_bench, server, before, after, mode, queue):
    line = road(make_bench, server, 10, queue)
    for step in before:
        line.step(*step)
    core = line.bench.core
    core.close(mode)
    for step in after:
        line.step(*step)
    line.quiet()
    check(line)
    assert core.phase is Phase.ENDED
    assert core.receipt.accepted == len(line.server.requests)
    if mode == "finish":
        # Nothing that ran lost its outcome.
        kinds = {type(call.error) for call in line.calls}
        assert kinds <= {type(None), errors.Cancelled}
