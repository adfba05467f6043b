"""Whether a request is accepted: the order of the checks, each refusal, and repeats."""

from __future__ import annotations

import asyncio
import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_store import MemoryStore
from msgspec import UNSET, Raw, structs
from node_bench import ask, echo, method

from inorder.messages import Request
from inorder_server import admission
from inorder_server.admission import Repeat, admit, admit_plain, digest_of
from inorder_server.auth import Identity
from inorder_server.config import Config, Limits
from inorder_server.config import Session as SessionConfig
from inorder_server.handlers import handler
from inorder_server.handlers.methods import Methods
from inorder_server.handlers.runner import Runner
from inorder_server.journal import Journal
from inorder_server.metrics import Metrics
from inorder_server.node import Node
from inorder_server.session import SILENT, Entry, Refused, Session, Stage
from inorder_server.stores.port import Outcome

ADA = Identity("ada", False, 1)
ROOT = Identity("root", True, 1)


@handler
async def add(request: Any, a: int, b: int = 0) -> int:
    return a + b


@handler(admin=True)
async def stop_everything(request: Any) -> None:
    return None


class Desk:
    """A node that admits for one session, without a loop."""

    def __init__(self, queue: int = 10, unacked: int = 100, rate: float = 0) -> None:
        methods = Methods([method(f) for f in (echo, add, stop_everything)], [])
        metrics = Metrics()
        journal = Journal(MemoryStore(), metrics)
        self.now = 50.0
        self.node = Node(
            "n1",
            Config(
                session=SessionConfig(queue=queue, unacked=unacked),
                limits=Limits(rate=rate),
                folder=Path(),
            ),
            MemoryStore(),
            journal,
            methods,
            Runner(methods, threads=1, outcome_bytes=1000),
            metrics,
            now=lambda: self.now,
        )
        self.session = Session("s", "ada", queue_limit=queue, unacked_limit=unacked, rate=rate)
        self.closing = False
        self.user = ADA

    def admit(self, request: Request) -> Any:
        return admit(self.node, self.session, self.user, request, closing=self.closing)

    def accept(self, request: Request) -> Entry:
        entry = self.admit(request)
        assert isinstance(entry, Entry)
        self.session.confirm([entry])
        return entry

    def settle(self, entry: Entry) -> None:
        entry.move(Stage.SETTLING)
        self.session.settle([Outcome(entry.seq, entry.id, "done", b"1")])

    def code(self, request: Request) -> str:
        refused = self.admit(request)
        assert isinstance(refused, Refused), refused
        return refused.code


@pytest.fixture
def desk() -> Desk:
    return Desk()


# ---- acceptance


def test_a_request_gets_the_next_number(desk: Desk) -> None:
    request = ask("add", {"a": 1}, id="mine", timeout=3)
    request.traceparent = "00-trace"
    entry = desk.admit(request)
    assert isinstance(entry, Entry)
    assert (entry.seq, entry.id, entry.method, entry.params) == (1, "mine", "add", b'{"a": 1}')
    assert (entry.timeout, entry.traceparent, entry.since) == (3, "00-trace", 50.0)
    assert entry.digest == digest_of("add", b'{"a":1}')
    assert not entry.numbered
    numbered = desk.admit(ask("echo", seq=2))
    assert (numbered.id, numbered.numbered) == ("#2", True)


@pytest.mark.parametrize("params", [UNSET, Raw(b"null")])
def test_absent_and_null_params_are_none(desk: Desk, params: Any) -> None:
    entry = desk.admit(Request(method="echo", params=params))
    assert entry.params is None
    assert entry.digest == digest_of("echo", None) == digest_of("echo", b"null")


# ---- the digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1,"b":2}', b'{ "b": 2.0, "a": 1 }'),
        (b"[1,2]", b"[1.0, 2e0]"),
        (b'"\\u00e9"', b'"\xc3\xa9"'),
    ],
)
def test_equal_json_values_have_equal_digests(one: bytes, other: bytes) -> None:
    assert digest_of("echo", one) == digest_of("echo", other)


def test_what_differs_has_other_digests() -> None:
    digests = {
        digest_of("echo", None),
        digest_of("echo", b"1"),
        digest_of("echo", b'"1"'),
        digest_of("echo", b"[1]"),
        digest_of("echo2", b"1"),
    }
    assert len(digests) == 5
    assert {len(digest) for digest in digests} == {8}


# ---- repeats


@pytest.mark.parametrize("stage", list(Stage))
def test_a_repeat_is_known_in_each_stage(desk: Desk, stage: Stage) -> None:
    entry = desk.admit(ask("echo", 1, id="a"))
    desk.session.accepted = 1
    entry.stage = stage
    again = desk.admit(ask("echo", 1, id="a"))
    assert isinstance(again, Repeat)
    assert again.entry is entry
    assert desk.session.last == 1


def test_a_repeat_with_its_old_seq_is_one_by_its_id(desk: Desk) -> None:
    first = desk.accept(ask("echo", 1, id="a", seq=1))
    desk.accept(ask("echo", 1, id="b", seq=2))
    again = desk.admit(ask("echo", 1, id="a", seq=1))
    assert again.entry is first
    # No gap was opened by it.
    assert isinstance(desk.admit(ask("echo", 1, id="c", seq=3)), Entry)


def test_a_repeat_is_answered_whatever_state_the_node_is_in() -> None:
    desk = Desk(queue=1)
    desk.accept(ask("echo", 1, id="a"))
    desk.closing = desk.node.draining = True
    desk.node.journal.available = False
    assert isinstance(desk.admit(ask("echo", 1, id="a")), Repeat)


@pytest.mark.parametrize("again", [ask("echo", 2, id="a"), ask("add", 1, id="a")])
def test_another_request_with_a_known_id_is_a_conflict(desk: Desk, again: Request) -> None:
    desk.accept(ask("echo", 1, id="a"))
    refused = desk.admit(again)
    assert (refused.code, refused.details) == ("id_conflict", {"seq": 1})


def test_a_conflict_is_told_before_an_acknowledgement(desk: Desk) -> None:
    desk.settle(desk.accept(ask("echo", 1, id="a")))
    desk.session.acknowledge(1)
    assert desk.code(ask("echo", 2, id="a")) == "id_conflict"
    refused = desk.admit(ask("echo", 1, id="a"))
    assert (refused.code, refused.details) == ("already_acknowledged", {"seq": 1})


def test_a_repeat_whose_params_can_t_be_read(desk: Desk) -> None:
    desk.accept(ask("echo", 1, id="a"))
    deep = Raw(b"[" * 100_000 + b"]" * 100_000)
    assert desk.code(Request(method="echo", params=deep, id="a")) == "invalid_params"


# ---- refusals, in their order


def test_an_id_with_the_server_s_sign(desk: Desk) -> None:
    desk.accept(ask("echo", 1))
    assert desk.code(ask("echo", 1, id="#1")) == "bad_message"
    assert desk.code(ask("echo", 1, id="#99")) == "bad_message"


def test_the_order_of_refusals() -> None:
    desk = Desk(queue=1, rate=1)
    desk.user = ADA
    desk.closing = desk.node.draining = True
    desk.node.journal.available = False
    desk.node.journal._bytes = 1 << 40
    desk.session.room(desk.now)  # the burst is used up
    desk.session.take("first", b"", "echo", None, None, None, 0.0)
    request = ask("nothing", {"a": "x"}, seq=9)
    seen = [desk.code(request)]
    request.seq = 2
    for better in (
        lambda: setattr(desk, "closing", False),
        lambda: setattr(desk.node, "draining", False),
        lambda: setattr(request, "method", "stop_everything"),
        lambda: setattr(request, "method", "add"),
        lambda: setattr(request, "params", Raw(b'{"a":1}')),
        lambda: setattr(desk.node.journal, "available", True),
        lambda: setattr(desk.node.journal, "_bytes", 0),
        lambda: setattr(desk.session, "queue_limit", 10),
    ):
        seen.append(desk.code(request))
        better()
    seen.append(desk.code(request))
    assert seen == [
        "out_of_order",
        "closing",
        "draining",
        "unknown_method",
        "forbidden",
        "invalid_params",
        "store_unavailable",
        "overloaded",
        "queue_full",
        "rate_limited",
    ]
    desk.now += 1
    assert isinstance(desk.admit(request), Entry)


def test_what_helps_with_waiting_says_how_long() -> None:
    desk = Desk(queue=1, rate=1)
    desk.node.draining = True
    assert desk.admit(ask()).after == 1
    desk.node.draining = False
    desk.node.journal.available = False
    assert desk.admit(ask()).after == 1
    desk.node.journal.available = True
    desk.node.journal._bytes = 1 << 40
    assert desk.admit(ask()).after == 1
    desk.node.journal._bytes = 0
    desk.accept(ask())
    assert desk.admit(ask()).after == 1


def test_methods_for_admins(desk: Desk) -> None:
    assert desk.code(ask("stop_everything")) == "forbidden"
    desk.user = ROOT
    assert isinstance(desk.admit(ask("stop_everything")), Entry)


def test_params_that_do_not_fit(desk: Desk) -> None:
    assert desk.code(ask("add", {"a": "one"})) == "invalid_params"
    assert desk.code(ask("add")) == "invalid_params"
    assert desk.code(ask("add", {"a": 1, "c": 2})) == "invalid_params"
    refused = desk.admit(ask("add", {"a": "one"}))
    assert "a" in refused.message
    assert desk.session.last == 0


def test_params_whose_value_has_no_digest(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(method: str, params: bytes | None) -> bytes:
        raise admission.codec.Malformed("bad_json", "not JSON: nested too deeply")

    monkeypatch.setattr(admission, "digest_of", fails)
    assert desk.code(ask("echo", 1)) == "invalid_params"


# ---- gaps


def test_what_follows_a_refused_number_is_silent_until_it_comes(desk: Desk) -> None:
    refused = desk.admit(ask("nothing", id="a", seq=1))
    assert (refused.code, refused.details) == ("unknown_method", {"seq": 1})
    assert desk.admit(ask("echo", 1, id="b", seq=2)) is SILENT
    assert desk.admit(ask("echo", 1, id="c", seq=3)) is SILENT
    assert desk.session.last == 0
    assert desk.accept(ask("echo", 1, id="b", seq=1)).seq == 1
    assert desk.accept(ask("echo", 1, id="c", seq=2)).seq == 2


def test_a_refusal_without_a_number_opens_no_gap(desk: Desk) -> None:
    refused = desk.admit(ask("nothing", id="a"))
    assert refused.details is None
    assert isinstance(desk.admit(ask("echo", 1, seq=1)), Entry)


def test_a_refused_repeat_opens_no_gap(desk: Desk) -> None:
    desk.accept(ask("echo", 1, id="a", seq=1))
    assert desk.code(ask("echo", 2, id="a", seq=1)) == "id_conflict"
    refused = desk.admit(ask("echo", 1, id="b", seq=5))
    assert (refused.code, refused.details) == ("out_of_order", {"expected": 2})


def test_details_that_say_more_are_kept(desk: Desk) -> None:
    desk.accept(ask("echo", 1, id="a", seq=1))
    refused = desk.admit(ask("echo", 2, id="a", seq=2))
    assert refused.details == {"seq": 1}


def test_a_pipeline_with_refusals_is_renumbered() -> None:
    """What the libraries do: drop what was refused for good, renumber the rest, go on."""
    desk = Desk(queue=1000)
    wanted = [("nothing" if n % 7 == 0 else "echo", f"id{n}") for n in range(1, 101)]
    left, first, rounds = list(wanted), 1, 0
    while left:
        rounds += 1
        stopped = None
        for offset, (name, id) in enumerate(left):
            answer = desk.admit(ask(name, 1, id=id, seq=first + offset))
            if isinstance(answer, Entry):
                assert stopped is None
            elif stopped is None:
                assert answer.code == "unknown_method"
                stopped = offset
            else:
                assert answer is SILENT
        if stopped is None:
            break
        first, left = desk.session.last + 1, left[stopped + 1 :]
    assert rounds == 15
    accepted = [e.id for e in desk.session.unsettled]
    assert accepted == [id for name, id in wanted if name == "echo"]


def test_nothing_here_needs_a_loop(desk: Desk) -> None:
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert isinstance(desk.admit(ask()), Entry)


def test_a_digest_of_an_earlier_server_is_known(desk: Desk) -> None:
    entry = desk.accept(ask("add", {"a": 1}, id="a"))
    entry.digest = blake2b(b'add\0{"a":1}', digest_size=16).digest()
    assert isinstance(desk.admit(ask("add", {"a": 1.0}, id="a")), Repeat)
    assert desk.code(ask("add", {"a": 2}, id="a")) == "id_conflict"


# ---- the requests of a frame in one piece

_MANY = st.lists(
    st.tuples(
        st.sampled_from(["echo", "add", "echo", "stop_everything", "nothing"]),
        st.sampled_from([1, {"a": 1}, {"a": "no"}, None, UNSET]),
        st.sampled_from(["a", "b", "c", "#4", "é", None, "new"]),
        st.sampled_from([0, 0, 0, 0, 1, -1, None]),
    ),
    max_size=12,
)


@given(many=_MANY, closing=st.booleans(), draining=st.booleans(), queue=st.integers(1, 12))
def test_a_frame_is_judged_like_its_requests(
    many: list[tuple[Any, ...]], closing: bool, draining: bool, queue: int
) -> None:
    one, other = Desk(queue=queue), Desk(queue=queue)
    requests: list[Request] = []
    for n, (name, params, id, off) in enumerate(many, 1):
        request = ask(name, id=f"id-{n}" if id == "new" else id)
        request.params = params if params is UNSET else Raw(json.dumps(params).encode())
        request.seq = None if off is None else max(n + off, 1)
        requests.append(request)
    for desk in (one, other):
        desk.closing, desk.node.draining = closing and len(many) > 6, draining and len(many) > 9
    singly = [one.admit(request) for request in requests]
    together: list[Any] = []
    left = requests
    while left:
        together += admit_plain(other.node, other.session, other.user, left, closing=other.closing)
        left = requests[len(together) :]
        if left:
            together.append(other.admit(left[0]))
            left = left[1:]
    assert [_plain(decided) for decided in together] == [_plain(decided) for decided in singly]
    assert one.session.last == other.session.last
    assert [e.id for e in one.session.unsettled] == [e.id for e in other.session.unsettled]


def _plain(decided: Any) -> Any:
    if isinstance(decided, Entry):
        return structs.asdict(decided)
    return _plain(decided.entry) if isinstance(decided, Repeat) else decided
