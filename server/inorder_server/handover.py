"""What a session hands to its node's journal, and how the answers come back.

Source: ownership.md (P1, P5 to P10); design.md section 5, "Commit in groups". What is handed over
in one turn of the journal is committed together, so its rows are answered together, and so are
its outcomes: one call for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from .journal import Committed
from .node import Node
from .session import Entry, Session
from .stores.port import (
    Acknowledge,
    Create,
    Insert,
    MarkCancel,
    MarkStart,
    Outcome,
    RequestRow,
    Settle,
    Write,
)

_NO_INSERT = Insert("", 0, [])
_NO_SETTLE = Settle("", 0, [], 0)


class Answers(Protocol):
    """Who is told what became durable: the queue."""

    fenced: bool

    def inserted(self, entries: list[Entry]) -> None:
        """The rows of these requests are durable, in order."""

    def settled(self, outcomes: list[Outcome]) -> None:
        """These outcomes are durable, in order."""

    def fence(self) -> None:
        """Another owner has the session."""


class Handover:
    """Everything of one session that goes to the journal, its release apart. On the loop only."""

    def __init__(self, node: Node, session: Session, answers: Answers) -> None:
        self._node = node
        self._session = session
        self._answers = answers
        # What was handed over in the journal's present turn is one write, and answered together.
        self._inserted_turn = -1
        self._inserts: list[Entry] = []
        self._insert = _NO_INSERT
        self._settled_turn = -1
        self._settle = _NO_SETTLE
        self._outstanding = 0
        self._quiet: asyncio.Future[None] | None = None

    async def quiet(self) -> None:
        """Returns when the journal has answered everything that was handed over."""
        if self._outstanding:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet

    # ---- what is handed over

    def insert(self, entries: list[Entry]) -> None:
        """The rows of the next requests, and before the first one the session's."""
        session, journal = self._session, self._node.journal
        joins = self._inserted_turn == journal.turn
        wall = self._insert.rows[0].accepted_ms if joins else self._node.wall_ms()
        rows = [
            RequestRow(e.seq, e.id, e.digest, e.method, e.params, wall, e.timeout, e.traceparent)
            for e in entries
        ]
        size = sum([len(e.params) for e in entries if e.params])
        if joins:
            self._inserts += entries
            self._insert.rows += rows
            journal.more(size, len(rows))
            return
        if not session.has_row:
            session.has_row = True
            node = self._node.name
            self._append(
                Create(session.id, session.user, session.epoch, session.attach, node, wall)
            )
        self._inserted_turn = journal.turn
        self._inserts = entries
        self._insert = Insert(session.id, session.epoch, rows)
        self._append(self._insert, partial(self._inserted, entries), size, len(rows))

    def settle(self, outcomes: list[Outcome]) -> None:
        """The outcomes of the next requests."""
        session, journal = self._session, self._node.journal
        session.hand_over(outcomes)
        size = sum([len(o.body) for o in outcomes])
        if self._settled_turn == journal.turn:
            self._settle.outcomes += outcomes
            journal.more(size, len(outcomes))
            return
        self._settled_turn = journal.turn
        self._settle = Settle(session.id, session.epoch, outcomes, self._node.wall_ms())
        self._append(self._settle, partial(self._settled, outcomes), size, len(outcomes))

    def cancel(self, entry: Entry, marked: Callable[[], None]) -> None:
        """The mark that a request is to be cancelled; ``marked`` is called once it is durable.

        In append order it comes after the row and before the outcome, whatever state the
        request is in: no outcome of later on joins those that went before it.
        """
        self._settled_turn = -1
        write = MarkCancel(self._session.id, self._session.epoch, entry.seq)
        self._append(write, partial(self._marked, marked))

    def acknowledge(self) -> None:
        """The client holds the outcomes up to ``acked``."""
        session = self._session
        self._append(Acknowledge(session.id, session.epoch, session.acked, session.queue_limit))

    async def start(self, entry: Entry, attempt: int) -> None:
        """A start mark; returns once it is durable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        write = MarkStart(self._session.id, self._session.epoch, entry.seq, attempt)
        self._append(write, partial(self._started, done))
        await done

    def _append(
        self, write: Write, answered: Committed | None = None, size: int = 0, count: int = 1
    ) -> None:
        self._outstanding += 1
        self._node.journal.append(write, answered or self._answered, size, count)

    # ---- the answers

    def _answered(self, ok: bool) -> bool:
        """Every answer passes here. False where the session is fenced."""
        self._outstanding -= 1
        if not self._outstanding and self._quiet is not None:
            self._quiet.set_result(None)
            self._quiet = None
        if not ok:
            self._answers.fence()
        return ok and not self._answers.fenced

    def _inserted(self, entries: list[Entry], ok: bool) -> None:
        if entries is self._inserts:
            # An idle session keeps nothing of what it was sent.
            self._inserts, self._insert = [], _NO_INSERT
        if self._answered(ok):
            self._answers.inserted(entries)

    def _settled(self, outcomes: list[Outcome], ok: bool) -> None:
        if outcomes is self._settle.outcomes:
            self._settle = _NO_SETTLE
        if self._answered(ok):
            self._answers.settled(outcomes)

    def _marked(self, marked: Callable[[], None], ok: bool) -> None:
        if self._answered(ok):
            marked()

    def _started(self, done: asyncio.Future[None], ok: bool) -> None:
        self._answered(ok)
        if not done.done():
            done.set_result(None)
