"""The usual writes of a group, each kind in one statement.

A statement a row would cost little by itself, but each gives up the interpreter's lock and
has to win it back from a busy event loop: with 800 rows that takes a hundred times longer
than the work (measured). So many rows are bound to one statement. Those that are missing to
a round number, for which the statement is prepared already, are filled with -1, a key that
nothing has. Python's binding of None, bytes and bool takes five times as long as that of
int, str and bytearray, hence those (a quarter of a commit's time).
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from .port import Acknowledge, Create, Insert, MarkStart, Settle
from .sqlite_owned import Owned
from .sqlite_schema import MAX_SEQ, SEQ_BITS

Usual = Create | Insert | Settle | MarkStart | Acknowledge
USUAL = frozenset({Create, Insert, Settle, MarkStart, Acknowledge})

_MOST_ROWS = 512
_NOTHING = -1
_PLAIN = (None, None, 0, False)  # most requests: no timeout, traceparent or marks
_SMALL = 4096  # bytes, up to which a copy costs less than binding what is there

_Rows = Sequence[tuple[Any, ...]]
_Statement = Callable[[int], str]


class _Progress:
    """How far a group takes a session; 0 where it doesn't move."""

    __slots__ = (
        "accepted", "acked", "base", "epoch", "first_accepted", "first_settled",
        "keep", "n", "settled", "touched",
    )  # fmt: skip

    def __init__(self, n: int, epoch: int) -> None:
        self.n = n
        self.base = n << SEQ_BITS
        self.epoch = epoch
        self.first_accepted = self.accepted = 0
        self.first_settled = self.settled = 0
        self.acked = self.keep = 0
        # What is marked or settled before it is there is for the other way to refuse.
        self.touched = 0


class Batch:
    """A group's writes, sorted by kind."""

    def __init__(self, db: sqlite3.Connection, owned: Owned) -> None:
        self._db = db
        self._owned = owned
        self._sessions: dict[str, _Progress] = {}
        self._creates: list[tuple[Any, ...]] = []
        self._plain_inserts: list[tuple[Any, ...]] = []
        self._inserts: list[tuple[Any, ...]] = []
        self._marks: list[tuple[Any, ...]] = []
        self._settles: list[tuple[Any, ...]] = []

    def apply(self, writes: Sequence[Usual]) -> bool:
        """Does them all, within the transaction that is open.

        False where not every one of them matched: then that transaction is to be rolled
        back, or was already.
        """
        if not all(map(self._take, writes)):
            return False
        node = self._owned.node
        progress = [
            (
                s.n,
                s.epoch,
                node,
                s.first_accepted - 1 if s.accepted else _NOTHING,
                s.accepted or _NOTHING,
                s.first_settled - 1 if s.settled else _NOTHING,
                s.settled or _NOTHING,
            )
            for s in self._sessions.values()
        ]
        try:
            fits = (
                self._all_match(_create, self._creates)
                and self._all_match(_progress, progress)
                and self._all_match(_insert_plain, self._plain_inserts)
                and self._all_match(_insert, self._inserts)
                and self._all_match(_mark, self._marks)
                and self._all_match(_settle, self._settles)
                and self._acknowledge([s for s in self._sessions.values() if s.acked])
            )
        except sqlite3.IntegrityError:
            return False
        if fits:
            self._owned.numbers.update((id, s.n) for id, s in self._sessions.items())
            inserts = chain(self._plain_inserts, self._inserts)
            bodies = sum(len(row[-1] or b"") for row in inserts)
            bodies += sum(len(row[2]) for row in self._settles)
            self._owned.logged += 2 + len(self._sessions) + bodies // 2048
        return fits

    def _take(self, w: Usual) -> bool:
        """Whether ``w`` can be done together with those before it."""
        s = self._sessions.get(w.session)
        kind = type(w)
        if s is None:
            if kind is Create:
                return self._take_create(w)  # type: ignore[arg-type]
            n = self._owned.number(self._db, w.session)
            if n is None:
                return False
            s = self._sessions[w.session] = _Progress(n, w.epoch)
        elif s.epoch != w.epoch:
            return False
        if kind is Insert:
            assert isinstance(w, Insert)
            row = w.row
            seq = row.seq
            if not s.accepted:
                s.first_accepted = seq
            elif seq != s.accepted + 1:
                return False
            s.accepted = seq
            if (row.timeout, row.traceparent, row.attempt, row.cancel) == _PLAIN:
                self._plain_inserts.append(
                    (
                        s.base | seq,
                        row.accepted_ms,
                        row.id,
                        _blob(row.digest),
                        row.method,
                        _blob(row.params),
                    )
                )
            else:
                self._inserts.append(insert_values(s.base, w))
            return s.touched < seq <= MAX_SEQ
        if kind is Settle:
            assert isinstance(w, Settle)
            seq = w.seq
            if not s.settled:
                s.first_settled = seq
            elif seq != s.settled + 1:
                return False
            s.settled = seq
            s.touched = max(s.touched, seq)
            self._settles.append((s.base | seq, w.ending, _blob(w.body), w.at_ms))
            return s.acked < seq <= MAX_SEQ
        if kind is MarkStart:
            assert isinstance(w, MarkStart)
            self._marks.append((s.base | w.seq, w.attempt))
            s.touched = max(s.touched, w.seq)
            return s.settled < w.seq <= MAX_SEQ
        if kind is Acknowledge:
            assert isinstance(w, Acknowledge)
            if w.seq > s.acked:
                s.acked, s.keep = w.seq, w.keep
            return 0 < w.seq <= MAX_SEQ
        return False

    def _take_create(self, w: Create) -> bool:
        if w.node != self._owned.node:
            return False
        n = self._owned.next_number(self._db)
        self._sessions[w.session] = _Progress(n, w.epoch)
        self._creates.append((n, w.session, w.user, w.epoch, w.attach, w.node, w.at_ms))
        return True

    def _acknowledge(self, sessions: Sequence[_Progress]) -> bool:
        if not sessions:
            return True
        by_number = {s.n: s for s in sessions}
        gone, stripped, tallies = [], [], []
        for part in _parts(sessions):
            asked = [(s.n, s.acked) for s in part]
            for n, acked, rows, done, failed, cancelled in self._run(_tally, asked):
                s = by_number[n]
                if s.acked <= acked:
                    continue
                if rows != s.acked - acked or done + failed + cancelled != rows:
                    return False
                upto = max(s.acked - s.keep, 0)
                gone.append((s.base, s.base | upto))
                stripped.append((s.base | max(acked, upto), s.base | s.acked))
                tallies.append((n, s.acked, int(done), int(failed), int(cancelled)))
        for part in _parts(gone):
            self._run(_delete, part)
        for part in _parts(stripped):
            self._run(_strip, part)
        return self._all_match(_forget, tallies)

    def _all_match(self, statement: _Statement, rows: _Rows) -> bool:
        return all(self._run(statement, part).rowcount == len(part) for part in _parts(rows))

    def _run(self, statement: _Statement, rows: _Rows) -> sqlite3.Cursor:
        size = 1 << (len(rows) - 1).bit_length()
        values = list(chain.from_iterable(rows))
        values += [_NOTHING] * (len(rows[0]) * (size - len(rows)))
        return self._db.execute(statement(size), values)


def _parts(rows: Sequence[Any]) -> list[Sequence[Any]]:
    return [rows[i : i + _MOST_ROWS] for i in range(0, len(rows), _MOST_ROWS)]


def _blob(body: bytes | None) -> bytes | bytearray | None:
    return bytearray(body) if body is not None and len(body) < _SMALL else body


def insert_values(base: int, w: Insert) -> tuple[Any, ...]:
    """The values of a request's row; ``base`` is its session's number, shifted."""
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


# ---- the statements, for so many rows
#
# Without OR ROLLBACK a statement that may fail half-way keeps a copy of every page it
# changes, to undo itself: half as much work again.


def _values(rows: int, columns: int) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return "(VALUES " + ",".join([row] * rows) + ")"


@functools.cache
def _create(rows: int) -> str:
    return (
        "INSERT OR ROLLBACK INTO sessions (n, id, user, epoch, attach, node, created_ms, left_ms)"
        f" SELECT *, column7 FROM {_values(rows, 7)} WHERE column1 > 0"
    )


@functools.cache
def _progress(rows: int) -> str:
    # Columns 4 and 5 are `accepted` before and after, 6 and 7 `settled`; -1: as it is.
    return (
        "UPDATE OR ROLLBACK sessions SET accepted = max(accepted, column5),"
        " settled = max(settled, column7), open = open OR column5 > 0"
        f" FROM {_values(rows, 7)}"
        " WHERE n = column1 AND epoch = column2 AND node = column3 AND state = 'live'"
        " AND column4 IN (accepted, -1) AND column6 IN (settled, -1)"
        " AND max(settled, column7) <= max(accepted, column5)"
    )


@functools.cache
def _insert_plain(rows: int) -> str:
    return (
        "INSERT OR ROLLBACK INTO requests (key, accepted_ms, id, digest, method, params,"
        f" attempt, cancel) SELECT *, 0, 0 FROM {_values(rows, 6)} WHERE column1 > 0"
    )


@functools.cache
def _insert(rows: int) -> str:
    return (
        "INSERT OR ROLLBACK INTO requests (key, attempt, cancel, accepted_ms, id, digest,"
        f" method, timeout, traceparent, params) SELECT * FROM {_values(rows, 10)}"
        " WHERE column1 > 0"
    )


@functools.cache
def _mark(rows: int) -> str:
    return (
        f"UPDATE OR ROLLBACK requests SET attempt = max(attempt, column2) FROM {_values(rows, 2)}"
        " WHERE key = column1 AND ending IS NULL"
    )


@functools.cache
def _settle(rows: int) -> str:
    return (
        "UPDATE OR ROLLBACK requests SET ending = column2, outcome = column3,"
        f" settled_ms = column4 FROM {_values(rows, 4)}"
        " WHERE key = column1 AND ending IS NULL"
    )


@functools.cache
def _tally(rows: int) -> str:
    return (
        "SELECT n, acked, count(key), total(ending = 'done'), total(ending = 'failed'),"
        f" total(ending = 'cancelled') FROM {_values(rows, 2)} JOIN sessions ON n = column1"
        f" LEFT JOIN requests ON key > (n << {SEQ_BITS} | acked)"
        f" AND key <= (n << {SEQ_BITS} | column2) GROUP BY n"
    )


@functools.cache
def _delete(rows: int) -> str:
    return (
        f"DELETE FROM requests WHERE key IN (SELECT key FROM {_values(rows, 2)}"
        " JOIN requests ON key >= column1 AND key <= column2)"
    )


@functools.cache
def _strip(rows: int) -> str:
    return (
        f"UPDATE OR ROLLBACK requests SET {STRIPPED} FROM {_values(rows, 2)}"
        " WHERE key > column1 AND key <= column2"
    )


@functools.cache
def _forget(rows: int) -> str:
    return (
        "UPDATE OR ROLLBACK sessions SET acked = column2, done = done + column3,"
        f" failed = failed + column4, cancelled = cancelled + column5 FROM {_values(rows, 5)}"
        " WHERE n = column1"
    )


STRIPPED = (
    "ending = '', method = '', timeout = NULL, traceparent = NULL, params = NULL,"
    " outcome = NULL, settled_ms = NULL, attempt = 0, cancel = 0"
)
