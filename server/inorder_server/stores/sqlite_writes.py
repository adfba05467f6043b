"""What the writer thread does with a group of writes: all of them in one transaction.

Nearly all are added to the log (:mod:`.sqlite_log`), which counts on every one matching where
its session is. Where one doesn't (a fenced session, a write repeated) :func:`_one_by_one` says
exactly what matched, in order, by the rows; so it does with all that a session is written that
is made, attached or given up. The two must agree wherever the first succeeds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import msgspec

from . import sqlite_log as log
from .port import (
    Acknowledge,
    Attach,
    Create,
    End,
    Insert,
    MarkCancel,
    MarkStart,
    Release,
    Settle,
    Write,
    singly,
)
from .sqlite_fold import create_all
from .sqlite_log import LOGGED, Logged
from .sqlite_owned import Owned, Standing
from .sqlite_runs import (
    ENDINGS,
    counting,
    decode_names,
    decode_outcomes,
    holding,
    outcome_runs,
    request_runs,
    stripped_name,
    tallied,
)
from .sqlite_schema import MAX_SEQ, SEQ_BITS

_INSERT = "INSERT INTO runs (key, count, head, bodies) VALUES (?, ?, ?, ?)"
_MARK = """
INSERT INTO marks (key, attempt, cancel) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET attempt = max(attempt, excluded.attempt),
                                cancel = max(cancel, excluded.cancel)"""
_ACKNOWLEDGE = "INSERT INTO acknowledged (last, gone) VALUES (?, ?)"
_COUNT = f"SELECT {counting('?1', '?2', '?3')}"

_encode_receipt = msgspec.json.encode


def commit(db: sqlite3.Connection, owned: Owned, writes: Sequence[Write]) -> set[str]:
    """Makes ``writes`` durable in order and returns the fenced sessions (see the port)."""
    if not writes:
        return set()
    _make_sure(db, owned)
    owned.sure = False
    fenced = {w.session for w in writes if w.session in owned.broken} if owned.broken else set()
    if fenced:
        writes = [w for w in writes if w.session not in fenced]
    found = _log(db, owned, writes)
    if found is None:
        # What was taken of them is not in the file: it says where the sessions are.
        _make_sure(db, owned)
        owned.sure = False
        found = _exactly(db, owned, writes)
    owned.broken -= fenced
    owned.sure = True
    return found | fenced


def catch_up(db: sqlite3.Connection, owned: Owned, sessions: Iterable[str] | None = None) -> None:
    """Gives these sessions, or every one, the rows that they lack."""
    _make_sure(db, owned)
    behind = [s for s in (owned.ahead if sessions is None else sessions) if s in owned.ahead]
    if not behind:
        return
    owned.sure = False
    db.execute("BEGIN IMMEDIATE")
    if log.catch_up(db, owned, behind):
        db.execute("COMMIT")
        owned.sure = True
    else:
        _make_sure(db, owned)


def _make_sure(db: sqlite3.Connection, owned: Owned) -> None:
    """Begins anew from the file where it may not have what is remembered, or more than that:
    after an error, or where another process wrote to it."""
    if owned.sure:
        return
    if db.in_transaction:
        db.execute("ROLLBACK")
    log.replay(db, owned)
    owned.sure = True


def _log(db: sqlite3.Connection, owned: Owned, writes: Sequence[Write]) -> set[str] | None:
    """None where something didn't match."""
    creates, usual, others = _sorted(writes)
    if not _take(db, owned, creates, usual):
        return None
    entry = log.encoded(usual)
    large = log.is_large(usual, entry)
    if not (creates or others or large or log.is_long(owned)):
        return None if usual and not log.append(db, owned, usual, entry) else set()
    db.execute("BEGIN IMMEDIATE")
    numbers = [owned.standings[w.session].n for w in creates]
    if not create_all(db, numbers, creates):
        return None
    if large:
        if not log.bypass(db, owned, usual):
            return None
    elif usual and not log.append(db, owned, usual, entry):
        return None
    fenced: set[str] = set()
    if others:
        sessions = {w.session for w in others}
        if not log.catch_up(db, owned, sessions):
            return None
        fenced = _one_by_one(db, owned, others)
        for session in sessions:
            owned.forget(session)
    if log.is_long(owned) and not log.shorten(db, owned, len(entry)):
        return None
    db.execute("COMMIT")
    return fenced


def _take(
    db: sqlite3.Connection, owned: Owned, creates: Sequence[Create], usual: Sequence[Logged]
) -> bool:
    for w in creates:
        if w.node != owned.node or w.session in owned.standings:
            return False
        owned.standings[w.session] = Standing(owned.next_number(db), w.epoch, w.node)
    return log.take(lambda session: owned.standing(db, session), usual)


def _exactly(db: sqlite3.Connection, owned: Owned, writes: Sequence[Write]) -> set[str]:
    """All of them by the rows, which lack nothing."""
    db.execute("BEGIN IMMEDIATE")
    for session in {w.session for w in writes}:
        owned.forget(session)
    fenced = _one_by_one(db, owned, writes)
    db.execute("COMMIT")
    return fenced


def _sorted(
    writes: Sequence[Write],
) -> tuple[Sequence[Create], Sequence[Logged], Sequence[Write]]:
    """New sessions, what goes into the log, and all writes of sessions that have one of
    another kind."""
    if LOGGED.issuperset(map(type, writes)):
        return (), cast(Sequence[Logged], writes), ()
    special: set[str] = set()
    begun: set[str] = set()
    for w in writes:
        # A session is made before it is written to; where it isn't, its writes go in order.
        if type(w) not in LOGGED and (type(w) is not Create or w.session in begun):
            special.add(w.session)
        begun.add(w.session)
    creates: list[Create] = []
    usual: list[Logged] = []
    others: list[Write] = []
    for w in writes:
        if w.session in special:
            others.append(w)
        elif type(w) is Create:
            creates.append(w)
        else:
            usual.append(cast(Logged, w))
    return creates, usual, others


def delete_rows(db: sqlite3.Connection, n: int) -> None:
    """All rows of the session with this number."""
    first, last = n << SEQ_BITS, n << SEQ_BITS | MAX_SEQ
    db.execute("DELETE FROM runs WHERE key >= ? AND key <= ?", (first << 1, last << 1 | 1))
    for table in ("marks", "stripped"):
        db.execute(f"DELETE FROM {table} WHERE key >= ? AND key <= ?", (first, last))


# ---- in order, exactly


class _Session:
    """A session's row as it stands within the transaction."""

    id: str
    user: str
    epoch: int
    attach: int
    node: str | None
    accepted: int
    settled: int
    acked: int
    state: str
    left_ms: int
    clean: int
    open: int
    held: int
    receipt: bytes | None
    forgotten: int

    def __init__(self, db: sqlite3.Connection, n: int, values: tuple[Any, ...]) -> None:
        self.db = db
        self.base = n << SEQ_BITS
        self.n = n
        self.id, self.user, self.epoch, self.attach, self.node = values[:5]
        self.accepted, self.settled, self.acked, self.state, self.left_ms = values[5:10]
        self.clean, self.open, self.held, self.receipt, self.forgotten = values[10:]

    @classmethod
    def load(cls, db: sqlite3.Connection, n: int | None) -> _Session | None:
        values = db.execute(
            "SELECT id, user, epoch, attach, node, accepted, settled, acked, state, left_ms, clean,"
            " open, held, receipt, forgotten FROM sessions WHERE n = ?",
            (n,),
        ).fetchone()
        return None if n is None or values is None else cls(db, n, values)


def _one_by_one(db: sqlite3.Connection, owned: Owned, writes: Sequence[Write]) -> set[str]:
    """The fenced sessions."""
    writes = list(singly(writes))
    sessions: dict[str, _Session | None] = {}
    fenced: set[str] = set()
    skip: dict[str, int] = {}
    for i, w in enumerate(writes):
        id = w.session
        if id in fenced or i <= skip.get(id, -1):
            continue
        if id not in sessions:
            sessions[id] = _Session.load(db, owned.number(db, id))
            if (given_up := _given_up_by(sessions[id], owned.node, writes, i)) is not None:
                skip[id] = given_up
                continue
        if type(w) is Create:
            sessions[id] = _create(db, owned, sessions[id], w)
        s = sessions[id]
        own = (
            s is not None
            and s.state == "live"
            and s.node == owned.node
            and s.epoch == w.epoch
            and _APPLY[type(w)](s, w)
        )
        if not own:
            fenced.add(id)
    return fenced


def _given_up_by(s: _Session | None, node: str, writes: Sequence[Write], start: int) -> int | None:
    """Where in ``writes`` a Release or End stands that is in effect already.

    A call whose answer was lost is made again; what it did before it gave the session up can
    no longer be looked at (the session isn't OWN, its rows are gone), but was committed with
    it.
    """
    if s is None or (s.node is not None and s.state == "live"):
        return None
    for i in range(start, len(writes)):
        w = writes[i]
        if w.session != s.id or not isinstance(w, Release | End):
            continue
        same = (s.epoch, s.left_ms, s.receipt) == (w.epoch, w.at_ms, _encode_receipt(w.receipt))
        if isinstance(w, End):
            same = same and (s.state, s.accepted) == ("ended", w.accepted)
        else:
            there = (s.state, s.attach, s.node, bool(s.clean), bool(s.open), bool(s.held))
            same = same and there == ("live", w.attach, w.node, w.clean, w.open, w.held)
        if same:
            return i
    return None


def _create(
    db: sqlite3.Connection, owned: Owned, there: _Session | None, w: Create
) -> _Session | None:
    """The session's row, made where there is none."""
    if there is not None or w.node != owned.node:
        return there
    n = owned.next_number(db)
    db.execute(
        "INSERT INTO sessions (n, id, user, epoch, attach, node, created_ms, left_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (n, w.session, w.user, w.epoch, w.attach, w.node, w.at_ms, w.at_ms),
    )
    return _Session.load(db, n)


# Each is called for a session that is OWN, and says whether the write is in effect now.


def _created(s: _Session, w: Create) -> bool:
    return s.user == w.user and s.node == w.node


def _insert(s: _Session, w: Insert) -> bool:
    seq = w.row.seq
    if seq == s.accepted + 1 and seq <= MAX_SEQ:
        s.db.execute(_INSERT, request_runs(s.base, w.rows))
        s.db.execute("UPDATE sessions SET accepted = ?, open = 1 WHERE n = ?", (seq, s.n))
        s.accepted = seq
        return True
    if seq > s.accepted:
        return False
    if seq <= s.forgotten:
        return True
    if there := holding(s.db, s.base | seq, False):
        id: str = decode_names(there.head)[there.place][0]
        return id == w.row.id
    name = stripped_name(s.db, s.base | seq)
    return seq <= s.acked if name is None else name[0] == w.row.id


def _settle(s: _Session, w: Settle) -> bool:
    if w.seq == s.settled + 1:
        if w.seq > s.accepted or holding(s.db, s.base | w.seq, True):
            return False
        s.db.execute(_INSERT, outcome_runs(s.base, w.outcomes, [w.at_ms]))
        s.db.execute("UPDATE sessions SET settled = ? WHERE n = ?", (w.seq, s.n))
        s.settled = w.seq
        return True
    if w.seq <= s.acked:
        return True
    there = holding(s.db, s.base | w.seq, True)
    if there is None or ENDINGS.get(there.head[there.place]) != w.outcome.ending:
        return False
    (bodies,) = s.db.execute("SELECT bodies FROM runs WHERE key = ?", (there.key,)).fetchone()
    return decode_outcomes(bodies)[there.place][1] == w.outcome.body


def _mark_cancel(s: _Session, w: MarkCancel) -> bool:
    if w.seq > s.accepted:
        return False
    # A request that is settled needs no mark: its outcome is on its way.
    if w.seq > s.settled:
        s.db.execute(_MARK, (s.base | w.seq, 0, 1))
    return True


def _mark_start(s: _Session, w: MarkStart) -> bool:
    if w.seq <= s.acked:
        return True
    if w.seq > s.accepted:
        return False
    key = s.base | w.seq
    if w.seq > s.settled:
        s.db.execute(_MARK, (key, w.attempt, 0))
        return True
    there = s.db.execute("SELECT attempt FROM marks WHERE key = ?", (key,)).fetchone()
    return bool((there[0] if there else 0) >= w.attempt)


def _tally(s: _Session, upto: int) -> tuple[int, tuple[int, int, int]]:
    """How many requests there are above `acked`, and how they ended."""
    requests, letters = s.db.execute(
        _COUNT, (s.base, s.base | s.acked, s.base | min(upto, MAX_SEQ))
    ).fetchone()
    return int(requests), tallied(letters)


def _acknowledge(s: _Session, w: Acknowledge) -> bool:
    if w.seq <= s.acked:
        return True
    seq = w.seq
    requests, tally = _tally(s, seq)
    if requests != seq - s.acked or sum(tally) != requests:
        return False
    gone = max(seq - w.keep, 0)
    s.db.execute(_ACKNOWLEDGE, (s.base | seq, s.base | gone))
    s.forgotten = max(s.forgotten, gone)
    s.db.execute(
        "UPDATE sessions SET acked = ?, forgotten = ?, done = done + ?, failed = failed + ?,"
        " cancelled = cancelled + ? WHERE n = ?",
        (seq, s.forgotten, *tally, s.n),
    )
    s.acked = seq
    return True


def _attach(s: _Session, w: Attach) -> bool:
    if w.attach > s.attach:
        s.db.execute("UPDATE sessions SET attach = ? WHERE n = ?", (w.attach, s.n))
        s.attach = w.attach
    return True


def _release(s: _Session, w: Release) -> bool:
    if w.attach != s.attach:
        return False
    s.db.execute(
        "UPDATE sessions SET node = ?, clean = ?, open = ?, held = ?, receipt = ?, left_ms = ?"
        " WHERE n = ?",
        (w.node, w.clean, w.open, w.held, _encode_receipt(w.receipt), w.at_ms, s.n),
    )
    s.node = w.node
    return True


def _end(s: _Session, w: End) -> bool:
    if w.accepted != s.accepted:
        return False
    _, tally = _tally(s, MAX_SEQ)
    delete_rows(s.db, s.n)
    # `acked` stays the number of those tallied, as in a session that lives.
    s.db.execute(
        "UPDATE sessions SET state = 'ended', node = NULL, open = 0, held = 0, clean = 1,"
        " receipt = ?, left_ms = ?, acked = acked + ?, done = done + ?, failed = failed + ?,"
        " cancelled = cancelled + ? WHERE n = ?",
        (_encode_receipt(w.receipt), w.at_ms, sum(tally), *tally, s.n),
    )
    s.state = "ended"
    return True


_APPLY: dict[type, Callable[[_Session, Any], bool]] = {
    Create: _created,
    Insert: _insert,
    Settle: _settle,
    MarkCancel: _mark_cancel,
    MarkStart: _mark_start,
    Acknowledge: _acknowledge,
    Attach: _attach,
    Release: _release,
    End: _end,
}
