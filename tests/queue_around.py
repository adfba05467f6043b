"""What stands around the real parts in a walk of ``queue_walk``, and tells the model of it.

Handlers wait until a step says how they end; the store says what became durable and what was
answered; connections compare what they are told with what is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from memory_store import Database, MemoryStore
from node_bench import method
from queue_books import KINDS, Kind, Ledger, Run

from inorder.codes import CloseCode
from inorder.messages import Receipt
from inorder_server.handlers import Request, RequestError, Retry, handler
from inorder_server.handlers.methods import Methods
from inorder_server.journal import Journal
from inorder_server.metrics import Metrics
from inorder_server.queue import Queue
from inorder_server.session import Entry, Refused
from inorder_server.stores.port import Claimed, End, Outcome, StoreUnavailable, Write, singly

# ---- handlers

# The walk that is under way: handlers are made once, and find it here.
current: Any = None


class Gated:
    """A handler's run, which waits until a step says how it ends."""

    def __init__(self, walk: Any, kind: Kind, run: Run) -> None:
        self.walk = walk
        self.kind = kind
        self.run = run
        self.dead = False
        self.how: tuple[str, float] = ("ret", 0)
        self._stopped: str | None = None
        self.gate: asyncio.Future[None] = walk.loop.create_future()

    async def through(self) -> int:
        walk, model, run = self.walk, self.walk.model, self.run
        while not self.kind.quick:
            try:
                await self.gate
                break
            except asyncio.CancelledError:
                if self.dead:
                    raise
                self._stopped = self._stopped or self._why()
                if self.kind.stubborn and self.gate.cancelled():
                    self.gate = walk.loop.create_future()
                    self.kind = self.kind._replace(stubborn=False)
                    continue
                model.end(run, self._stopped, walk.loop.time())
                raise
        how, after = self.how
        now = walk.loop.time()
        if self._stopped:
            model.end(run, self._stopped, now)
        else:
            walk.results += 1
            model.end(run, how, now, str(walk.results).encode(), after)
        if how == "error":
            raise RequestError("no_luck", "none")
        if how == "raise":
            raise LookupError
        if how == "retry":
            raise Retry(after=after)
        return walk.results

    def _why(self) -> str:
        walk, one = self.walk, self.run.asked
        if one.cancel:
            return "cancelled"
        if walk.loop.time() - self.run.began >= self.kind.timeout - 1e-6:
            return "timeout"
        walk.model.expect(walk.node.draining, f"run of {one.seq} was stopped")
        return "stopped"


def _handler(name: str, kind: Kind) -> Any:
    async def body(request: Any, value: int) -> int:
        walk = current
        run = walk.model.begin(
            request.session, request.seq, request.attempt, name, value, walk.loop.time()
        )
        gated = Gated(walk, kind, run)
        walk.runs[request.session] = gated
        try:
            return await gated.through()
        finally:
            if walk.runs.get(request.session) is gated:
                del walk.runs[request.session]

    return method(
        handler(
            name=name,
            timeout=kind.timeout,
            attempts=kind.attempts,
            on_interrupt="fail" if kind.fails else "retry",
            on_exhausted="block" if kind.blocks else "fail",
            idempotent=kind.free,
        )(body)
    )


METHODS = [_handler(name, kind) for name, kind in KINDS.items()]
ALL = Methods(METHODS, [])
FEWER = Methods([m for m in METHODS if m.name != "plain"], [])


# ---- what stands around the real parts


class WatchedStore(MemoryStore):
    """Tells the model what became durable, what was answered, what was claimed."""

    def __init__(self, walk: Any, database: Database) -> None:
        super().__init__(database)
        self._walk = walk
        self.answers: asyncio.Event | None = None
        self.lose = False

    async def commit(self, writes: Any) -> set[str]:
        walk, writes = self._walk, list(singly(writes))
        try:
            fenced = await super().commit(writes)
        except StoreUnavailable:
            walk.model.available = False
            raise
        walk.model.durable(writes, fenced)
        if self.answers is not None:
            await self.answers.wait()
        if self.lose:
            self.lose = walk.model.available = False
            raise StoreUnavailable("the answer was lost")
        walk.model.available = True
        walk.answered(writes, fenced)
        return fenced

    async def claim(self, session: str) -> Claimed | None:
        claimed = await super().claim(session)
        if claimed is not None:
            self._walk.model.claimed(self._walk.model.ledgers[session])
        return claimed


class WatchedJournal(Journal):
    def __init__(self, walk: Any, store: WatchedStore, metrics: Metrics) -> None:
        super().__init__(store, metrics)
        self._walk = walk
        # What was handed over of each write that waits.
        self._seen: dict[int, int] = {}
        self._seen_turn = 0

    def more(self, size: int, count: int) -> None:
        super().more(size, count)
        if self._seen_turn != self.turn:
            self._seen, self._seen_turn = {}, self.turn
        for write in self._waiting:
            each = list(singly([write]))
            for one in each[self._seen.get(id(write), 0) :]:
                self._handed(one)
            self._seen[id(write)] = len(each)

    def _handed(self, write: Write) -> None:
        if self._walk.journal is self:
            self._walk.model.handed(write)
            if isinstance(write, End):
                self._walk.ends(write.session)


class Wire:
    """A connection: a :class:`inorder_server.queue.Link` that compares what it is told."""

    def __init__(self, walk: Any, client: Client) -> None:
        self.walk = walk
        self.client = client
        self.book: Ledger | None = None
        self.counted: Ledger | None = None
        self.queue: Queue | None = None
        self.task: asyncio.Task[None] | None = None
        self.state = "opening"
        self.gone = False
        self.sent = 0
        self.caught = False
        self.behind = asyncio.Event()
        self.behind.set()

    def close(self) -> None:
        self.state = "closed"
        self.behind.set()

    def _hear(self, *words: Any) -> None:
        if self.state != "open":
            return
        walk = self.walk
        due = walk.due.pop(0) if walk.due else None
        walk.model.expect(due == (self, words), f"told {words}, not {due and due[1]}")

    def accepted(self, entries: Sequence[Entry], ahead: int, expected: bool) -> None:
        for n, entry in enumerate(entries):
            self._hear("accepted", entry.id, entry.seq, ahead + n)
            self._known(entry.seq)

    def unexpected(self) -> None:
        """Its ``accepted`` is to be told now; here it was."""

    def _known(self, seq: int) -> None:
        if self.state == "open" and self.book is not None:
            row = self.walk.database.sessions.get(self.book.id)
            durable = row is not None and row.accepted >= seq
            self.walk.model.expect(durable, f"{seq} accepted before it was durable")
            self.client.told = max(self.client.told, seq)

    def progress(self, request: Request, n: int, body: bytes) -> None:
        self.walk.model.faults.append("progress of nobody")

    def settled(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._hear("outcome", outcome.seq, outcome.ending, outcome.body)
            if self.state == "open":
                self.take(outcome.seq, (outcome.ending, outcome.body))

    def take(self, seq: int, outcome: tuple[str, bytes]) -> None:
        """Outcomes come in order, none is left out, and what the store has is what is told."""
        book, expect = self.book, self.walk.model.expect
        assert book is not None
        expect(seq == self.sent + 1, f"outcome {seq} after {self.sent}")
        expect(book.asked[seq - 1].outcome == outcome, f"outcome {seq} isn't durable: {outcome}")
        rows = self.walk.database.rows.get(book.id, {})
        if seq > book.kept_acked and book.state == "live":
            expect(
                seq in rows and (rows[seq].ending, rows[seq].outcome) == outcome,
                f"outcome {seq} isn't in the store",
            )
        before = self.client.outcomes.setdefault(seq, outcome)
        expect(before == outcome, f"outcome {seq} changed from {before} to {outcome}")
        self.sent = seq
        self.client.held = max(self.client.held, seq)
        self._known(seq)

    def repeat(self, seq: int) -> None:
        self._hear("repeat", seq)

    def cancelling(self, entry: Entry) -> None:
        self._hear("cancelling", entry.id)

    def refused(self, of: str, refused: Refused, id: str | None) -> None:
        self._hear("refused", of, refused.code, id, refused.details)

    def shut(self, code: CloseCode, reason: str) -> None:
        walk = self.walk
        if self.state != "closed":
            others = any(w is not self and w.state == "opening" for w in self.client.wires)
            fair = {
                CloseCode.REPLACED: others or self.state == "opening",
                CloseCode.RESTART: walk.node.draining,
            }
            walk.model.expect(fair.get(code), f"shut: {code} {reason}")
        self.close()

    def finish(self, code: CloseCode, reason: str) -> None:
        if self.state == "open":
            assert self.book is not None
            late = self.book.closing
            self.walk.model.expect(self.walk.node.draining or late, f"finish: {reason}")
        self.close()

    def draining(self, deadline: float) -> None:
        self.walk.model.expect(self.walk.node.draining, "draining?")

    async def caught_up(self) -> bool:
        await self.behind.wait()
        self.caught = self.state == "open"
        return self.caught

    def farewell(self, receipt: Receipt) -> None:
        if self.state == "open":
            book, expect = self.book, self.walk.model.expect
            assert book is not None
            expect(book.closing, "farewell without bye")
            expect(receipt.verified, f"{receipt}")
            expect(self.sent == book.settled, f"farewell at {self.sent} of {book.settled}")
            if book.exists:
                expect(receipt == book.receipt, f"{receipt}, the store has {book.receipt}")
            else:
                expect(receipt == Receipt(book.id, 0, 0, 0, 0, 0, True), f"{receipt}")
        self.close()


class Client:
    """Somebody with one session at a time, and what they know of it."""

    def __init__(self) -> None:
        self.wires: list[Wire] = []
        self.forget()

    def forget(self) -> None:
        self.book: Ledger | None = None
        self.held = self.told = 0
        self.outcomes: dict[int, tuple[str, bytes]] = {}

    @property
    def coming(self) -> bool:
        """Whether a hello is under way."""
        return any(wire.state == "opening" for wire in self.wires)

    @property
    def wire(self) -> Wire | None:
        """The open connection."""
        return next((wire for wire in self.wires if wire.state == "open"), None)
