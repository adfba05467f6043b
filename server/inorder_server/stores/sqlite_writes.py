"""What the writer thread does with a group of writes: all of them in one transaction.

Insert and Settle are nearly all there is, so a group's are done together by
:mod:`.sqlite_batch`, which counts on every one matching. Where one doesn't (a fenced session,
a write repeated) the transaction is begun anew and :func:`_one_by_one` says exactly what
matched, in order. The two must agree wherever the first succeeds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

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
)
from .sqlite_batch import apply_together, insert_values
from .sqlite_owned import Owned
from .sqlite_schema import MAX_SEQ, SEQ_BITS

_INSERT = """
INSERT INTO requests (key, attempt, cancel, accepted_ms, id, digest, method, timeout,
                      traceparent, params) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_SETTLE = """
UPDATE requests SET ending = ?, outcome = ?, settled_ms = ? WHERE key = ? AND ending IS NULL"""
_TALLY = """
SELECT count(*), total(ending = 'done'), total(ending = 'failed'), total(ending = 'cancelled')
FROM requests WHERE key > ? AND key <= ?"""
_STRIP = """
UPDATE requests SET ending = '', method = '', timeout = NULL, traceparent = NULL,
       params = NULL, outcome = NULL, settled_ms = NULL, attempt = 0, cancel = 0
WHERE key > ? AND key <= ?"""
_DELETE = "DELETE FROM requests WHERE key >= ? AND key <= ?"

_encode_receipt = msgspec.json.encode


def commit(db: sqlite3.Connection, owned: Owned, writes: Sequence[Write]) -> set[str]:
    """Makes ``writes`` durable in order and returns the fenced sessions (see the port)."""
    if not writes:
        return set()
    rare = {w.session for w in writes if type(w) is not Insert and type(w) is not Settle}
    plain = [w for w in writes if w.session not in rare] if rare else writes
    others: Sequence[Write] = [w for w in writes if w.session in rare] if rare else ()
    db.execute("BEGIN IMMEDIATE")
    if plain and not apply_together(db, owned, plain):  # type: ignore[arg-type]
        if db.in_transaction:
            db.execute("ROLLBACK")
        db.execute("BEGIN IMMEDIATE")
        others = writes
    fenced, left = _one_by_one(db, owned, others)
    db.execute("COMMIT")
    for session in fenced | left:
        owned.forget(session)
    return fenced


# ---- in order, exactly


class _Session:
    """A session's row as it stands within the transaction."""

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
    receipt: bytes | None

    def __init__(self, db: sqlite3.Connection, n: int, values: tuple[Any, ...]) -> None:
        self.db = db
        self.base = n << SEQ_BITS
        self.n = n
        self.user, self.epoch, self.attach, self.node = values[:4]
        self.accepted, self.settled, self.acked, self.state, self.left_ms = values[4:9]
        self.clean, self.open, self.receipt = values[9:]

    @classmethod
    def load(cls, db: sqlite3.Connection, n: int | None) -> _Session | None:
        values = db.execute(
            "SELECT user, epoch, attach, node, accepted, settled, acked, state, left_ms, clean,"
            " open, receipt FROM sessions WHERE n = ?",
            (n,),
        ).fetchone()
        return None if n is None or values is None else cls(db, n, values)


def _one_by_one(
    db: sqlite3.Connection, owned: Owned, writes: Sequence[Write]
) -> tuple[set[str], set[str]]:
    """The fenced sessions, and those that are no longer this node's."""
    sessions: dict[str, _Session | None] = {}
    fenced: set[str] = set()
    left: set[str] = set()
    skip = _done_before(db, owned, writes)
    for i, w in enumerate(writes):
        id = w.session
        if id in fenced or i <= skip.get(id, -1):
            continue
        if type(w) is Create:
            sessions.pop(id, None)
            if not _create(db, owned, w):
                fenced.add(id)
            continue
        if id not in sessions:
            sessions[id] = _Session.load(db, owned.number(db, id))
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
        elif type(w) is Release or type(w) is End:
            left.add(id)
    return fenced, left | skip.keys()


def _done_before(db: sqlite3.Connection, owned: Owned, writes: Sequence[Write]) -> dict[str, int]:
    """Sessions whose Release or End is in effect already, and where in ``writes`` it stands.

    A call whose answer was lost is made again; what it did before it gave a session up can
    no longer be looked at (the session isn't OWN, its rows are gone), but was committed with
    it.
    """
    found: dict[str, int] = {}
    for i, w in enumerate(writes):
        if type(w) is Release:
            s = _Session.load(db, owned.number(db, w.session))
            if s is not None and (
                (s.state, s.epoch, s.attach, s.node) == ("live", w.epoch, w.attach, w.node)
                and (s.left_ms, s.receipt) == (w.at_ms, _encode_receipt(w.receipt))
                and (s.clean, s.open) == (w.clean, w.open)
            ):
                found[w.session] = i
        elif type(w) is End:
            s = _Session.load(db, owned.number(db, w.session))
            if s is not None and (
                (s.state, s.epoch, s.accepted) == ("ended", w.epoch, w.accepted)
                and (s.left_ms, s.receipt) == (w.at_ms, _encode_receipt(w.receipt))
            ):
                found[w.session] = i
    return found


def _create(db: sqlite3.Connection, owned: Owned, w: Create) -> bool:
    if w.node != owned.node:
        return False
    s = _Session.load(db, owned.number(db, w.session))
    if s is not None:
        there = (s.state, s.user, s.epoch, s.node)
        return there == ("live", w.user, w.epoch, w.node)
    n = owned.numbers[w.session] = owned.next_number(db)
    db.execute(
        "INSERT INTO sessions (n, id, user, epoch, attach, node, created_ms, left_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (n, w.session, w.user, w.epoch, w.attach, w.node, w.at_ms, w.at_ms),
    )
    return True


# Each is called for a session that is OWN, and says whether the write is in effect now.


def _insert(s: _Session, w: Insert) -> bool:
    seq = w.row.seq
    if seq == s.accepted + 1 and seq <= MAX_SEQ:
        s.db.execute(_INSERT, insert_values(s.base, w))
        s.db.execute("UPDATE sessions SET accepted = ?, open = 1 WHERE n = ?", (seq, s.n))
        s.accepted = seq
        return True
    if seq > s.accepted:
        return False
    there = s.db.execute("SELECT id FROM requests WHERE key = ?", (s.base | seq,)).fetchone()
    if there is None:
        return seq <= s.acked
    return bool(there[0] == w.row.id)


def _settle(s: _Session, w: Settle) -> bool:
    key = s.base | w.seq
    if w.seq == s.settled + 1:
        if not s.db.execute(_SETTLE, (w.ending, w.body, w.at_ms, key)).rowcount:
            return False
        s.db.execute("UPDATE sessions SET settled = ? WHERE n = ?", (w.seq, s.n))
        s.settled = w.seq
        return True
    if w.seq <= s.acked:
        return True
    there = s.db.execute("SELECT ending, outcome FROM requests WHERE key = ?", (key,)).fetchone()
    return bool(there == (w.ending, w.body))


def _mark_cancel(s: _Session, w: MarkCancel) -> bool:
    # A request that is settled needs no mark: its outcome is on its way.
    s.db.execute(
        "UPDATE requests SET cancel = 1 WHERE key = ? AND ending IS NULL", (s.base | w.seq,)
    )
    return w.seq <= s.accepted


def _mark_start(s: _Session, w: MarkStart) -> bool:
    if w.seq <= s.acked:
        return True
    key = s.base | w.seq
    if s.db.execute(
        "UPDATE requests SET attempt = ? WHERE key = ? AND ending IS NULL", (w.attempt, key)
    ).rowcount:
        return True
    there = s.db.execute("SELECT attempt FROM requests WHERE key = ?", (key,)).fetchone()
    return bool(there == (w.attempt,))


def _acknowledge(s: _Session, w: Acknowledge) -> bool:
    if w.seq <= s.acked:
        return True
    base, acked, seq = s.base, s.acked, w.seq
    rows, done, failed, cancelled = map(
        int, s.db.execute(_TALLY, (base | acked, base | min(seq, MAX_SEQ))).fetchone()
    )
    if rows != seq - acked or done + failed + cancelled != rows:
        return False
    gone = max(seq - w.keep, 0)
    s.db.execute(_DELETE, (base, base | gone))
    s.db.execute(_STRIP, (base | max(acked, gone), base | seq))
    s.db.execute(
        "UPDATE sessions SET acked = ?, done = done + ?, failed = failed + ?,"
        " cancelled = cancelled + ? WHERE n = ?",
        (seq, done, failed, cancelled, s.n),
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
        "UPDATE sessions SET node = ?, clean = ?, open = ?, receipt = ?, left_ms = ? WHERE n = ?",
        (w.node, w.clean, w.open, _encode_receipt(w.receipt), w.at_ms, s.n),
    )
    s.node = w.node
    return True


def _end(s: _Session, w: End) -> bool:
    if w.accepted != s.accepted:
        return False
    _, done, failed, cancelled = map(
        int, s.db.execute(_TALLY, (s.base | s.acked, s.base | MAX_SEQ)).fetchone()
    )
    s.db.execute(_DELETE, (s.base, s.base | MAX_SEQ))
    # `acked` stays the number of those tallied, as in a session that lives.
    s.db.execute(
        "UPDATE sessions SET state = 'ended', node = NULL, open = 0, clean = 1, receipt = ?,"
        " left_ms = ?, acked = acked + ?, done = done + ?, failed = failed + ?,"
        " cancelled = cancelled + ? WHERE n = ?",
        (
            _encode_receipt(w.receipt),
            w.at_ms,
            done + failed + cancelled,
            done,
            failed,
            cancelled,
            s.n,
        ),
    )
    s.state = "ended"
    return True


_APPLY: dict[type, Callable[[_Session, Any], bool]] = {
    Insert: _insert,
    Settle: _settle,
    MarkCancel: _mark_cancel,
    MarkStart: _mark_start,
    Acknowledge: _acknowledge,
    Attach: _attach,
    Release: _release,
    End: _end,
}
