"""Sessions and admission against a model: a list of requests, and arithmetic on it.

Hypothesis looks for a sequence of messages, commits, outcomes, acknowledgements and crashes
after which the two disagree. No loop, no clock, no store.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from memory_store import MemoryStore
from node_bench import ask, echo, method

from inorder_server.admission import Repeat, admit, digest_of
from inorder_server.auth import Identity
from inorder_server.config import Config
from inorder_server.handlers.methods import Methods
from inorder_server.handlers.runner import Runner
from inorder_server.journal import Journal
from inorder_server.metrics import Metrics
from inorder_server.node import Node
from inorder_server.session import SILENT, Counts, Entry, Refused, Session, Stage
from inorder_server.stores.port import Claimed, Ending, Outcome, RequestRow, SessionRow

QUEUE, UNACKED = 4, 7
ADA = Identity("ada", False, 1)
METHODS = Methods([method(echo)], [])
ENDINGS: list[Ending] = ["done", "failed", "cancelled"]


def a_node() -> Node:
    metrics = Metrics()
    store = MemoryStore()
    return Node(
        "n1",
        Config(folder=Path()),
        store,
        Journal(store, metrics),
        METHODS,
        Runner(METHODS, threads=1, outcome_bytes=100),
        metrics,
        now=lambda: 0.0,
    )


@dataclass
class Asked:
    """The model of a request; its number is its place in the list, from 1."""

    id: str
    value: int
    ending: Ending | None = None
    cancel: bool = False


class SessionMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.node = a_node()
        self.epoch = 1
        self.session = self.new()
        # The model.
        self.asked: list[Asked] = []
        self.accepted = self.settled = self.acked = 0
        self.gap = False

    def new(self) -> Session:
        return Session("s", "ada", queue_limit=QUEUE, unacked_limit=UNACKED)

    @property
    def next(self) -> int:
        return len(self.asked) + 1

    def remembered(self, id: str) -> int | None:
        """The number of the request that bears the id."""
        for seq in range(len(self.asked), max(self.acked - QUEUE, 0), -1):
            if self.asked[seq - 1].id == id:
                return seq
        return None

    # ---- what clients send

    @rule(
        id=st.sampled_from([None, "a", "b", "c", "d", "e", "#1"]),
        value=st.integers(0, 1),
        offset=st.sampled_from([None, 0, 0, 0, -6, -2, -1, 1, 3]),
        known=st.sampled_from(["echo"] * 5 + ["gone"]),
        trouble=st.sampled_from([None] * 7 + ["closing", "draining"]),
    )
    def send(
        self, id: str | None, value: int, offset: int | None, known: str, trouble: str | None
    ) -> None:
        seq = None if offset is None else max(self.next + offset, 1)
        expected = self.expected(id, value, seq, known, trouble)
        self.node.draining = trouble == "draining"
        answer = admit(
            self.node,
            self.session,
            ADA,
            ask(known, value, id=id, seq=seq),
            closing=trouble == "closing",
        )
        assert said(answer) == expected
        if isinstance(answer, Entry):
            assert answer.id == (id or f"#{self.next}")
            assert answer.numbered == (seq is not None)
            self.asked.append(Asked(answer.id, value))
            self.gap = False
        elif isinstance(answer, Refused) and seq == self.next:
            self.gap = True

    def expected(
        self, id: str | None, value: int, seq: int | None, known: str, trouble: str | None
    ) -> Any:
        if id is not None and id.startswith("#"):
            return "bad_message", None
        at = self.remembered(id) if id is not None else None
        if at is not None:
            if known != "echo" or self.asked[at - 1].value != value:
                return "id_conflict", at
            return ("already_acknowledged" if at <= self.acked else "repeat"), at
        if seq is not None and seq != self.next:
            if seq <= self.acked:
                return "already_acknowledged", seq
            silent, self.gap = self.gap, True
            return ("silent", None) if silent else ("out_of_order", None)
        if trouble is not None:
            return trouble, None
        if known != "echo":
            return "unknown_method", None
        if len(self.asked) - self.settled >= QUEUE or len(self.asked) - self.acked >= UNACKED:
            return "queue_full", None
        return "new", self.next

    @rule(seq=st.integers(0, 40))
    def acknowledge(self, seq: int) -> None:
        upto = min(seq, self.settled)
        assert self.session.acknowledge(seq) == (upto > self.acked)
        self.acked = max(self.acked, upto)

    @rule(id=st.sampled_from(["a", "b", "c", "d", "e", "#1", "#3", "zz"]))
    def cancel(self, id: str) -> None:
        entry = self.session.cancellable(id)
        at = self.remembered(id)
        if at is None or at <= self.settled:
            assert entry is None
        else:
            assert entry is not None
            assert entry.seq == at
            entry.cancel_asked = self.asked[at - 1].cancel = True

    # ---- what the journal and the consumer do

    @precondition(lambda self: self.accepted < len(self.asked))
    @rule()
    def confirm(self) -> None:
        entry = self.session.unsettled[self.accepted - self.settled]
        assert entry.seq == self.accepted + 1
        self.session.confirm([entry])
        self.accepted += 1

    @precondition(lambda self: self.settled < self.accepted)
    @rule(ending=st.sampled_from(ENDINGS), ran=st.booleans())
    def settle(self, ending: Ending, ran: bool) -> None:
        head = self.session.head()
        assert head is not None
        assert head.seq == self.settled + 1
        if ran:
            head.move(Stage.RUNNING)
        head.move(Stage.SETTLING)
        assert self.session.cancellable(head.id) is None
        self.session.settle([Outcome(head.seq, head.id, ending, b"{}")])
        self.asked[self.settled].ending = ending
        self.settled += 1

    # ---- what befalls it

    @rule()
    def another_connection(self) -> None:
        self.session.close_gap()
        self.gap = False

    @rule(clean=st.booleans())
    def another_process(self, clean: bool) -> None:
        """What was not durable is gone; the rest is loaded."""
        del self.asked[self.accepted :]
        rows = []
        for seq in range(max(self.acked - QUEUE, 0) + 1, self.accepted + 1):
            one = self.asked[seq - 1]
            stripped = seq <= self.acked
            digest = digest_of("echo", b"%d" % one.value)
            params = None if one.ending else b"1"
            row = RequestRow(seq, one.id, digest, "echo", params, 0, cancel=one.cancel)
            row.ending, row.stripped = (None if stripped else one.ending), stripped
            rows.append(row)
        self.epoch += 1
        held = [one.ending for one in self.asked[: self.acked]]
        row = SessionRow(
            "s",
            "ada",
            self.epoch,
            1,
            "n1",
            self.accepted,
            self.acked,
            held.count("done"),
            held.count("failed"),
            held.count("cancelled"),
            False,
            True,
            "live",
            0,
            0,
        )
        self.session = self.new()
        self.session.load(Claimed(row, clean, rows))
        self.gap = False
        suspects = [entry.seq for entry in self.session.unsettled if entry.suspect]
        waits = not clean and self.settled < self.accepted
        assert suspects == ([self.settled + 1] if waits else [])

    # ---- what always holds

    @invariant()
    def the_numbers_agree(self) -> None:
        s = self.session
        assert (s.last, s.accepted, s.settled, s.acked) == (
            len(self.asked),
            self.accepted,
            self.settled,
            self.acked,
        )
        assert s.in_flight == len(self.asked) - self.accepted
        endings = [one.ending for one in self.asked]
        assert s.counts() == Counts(
            self.accepted,
            endings.count("done"),
            endings.count("failed"),
            endings.count("cancelled"),
            self.accepted - self.settled,
        )

    @invariant()
    def the_head_is_the_lowest_unsettled(self) -> None:
        head = self.session.head()
        if self.settled < self.accepted:
            assert head is not None
            assert head.seq == self.settled + 1
        else:
            assert head is None
        seqs = [entry.seq for entry in self.session.unsettled]
        assert seqs == list(range(self.settled + 1, len(self.asked) + 1))

    @invariant()
    def memory_holds_what_the_limits_allow(self) -> None:
        s = self.session
        assert len(s._retained) <= QUEUE + UNACKED
        assert len(s._by_id) <= len(s._retained)
        assert all(entry.params is None for entry in s._retained if entry.ending)

    @invariant()
    def every_line_is_told(self) -> None:
        lines = [(line.id, line.seq) for line in self.session.lines(0, 1000)]
        assert lines == [
            (self.asked[seq - 1].id, seq) for seq in range(self.acked + 1, self.accepted + 1)
        ]


def said(answer: Entry | Repeat | Refused | Any) -> tuple[str, int | None]:
    """An answer as the model has it: a word, and the number that it is about."""
    if isinstance(answer, Entry):
        return "new", answer.seq
    if isinstance(answer, Repeat):
        return "repeat", answer.entry.seq
    if answer is SILENT:
        return "silent", None
    about = answer.details if answer.code in ("id_conflict", "already_acknowledged") else None
    return answer.code, about["seq"] if about else None


TestSession = SessionMachine.TestCase
TestSession.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
