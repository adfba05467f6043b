"""A store in memory that does what the port says, and fails as it is told to.

It stands in for a database where a test must decide when a commit ends, whether it fails, and
who owns a session. It passes the same contract suite as the adapters.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from msgspec import structs

from inorder.messages import Receipt
from inorder_server.stores.port import (
    Acknowledge,
    Attach,
    Claimed,
    Command,
    Create,
    End,
    Ending,
    Insert,
    MarkCancel,
    MarkStart,
    Outcome,
    Release,
    RequestRow,
    SessionRow,
    Settle,
    StoreUnavailable,
    Tally,
    User,
    Write,
    singly,
)


@dataclass
class Database:
    """What outlives a node's death."""

    sessions: dict[str, SessionRow] = field(default_factory=dict)
    rows: dict[str, dict[int, RequestRow]] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    posted: list[Command] = field(default_factory=list)
    numbers: int = 0


class MemoryStore:
    """One node's store. Make another one on the same ``database`` for the next process.

    - ``away``: names of methods that raise :class:`StoreUnavailable`, or ``{"*"}``
    - ``broken``: what the next commits raise, one after the other
    - ``lose_answers``: so many commits take effect but seem to fail
    - ``groups``: the commits that were made; ``tried``: those that were asked for; either with
      a write for each request
    """

    name = "memory"

    def __init__(self, database: Database | None = None) -> None:
        self.database = database or Database()
        self.away: set[str] = set()
        self.broken: list[Exception] = []
        self.lose_answers = 0
        self.groups: list[list[Write]] = []
        self.tried: list[list[Write]] = []
        self.under_way = 0
        self.calls: list[str] = []
        self.node = ""
        self._gates: dict[str, asyncio.Event] = {}

    # ---- what a test does to it

    def hold(self, call: str = "commit") -> None:
        """Calls of this method wait from now on."""
        self._gates[call] = asyncio.Event()

    def release(self, call: str = "commit") -> None:
        """Those that wait go on."""
        self._gates.pop(call).set()

    def take_away(self, session: str, node: str = "another") -> None:
        """Another node claims the session."""
        row = self.database.sessions[session]
        row.epoch += 1
        row.node = node

    def writes(self, kind: type | None = None) -> list[Write]:
        """All that was committed, in order."""
        return [w for group in self.groups for w in group if kind is None or type(w) is kind]

    def row(self, session: str, seq: int) -> RequestRow:
        return self.database.rows[session][seq]

    async def _call(self, name: str) -> None:
        self.calls.append(name)
        gate = self._gates.get(name)
        self.under_way += 1
        try:
            await (gate.wait() if gate is not None else asyncio.sleep(0))
        finally:
            self.under_way -= 1
        if self.away & {name, "*"}:
            raise StoreUnavailable(f"{name}: the store is away")

    # ---- the port

    async def open(self, node: str) -> None:
        self.node = node
        for row in self.database.sessions.values():
            row.node = None

    async def close(self) -> None:
        return None

    async def commit(self, writes: Sequence[Write]) -> set[str]:
        writes = list(singly(writes))
        self.tried.append(writes)
        await self._call("commit")
        if self.broken:
            raise self.broken.pop(0)
        fenced = _Group(self.database, self.node, writes).apply()
        if self.lose_answers:
            self.lose_answers -= 1
            raise StoreUnavailable("the answer was lost")
        self.groups.append(writes)
        return fenced

    async def claim(self, session: str) -> Claimed | None:
        await self._call("claim")
        row = self.database.sessions.get(session)
        if row is None or row.state != "live" or row.node not in (None, self.node):
            return None
        was_clean = row.clean
        row.epoch += 1
        row.node, row.clean, row.held = self.node, False, False
        row.open = any(_open(r) for r in self._rows(session) if r.seq > row.acked)
        rows = [
            structs.replace(r, outcome=None, params=r.params if _open(r) else None)
            for r in self._rows(session)
        ]
        return Claimed(deepcopy(row), was_clean, rows)

    def _rows(self, session: str) -> list[RequestRow]:
        rows = self.database.rows.get(session, {})
        return [rows[seq] for seq in sorted(rows)]

    async def session(self, session: str) -> SessionRow | None:
        await self._call("session")
        return deepcopy(self.database.sessions.get(session))

    async def unfinished(self) -> list[str]:
        await self._call("unfinished")
        rows = self.database.sessions.values()
        return [r.id for r in rows if r.node is None and r.open and r.state == "live"]

    async def outcomes(self, session: str, after: int, upto: int, max_bytes: int) -> list[Outcome]:
        await self._call("outcomes")
        found: list[Outcome] = []
        size = 0
        for r in self._rows(session):
            if after < r.seq <= upto and r.ending is not None and r.outcome is not None:
                size += len(r.outcome)
                if found and size > max_bytes:
                    break
                found.append(Outcome(r.seq, r.id, r.ending, r.outcome))
        return found

    async def tally(self, session: str) -> Tally:
        await self._call("tally")
        row = self.database.sessions.get(session)
        if row is None:
            return Tally(0, 0, 0, 0)
        counts: dict[Ending | None, int] = {}
        for r in self._rows(session):
            if r.seq > row.acked:
                counts[r.ending] = counts.get(r.ending, 0) + 1
        return Tally(
            row.done + counts.get("done", 0),
            row.failed + counts.get("failed", 0),
            row.cancelled + counts.get("cancelled", 0),
            counts.get(None, 0),
        )

    async def held(self, left_before_ms: int) -> list[str]:
        await self._call("held")
        rows = self.database.sessions.values()
        return [r.id for r in rows if r.node is None and r.held and r.left_ms < left_before_ms]

    async def expire(self, left_before_ms: int, ended_before_ms: int) -> list[str]:
        await self._call("expire")
        gone = []
        for row in list(self.database.sessions.values()):
            old = row.left_ms < (ended_before_ms if row.state == "ended" else left_before_ms)
            busy = any(r.ending is None and not r.stripped for r in self._rows(row.id))
            live = row.state == "live"
            if old and (not live or (row.node is None and not row.open and not busy)):
                del self.database.sessions[row.id]
                self.database.rows.pop(row.id, None)
                if live:
                    gone.append(row.id)
        return gone

    async def add_user(self, user: User) -> bool:
        await self._call("add_user")
        return self.database.users.setdefault(user.name, user) is user

    async def user(self, name: str) -> User | None:
        await self._call("user")
        return self.database.users.get(name)

    async def users(self) -> list[User]:
        await self._call("users")
        return sorted(self.database.users.values(), key=lambda user: user.name)

    async def _change_user(self, name: str, **changes: object) -> bool:
        user = self.database.users.get(name)
        if user is None:
            return False
        new = structs.replace(user, generation=user.generation + 1, **changes)
        self.database.users[name] = new
        return True

    async def set_password(self, name: str, password_hash: bytes) -> bool:
        return await self._change_user(name, password_hash=password_hash)

    async def revoke(self, name: str) -> bool:
        return await self._change_user(name)

    async def delete_user(self, name: str) -> bool:
        return self.database.users.pop(name, None) is not None

    async def post(self, verb: str, target: str, argument: str, at_ms: int) -> int:
        database = self.database
        database.posted = [c for c in database.posted if c.created_ms >= at_ms - 3_600_000]
        database.numbers += 1
        database.posted.append(Command(database.numbers, verb, target, argument, at_ms))
        return database.numbers

    async def commands(self, after: int) -> list[Command]:
        await self._call("commands")
        return [command for command in self.database.posted if command.n > after]

    async def last_command(self) -> int:
        return self.database.numbers

    async def sessions(self) -> list[SessionRow]:
        await self._call("sessions")
        rows = [deepcopy(row) for row in reversed(self.database.sessions.values())]
        return sorted(rows, key=lambda row: -row.created_ms)

    async def requests(self, session: str, after: int = 0) -> AsyncIterator[RequestRow]:
        await self._call("requests")
        for row in deepcopy(self._rows(session)):
            if row.seq > after:
                yield row


class _Group:
    """One commit."""

    def __init__(self, database: Database, node: str, writes: Sequence[Write]) -> None:
        self._database = database
        self.node = node
        self._writes = writes

    def apply(self) -> set[str]:
        fenced: set[str] = set()
        skip: dict[str, int] = {}
        seen: set[str] = set()
        for i, write in enumerate(self._writes):
            id = write.session
            if id not in seen:
                seen.add(id)
                if (until := self._given_up(id)) is not None:
                    skip[id] = until
            if id in fenced or i <= skip.get(id, -1):
                continue
            if not self._one(write):
                fenced.add(id)
        return fenced

    def _given_up(self, id: str) -> int | None:
        """Where a Release or End stands that took effect when the answer was lost."""
        row = self._database.sessions.get(id)
        if row is None or (row.node is not None and row.state == "live"):
            return None
        for i in reversed(range(len(self._writes))):
            w = self._writes[i]
            if w.session != id or not isinstance(w, Release | End):
                continue
            if (row.epoch, row.left_ms, row.receipt) != (w.epoch, w.at_ms, w.receipt):
                continue
            if row.state == ("live" if isinstance(w, Release) else "ended"):
                return i
        return None

    def _one(self, write: Write) -> bool:
        sessions = self._database.sessions
        if isinstance(write, Create) and write.session not in sessions and write.node == self.node:
            sessions[write.session] = SessionRow(
                write.session,
                write.user,
                write.epoch,
                write.attach,
                write.node,
                0,
                0,
                0,
                0,
                0,
                False,
                False,
                "live",
                write.at_ms,
                write.at_ms,
            )
            self._database.rows[write.session] = {}
        s = sessions.get(write.session)
        if s is None or s.state != "live" or s.node != self.node or s.epoch != write.epoch:
            return False
        rows = self._database.rows[s.id]
        if isinstance(write, Create):
            return s.user == write.user
        if isinstance(write, Insert):
            return _insert(s, rows, write)
        if isinstance(write, Settle):
            return _settle(s, rows, write)
        if isinstance(write, MarkCancel):
            if (row := rows.get(write.seq)) is not None and _open(row):
                row.cancel = True
            return write.seq <= s.accepted
        if isinstance(write, MarkStart):
            return _mark_start(s, rows, write)
        if isinstance(write, Acknowledge):
            return _acknowledge(s, rows, write)
        if isinstance(write, Attach):
            s.attach = max(s.attach, write.attach)
            return True
        if isinstance(write, Release):
            if write.attach != s.attach:
                return False
            s.node, s.clean, s.open, s.held = write.node, write.clean, write.open, write.held
            s.receipt, s.left_ms = write.receipt, write.at_ms
            return True
        return _end(s, rows, write)


def _open(row: RequestRow) -> bool:
    return row.ending is None and not row.stripped


def _insert(s: SessionRow, rows: dict[int, RequestRow], write: Insert) -> bool:
    seq = write.row.seq
    if seq == s.accepted + 1:
        rows[seq] = deepcopy(write.row)
        s.accepted, s.open = seq, True
        return True
    if seq > s.accepted:
        return False
    there = rows.get(seq)
    return seq <= s.acked if there is None else there.id == write.row.id


def _settle(s: SessionRow, rows: dict[int, RequestRow], write: Settle) -> bool:
    row = rows.get(write.seq)
    if write.seq <= s.acked:
        return True
    if row is None:
        return False
    if row.ending is not None:
        return (row.ending, row.outcome) == (write.outcome.ending, write.outcome.body)
    before = rows.get(write.seq - 1)
    if write.seq > s.acked + 1 and (before is None or _open(before)):
        return False
    row.ending, row.outcome = write.outcome.ending, write.outcome.body
    row.settled_ms = write.at_ms
    return True


def _mark_start(s: SessionRow, rows: dict[int, RequestRow], write: MarkStart) -> bool:
    row = rows.get(write.seq)
    if write.seq <= s.acked:
        return True
    if row is not None and _open(row):
        row.attempt = write.attempt
    return row is not None and row.attempt == write.attempt


def _acknowledge(s: SessionRow, rows: dict[int, RequestRow], write: Acknowledge) -> bool:
    if write.seq <= s.acked:
        return True
    due = [rows.get(seq) for seq in range(s.acked + 1, write.seq + 1)]
    if any(r is None or r.ending is None for r in due):
        return False
    for r in due:
        assert r is not None
        setattr(s, str(r.ending), getattr(s, str(r.ending)) + 1)
        rows[r.seq] = RequestRow(r.seq, r.id, r.digest, "", None, r.accepted_ms, stripped=True)
    s.acked = write.seq
    for seq in [seq for seq in rows if seq <= write.seq - write.keep]:
        del rows[seq]
    return True


def _end(s: SessionRow, rows: dict[int, RequestRow], write: End) -> bool:
    if write.accepted != s.accepted:
        return False
    for r in rows.values():
        if r.ending is not None:
            setattr(s, r.ending, getattr(s, r.ending) + 1)
            s.acked += 1
    rows.clear()
    s.state, s.node, s.open, s.clean = "ended", None, False, True
    s.receipt, s.left_ms = write.receipt, write.at_ms
    return True


def no_receipt(session: str) -> Receipt:
    """The receipt of a session that accepted nothing."""
    return Receipt(session, 0, 0, 0, 0, 0, True)
