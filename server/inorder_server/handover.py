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
    Ending,
    Insert,
    MarkCancel,
    MarkStart,
    Outcome,
    RequestRow,
    Settle,
    Write,
)

Settles = list[tuple[Entry, Outcome]]


class Answers(Protocol):
    """Who is told what became durable: the queue."""

    fenced: bool

    def inserted(self, entries: list[Entry]) -> None:
        """The rows of these requests are durable, in order."""

    def settled(self, settles: Settles) -> None:
        """These outcomes are durable, in order."""

    def fence(self) -> None:
        """Another owner has the session."""


class Handover:
    """Everything of one session that goes to the journal, its release apart. On the loop only."""

    def __init__(self, node: Node, session: Session, answers: Answers) -> None:
        self._node = node
        self._session = session
        self._answers = answers
        # What was handed over in the journal's present turn, and is answered together.
        self._inserts: list[Entry] = []
        self._inserts_turn = -1
        self._inserts_at = 0
        self._settles: Settles = []
        self._settles_turn = -1
        self._settles_at = 0
        self._outstanding = 0
        self._quiet: asyncio.Future[None] | None = None

    async def quiet(self) -> None:
        """Returns when the journal has answered everything that was handed over."""
        if self._outstanding:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet

    # ---- what is handed over

    def insert(self, entry: Entry) -> None:
        """A request's row, and before the first one the session's."""
        session, journal = self._session, self._node.journal
        if self._inserts_turn != journal.turn:
            self._inserts_at = self._node.wall_ms()
        wall = self._inserts_at
        if not session.has_row:
            session.has_row = True
            node = self._node.name
            self._append(
                Create(session.id, session.user, session.epoch, session.attach, node, wall)
            )
        row = RequestRow(
            entry.seq,
            entry.id,
            entry.digest,
            entry.method,
            entry.params,
            wall,
            entry.timeout,
            entry.traceparent,
        )
        write = Insert(session.id, session.epoch, row)
        size = len(entry.params) if entry.params else 0
        if self._inserts_turn == journal.turn:
            self._inserts.append(entry)
            journal.join(write, size)
        else:
            self._inserts_turn = journal.turn
            self._inserts = [entry]
            self._append(write, partial(self._inserted, self._inserts), size)

    def settle(self, entry: Entry, ending: Ending, body: bytes) -> None:
        """The outcome of the next request."""
        session, journal = self._session, self._node.journal
        session.hand_over(entry)
        if self._settles_turn != journal.turn:
            self._settles_at = self._node.wall_ms()
        write = Settle(session.id, session.epoch, entry.seq, ending, body, self._settles_at)
        settle = entry, Outcome(entry.seq, entry.id, ending, body)
        if self._settles_turn == journal.turn:
            self._settles.append(settle)
            journal.join(write, len(body))
        else:
            self._settles_turn = journal.turn
            self._settles = [settle]
            self._append(write, partial(self._settled, self._settles), len(body))

    def cancel(self, entry: Entry, marked: Callable[[], None]) -> None:
        """The mark that a request is to be cancelled; ``marked`` is called once it is durable.

        In append order it comes after the row and before the outcome, whatever state the
        request is in: no outcome of later on joins those that went before it.
        """
        self._settles_turn = -1
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

    def _append(self, write: Write, answered: Committed | None = None, size: int = 0) -> None:
        self._outstanding += 1
        self._node.journal.append(write, answered or self._answered, size)

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
        if self._answered(ok):
            self._answers.inserted(entries)

    def _settled(self, settles: Settles, ok: bool) -> None:
        if self._answered(ok):
            self._answers.settled(settles)

    def _marked(self, marked: Callable[[], None], ok: bool) -> None:
        if self._answered(ok):
            marked()

    def _started(self, done: asyncio.Future[None], ok: bool) -> None:
        self._answered(ok)
        if not done.done():
            done.set_result(None)
