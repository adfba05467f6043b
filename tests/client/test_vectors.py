"""The client's side of protocol/vectors: its core plays the conversations that have calls.

After a ``drop`` the program starts again with the state that it kept, or its core comes back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from vector_format import Conversation, Words, kind_of, load, patterns_of

from inorder import codec, errors
from inorder.core import Core
from inorder.credentials import Credentials
from inorder.events import Outcome
from inorder.messages import ServerMessage
from inorder.window import Call, Place

CONVERSATIONS = load()
SAMPLES = {
    "$string": "words",
    "$int": 1,
    "$number": 1.0,
    "$bool": True,
    "$object": {},
    "$array": [],
}


def fill(pattern: Any, words: Words) -> Any:
    """A value that the pattern matches."""
    if isinstance(pattern, dict):
        if len(pattern) == 1 and (special := next(iter(pattern))).startswith("$"):
            inner = pattern[special]
            if special == "$lacks":
                return []
            return fill(inner[0] if special == "$one_of" else inner, words)
        return {k: fill(v, words) for k, v in pattern.items() if v not in ("$absent",)}
    if isinstance(pattern, list):
        return [fill(item, words) for item in pattern]
    if isinstance(pattern, str) and pattern.startswith("$"):
        kind, _, rest = pattern.partition(":")
        if kind == "$capture":
            return words.kept.setdefault(rest, f"{rest}'s value")
        if kind == "$has":
            return rest
        if kind == "$lacks" or kind == "$any":
            return ""
        return SAMPLES[pattern] if pattern in SAMPLES else words.fill(pattern)
    return words.fill(pattern)


class Program:
    """A program with its core, led through a conversation.

    ``lasting``: it outlives a ``drop``, and its core comes back by itself.
    """

    def __init__(
        self, bench: Callable[[Core], Any], welcome: Callable[..., Any], *, lasting: bool
    ) -> None:
        self.lasting = lasting
        self.make_bench = bench
        self.welcome = welcome
        self.words = Words()
        self.words.kept |= {"session.a": "s1"}
        self.bench = bench(Core(give_up_after=60.0 if lasting else 0.0))
        self.calls: dict[str, Call] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.out: list[dict[str, Any]] = []

    def play(self, step: dict[str, Any]) -> None:
        getattr(self, f"_{kind_of(step)}")(step)
        while outcome := self.bench.core.next_outcome():
            self.outcomes[outcome.id] = outcome

    def _connect(self, step: dict[str, Any]) -> None:
        self.bench.core.hello(Credentials(None, "ann", self.words.password("ann")))

    def _login(self, step: dict[str, Any]) -> None:
        self._connect(step)
        assert [m["type"] for m in self.bench.sent()] == ["hello"]
        self.bench.say(self.welcome())

    def _drop(self, step: dict[str, Any]) -> None:
        state = self.bench.core.state
        self.bench.lose()
        if self.lasting:
            self.bench.now = self.bench.core.next_deadline()
            assert self.bench.core.due(self.bench.now)
            return
        self.bench = self.make_bench(Core(resume=state))

    def _send(self, step: dict[str, Any]) -> None:
        self.out += self.bench.sent()
        wanted = self.words.fill(step["send"])
        for message in wanted if isinstance(wanted, list) else [wanted]:
            # An ack is never answered: one may come where the conversation has none.
            while self.out and self.out[0]["type"] == "ack" != message["type"]:
                self.out.pop(0)
            assert self.out, f"nothing is sent, {message} was to be"
            sent = self.out.pop(0)
            assert sent == {**sent, **message}

    def _expect(self, step: dict[str, Any]) -> None:
        message = fill(step["expect"], self.words)
        if message["type"] == "welcome":
            message = self.welcome(**{k: v for k, v in message.items() if k != "limits" or v})
        self.bench.say(message)

    def _pause(self, step: dict[str, Any]) -> None:
        pass

    def _closed(self, step: dict[str, Any]) -> None:
        self.bench.lose(step["closed"], step.get("reason", ""))

    def _call(self, step: dict[str, Any]) -> None:
        getattr(self, f"_call_{step['call']}")(step)

    def _call_submit(self, step: dict[str, Any]) -> None:
        params, timeout = step.get("params"), step.get("timeout")
        call = self.bench.core.submit(step["method"], params, step["id"], timeout)
        self.calls[step["id"]] = call

    def _call_cancel(self, step: dict[str, Any]) -> None:
        self.bench.core.cancel(self.calls[step["id"]])

    def _call_close(self, step: dict[str, Any]) -> None:
        self.bench.core.close(step.get("mode", "finish"))

    def _call_wait(self, step: dict[str, Any]) -> None:
        self.bench.now += step["seconds"]

    def _call_accepted(self, step: dict[str, Any]) -> None:
        assert self.calls[step["id"]].place >= Place.ACCEPTED

    def _call_result(self, step: dict[str, Any]) -> None:
        ended = self.outcomes.get(step["id"], self.calls[step["id"]])
        assert (ended.error, ended.result) == (None, self.words.fill(step["result"]))

    def _call_error(self, step: dict[str, Any]) -> None:
        error = self.calls[step["id"]].error
        assert isinstance(error, errors.InorderError)
        assert error.code == step["code"]
        assert error.accepted == step.get("accepted", error.accepted)

    def _call_receipt(self, step: dict[str, Any]) -> None:
        for field in set(step) - {"call"}:
            assert getattr(self.bench.core.receipt, field) == step[field]

    def _call_state(self, step: dict[str, Any]) -> None:
        state = self.bench.core.state
        assert (state.held, state.accepted) == (step["held"], step["accepted"])


def with_calls(conversation: Conversation) -> bool:
    return any("call" in step for step in conversation["steps"])


@pytest.mark.parametrize("lasting", [False, True], ids=["starts again", "comes back"])
@pytest.mark.parametrize("name", [n for n, c in CONVERSATIONS.items() if with_calls(c)])
def test_the_core_plays_its_part(name, bench, greeting, lasting):
    program = Program(type(bench), greeting, lasting=lasting)
    for number, step in enumerate(CONVERSATIONS[name]["steps"], 1):
        try:
            program.play(step)
        except AssertionError as exc:
            raise AssertionError(f"step {number} {step}: {exc}") from exc
    assert program.out == []


def server_messages() -> Iterator[dict[str, Any]]:
    for conversation in CONVERSATIONS.values():
        words = Words()
        words.kept |= {"session.a": "s1", "session.b": "s2", "token.a": "t1"}
        for step in conversation["steps"]:
            for pattern in patterns_of(step):
                if isinstance(pattern.get("type"), str):
                    yield fill(pattern, words)


def test_every_message_of_a_server_is_understood():
    understood = set()
    for message in server_messages():
        try:
            (decoded,) = codec.decode_server(json.dumps(message))
        except codec.Malformed as exc:
            if "missing required field" in str(exc):
                continue  # patterns list only the fields that matter
            raise
        understood.add(type(decoded))
    assert understood == set(ServerMessage.__args__)
