"""The core against the server's numbering rules, refusing at random."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from inorder import errors
from inorder.events import CallAccepted, CallEnded

FINAL = ("unknown_method", "invalid_params", "forbidden")
PASSING = ("rate_limited", "overloaded", "store_unavailable", "internal")
CODES = st.sampled_from([None] * 12 + list(FINAL) + list(PASSING))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 9)),
        st.tuples(st.just("arrive"), st.integers(1, 3)),
        st.tuples(st.just("settle"), st.integers(1, 5)),
        st.tuples(st.just("answer"), st.integers(1, 5)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0])),
    ),
    max_size=60,
)


class Line:
    """A core and a model with frames under way in both directions."""

    def __init__(self, bench: Any, model: Any) -> None:
        self.bench = bench
        self.model = model
        self.up: deque[bytes] = deque()
        self.down: deque[list[dict[str, Any]]] = deque()
        self.calls: list[Any] = []
        self.ended: list[Any] = []
        self.accepted: list[Any] = []

    def pump(self) -> None:
        self.up += self.bench.frames()
        for event in self.bench.seen:
            if type(event) is CallEnded:
                self.ended.append(event.call)
            elif type(event) is CallAccepted:
                self.accepted.append(event.call)
        self.bench.seen.clear()

    def step(self, what: str, amount: Any) -> None:
        if what == "submit":
            for _ in range(amount):
                call = self.bench.core.submit("echo", len(self.calls))
                call.watched = True
                self.calls.append(call)
        elif what == "cancel":
            if amount < len(self.calls):
                self.bench.core.cancel(self.calls[amount])
        elif what == "wait":
            self.bench.now += amount
        else:
            for _ in range(amount):
                self.move(what)
        self.pump()

    def move(self, what: str) -> None:
        if what == "arrive" and self.up:
            value = json.loads(self.up.popleft())
            for message in value if isinstance(value, list) else [value]:
                self.down.append(self.model.handle(message))
        elif what == "settle":
            self.down.append(self.model.settle())
        elif what == "answer" and self.down and (messages := self.down.popleft()):
            self.bench.say(*messages)

    def quiet(self) -> None:
        """Time goes on and everything arrives, until all has ended and is acknowledged."""
        more = 3
        for _ in range(200):
            self.step("wait", 1.0)
            while self.up:
                self.move("arrive")
            self.step("settle", 20)
            while self.down:
                self.move("answer")
            self.pump()
            more -= len(self.ended) == len(self.calls)
            if not more:
                return


def refusing(codes: list[str | None]) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """Refuses the requests that are next in line by this list, then none."""
    rest = iter(codes)

    def refuse(request: dict[str, Any]) -> dict[str, Any] | None:
        code = next(rest, None)
        return {"code": code, "retry": code in PASSING, "after": 0.5} if code else None

    return refuse


@given(
    steps=STEPS,
    codes=st.lists(CODES, max_size=60),
    window=st.integers(1, 40),
    queue=st.integers(1, 12),
    unacked=st.integers(1, 40),
    batch=st.integers(1, 6),
)
def test_everything_ends_once_and_in_order(
    make_bench, model, steps, codes, window, queue, unacked, batch
):
    far = model(refusing(codes), queue=queue, unacked=unacked)
    limits = {"queue": queue, "unacked": unacked, "batch": batch}
    line = Line(make_bench(window=window).open(limits=limits), far)
    for step in steps:
        line.step(*step)
        assert line.bench.core.error is None
    line.quiet()

    # Everything that was submitted ended, and once.
    assert len(line.ended) == len(line.calls)
    assert set(map(id, line.ended)) == set(map(id, line.calls))
    # Numbers are contiguous, in the order of submission.
    taken = [c for c in line.calls if c.error is None or c.error.accepted]
    assert [c.seq for c in taken] == list(range(1, len(far.requests) + 1))
    assert [c.id for c in taken] == [r["id"] for r in far.requests]
    # Results are their own, and came in order.
    assert all(c.result == line.calls.index(c) for c in taken if c.error is None)
    assert [c for c in line.ended if c in set(taken)] == taken
    # Whoever waits for acceptance is told, or gets the outcome.
    assert set(line.accepted) == set(taken)
    for call in set(line.calls) - set(taken):
        assert isinstance(call.error, errors.Refused | errors.Cancelled)
        assert call.error.code in (*FINAL, "cancelled")
        assert call.error.accepted is False
    # Limits held.
    assert far.most <= min(window, queue)
    assert far.acks == sorted(set(far.acks))
    assert far.acked == len(taken)


def verdicts_are_true(line: Line) -> None:
    """Everything has ended, once, and what is said of its acceptance is so."""
    assert len(line.ended) == len(line.calls)
    assert set(line.ended) == set(line.calls)
    known = {request["id"] for request in line.model.requests}
    for call in line.calls:
        accepted = call.error is None or call.error.accepted
        assert accepted is None or accepted == (call.id in known)


@given(
    steps=STEPS,
    codes=st.lists(CODES, max_size=60),
    mode=st.sampled_from(["finish", "cancel"]),
    queue=st.integers(1, 12),
)
def test_close_at_any_time(make_bench, model, steps, codes, mode, queue):
    far = model(refusing(codes), queue=queue)
    line = Line(make_bench(window=10).open(limits={"queue": queue}), far)
    for step in steps:
        line.step(*step)
    line.bench.core.close(mode)
    line.quiet()
    verdicts_are_true(line)
    receipt = line.bench.core.receipt
    assert receipt.accepted == len(far.requests)
    assert far.said_bye == mode
    if mode == "finish":
        assert all(c.error is None or c.error.code in (*FINAL, "cancelled") for c in line.calls)


@given(steps=STEPS, codes=st.lists(CODES, max_size=60), leave=st.booleans())
def test_the_connection_goes_at_any_time(make_bench, model, steps, codes, leave):
    far = model(refusing(codes), queue=8)
    line = Line(make_bench(window=10).open(limits={"queue": 8}), far)
    for step in steps:
        line.step(*step)
    state = line.bench.core.state
    if leave:
        line.bench.core.detach()
    else:
        line.bench.lose()
    line.pump()
    while line.up:
        line.move("arrive")
    verdicts_are_true(line)
    assert all(c.error is None or c.error.accepted is not None for c in line.ended[: state.held])
    assert far.acked <= state.held <= state.accepted <= len(far.requests)
