"""What the writer thread does with a group of writes: all of them in one transaction.

Insert and Settle are nearly all there is, so a group's are done together by
:func:`_together`, which counts on every one matching. Where one doesn't (a fenced session,
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
from .sqlite_schema import MAX_NUMBER, MAX_SEQ, SEQ_BITS

_INSERT = """
INSERT INTO requests (key, attempt, cancel, accepted_ms, id, digest, method, timeout,
                      traceparent, params) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_SETTLE = """
UPDATE requests SET ending = ?, outcome = ?, settled_ms = ? WHERE key = ? AND ending IS NULL"""
_ACCEPT = """
UPDATE sessions SET accepted = ?, open = 1
WHERE n = ? AND epoch = ? AND accepted = ? AND node = ? AND state = 'live'"""
_OWN = "SELECT 1 FROM sessions WHERE n = ? AND epoch = ? AND node = ? AND state = 'live'"
_TALLY = """
SELECT count(*), total(ending = 'done'), total(ending = 'failed'), total(ending = 'cancelled')
FROM requests WHERE key > ? AND key <= ?"""
_STRIP = """
UPDATE requests SET ending = '', method = '', timeout = NULL, traceparent = NULL,
       params = NULL, outcome = NULL, settled_ms = NULL, attempt = 0, cancel = 0
WHERE key > ? AND key <= ?"""
_DELETE = "DELETE FROM requests WHERE key >= ? AND key <= ?"

_encode_receipt = msgspec.json.encode


class Owned:
    """What the writer remembers of the sessions that its node owns, and only of those."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.numbers: dict[str, int] = {}
        """Session id to its ``n``, which saves an index look-up a write."""
        self.was_clean: dict[str, bool] = {}
        """Of a claim that was made, but whose rows could not be read yet."""
        self._last_number = 0

    def forget(self, session: str) -> None:
        self.numbers.pop(session, None)
        self.was_clean.pop(session, None)

    def next_number(self, db: sqlite3.Connection) -> int:
        """A number that no session has. They come round after 2**28 sessions."""
        if not self._last_number:
            self._last_number = db.execute("SELECT ifnull(max(n), 0) FROM sessions").fetchone()[0]
        while True:
            self._last_number = self._last_number % MAX_NUMBER + 1
            if not db.execute(
                "SELECT 1 FROM sessions WHERE n = ?", (self._last_number,)
            ).fetchone():
                return self._last_number

    def number(self, db: sqlite3.Connection, session: str) -> int | None:
        n = self.numbers.get(session)
        if n is None:
            found = db.execute("SELECT n FROM sessions WHERE id = ?", (session,)).fetchone()
            if found is None:
                return None
            n = self.numbers[session] = found[0]
        return n


def commit(db: sqlite3.Connection, owned: Owned, writes: Sequence[Write]) -> set[str]:
    """Makes ``writes`` durable in order and returns the fenced sessions (see the port)."""
    if not writes:
        return set()
    rare = {w.session for w in writes if type(w) is not Insert and type(w) is not Settle}
    plain = [w for w in writes if w.session not in rare] if rare else writes
    others: Sequence[Write] = [w for w in writes if w.session in rare] if rare else ()
    db.execute("BEGIN IMMEDIATE")
    if plain and not _together(db, owned, plain):  # type: ignore[arg-type]
        db.execute("ROLLBACK")
        db.execute("BEGIN IMMEDIATE")
        others = writes
    fenced, left = _one_by_one(db, owned, others)
    db.execute("COMMIT")
    for session in fenced | left:
        owned.forget(session)
    return fenced


def _together(db: sqlite3.Connection, owned: Owned, writes: Sequence[Insert | Settle]) -> bool:
    """Does them all at once. False where not every one matched: then nothing may stay."""
    seen: dict[str, list[int]] = {}  # n, epoch, accepted before, accepted after
    inserts = []
    settles = []
    for w in writes:
        own = seen.get(w.session)
        if own is None:
            n = owned.number(db, w.session)
            if n is None:
                return False
            own = seen[w.session] = [n, w.epoch, -1, -1]
        elif own[1] != w.epoch:
            return False
        base = own[0] << SEQ_BITS
        if type(w) is Insert:
            row = w.row
            seq = row.seq
            if own[3] < 0:
                own[2] = seq - 1
            elif own[3] != seq - 1:
                return False
            own[3] = seq
            inserts.append(_values(base, w))
        else:
            assert type(w) is Settle
            settles.append((w.ending, w.body, w.at_ms, base | w.seq))
    node = owned.node
    raised = []
    for n, epoch, before, after in seen.values():
        if after > MAX_SEQ:
            return False
        if after >= 0:
            raised.append((after, n, epoch, before, node))
        elif db.execute(_OWN, (n, epoch, node)).fetchone() is None:
            return False
    try:
        return (
            (not raised or db.executemany(_ACCEPT, raised).rowcount == len(raised))
            and (not inserts or db.executemany(_INSERT, inserts).rowcount == len(inserts))
            and (not settles or db.executemany(_SETTLE, settles).rowcount == len(settles))
        )
    except sqlite3.IntegrityError:
        return False


def _values(base: int, w: Insert) -> tuple[Any, ...]:
    row = w.row
    return (
        base | row.seq,
        row.attempt,
        row.cancel,
        row.accepted_ms,
        row.id,
        row.digest,
        row.method,
        row.timeout,
        row.traceparent,
        row.params,
    )


# ---- in order, exactly


class _Session:
    """A session's row as it stands within the transaction."""

    user: str
    epoch: int
    attach: int
    node: str | None
    accepted: int
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
        self.user, self.epoch, self.attach, self.node, self.accepted, self.acked = values[:6]
        self.state, self.left_ms, self.clean, self.open, self.receipt = values[6:]

    @classmethod
    def load(cls, db: sqlite3.Connection, n: int | None) -> _Session | None:
        values = db.execute(
            "SELECT user, epoch, attach, node, accepted, acked, state, left_ms, clean, open,"
            " receipt FROM sessions WHERE n = ?",
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
        s.db.execute(_INSERT, _values(s.base, w))
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
    if w.seq <= s.acked:
        return True
    key = s.base | w.seq
    if s.db.execute(_SETTLE, (w.ending, w.body, w.at_ms, key)).rowcount:
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
