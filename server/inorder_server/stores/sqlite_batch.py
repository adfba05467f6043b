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
from typing import Any

from .port import Acknowledge, Create, Insert, MarkStart, Settle
from .sqlite_owned import Owned
from .sqlite_schema import MAX_SEQ, SEQ_BITS

Usual = Create | Insert | Settle | MarkStart | Acknowledge
USUAL = frozenset({Create, Insert, Settle, MarkStart, Acknowledge})

_MOST_ROWS = 512
_NOTHING = -1
_SMALL = 4096  # bytes, up to which a copy costs less than binding what is there

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
    """A group's writes, sorted by kind: the values of their rows, one behind the other."""

    def __init__(self, db: sqlite3.Connection, owned: Owned) -> None:
        self._db = db
        self._owned = owned
        self._sessions: dict[str, _Progress] = {}
        self._creates: list[Any] = []
        self._plain_inserts: list[Any] = []
        self._inserts: list[Any] = []
        self._marks: list[Any] = []
        self._settles: list[Any] = []
        self._bytes = 0

    def apply(self, writes: Sequence[Usual]) -> bool:
        """Does them all, within the transaction that is open.

        False where not every one of them matched: then that transaction is to be rolled
        back, or was already.
        """
        if not self._take(writes):
            return False
        node = self._owned.node
        progress: list[Any] = []
        for s in self._sessions.values():
            progress += (
                s.n,
                s.epoch,
                node,
                s.first_accepted - 1 if s.accepted else _NOTHING,
                s.accepted or _NOTHING,
                s.first_settled - 1 if s.settled else _NOTHING,
                s.settled or _NOTHING,
            )
        try:
            fits = (
                self._all_match(_create, 7, self._creates)
                and self._all_match(_progress, 7, progress)
                and self._all_match(_insert_plain, 6, self._plain_inserts)
                and self._all_match(_insert, 10, self._inserts)
                and self._all_match(_mark, 2, self._marks)
                and self._all_match(_settle, 4, self._settles)
                and self._acknowledge([s for s in self._sessions.values() if s.acked])
            )
        except sqlite3.IntegrityError:
            return False
        if fits:
            self._owned.numbers.update((id, s.n) for id, s in self._sessions.items())
            self._owned.logged += 2 + 2 * len(self._sessions) + self._bytes // 4096
        return fits

    def _take(self, writes: Sequence[Usual]) -> bool:
        """Whether all can be done together, each kind at once.

        Nearly all are of two kinds, which are seen to right here: with a call for each, and a
        tuple for each row, Python's part took a quarter more (measured).
        """
        inserts, settles = self._plain_inserts, self._settles
        size = 0
        for w in writes:
            s = self._sessions.get(w.session) or self._session_of(w)
            if s is None or s.epoch != w.epoch:
                return False
            if type(w) is Insert:
                row = w.row
                seq = row.seq
                if not s.accepted:
                    s.first_accepted = seq
                elif seq != s.accepted + 1:
                    return False
                if not s.touched < seq <= MAX_SEQ:
                    return False
                s.accepted = seq
                if row.params is not None:
                    size += len(row.params)
                if row.timeout is None is row.traceparent and not (row.attempt or row.cancel):
                    inserts += (
                        s.base | seq,
                        row.accepted_ms,
                        row.id,
                        bytearray(row.digest),
                        row.method,
                        _blob(row.params),
                    )
                else:
                    self._inserts += insert_values(s.base, w)
            elif type(w) is Settle:
                seq = w.seq
                if not s.settled:
                    s.first_settled = seq
                elif seq != s.settled + 1:
                    return False
                if not s.acked < seq <= MAX_SEQ:
                    return False
                s.settled = seq
                if s.touched < seq:
                    s.touched = seq
                size += len(w.body)
                settles += (s.base | seq, w.ending, _blob(w.body), w.at_ms)
            elif not self._take_another(s, w):
                return False
        self._bytes = size
        return True

    def _session_of(self, w: Usual) -> _Progress | None:
        n: int | None
        if type(w) is not Create:
            n = self._owned.number(self._db, w.session)
        elif w.node == self._owned.node:
            n = self._owned.next_number(self._db)
        else:
            n = None
        if n is None:
            return None
        s = self._sessions[w.session] = _Progress(n, w.epoch)
        return s

    def _take_another(self, s: _Progress, w: Usual) -> bool:
        if type(w) is Create:
            self._creates += (s.n, w.session, w.user, w.epoch, w.attach, w.node, w.at_ms)
            return True  # one that is there already is refused by the table
        if type(w) is MarkStart:
            self._marks += (s.base | w.seq, w.attempt)
            s.touched = max(s.touched, w.seq)
            return s.settled < w.seq <= MAX_SEQ
        if type(w) is Acknowledge:
            if w.seq > s.acked:
                s.acked, s.keep = w.seq, w.keep
            return 0 < w.seq <= MAX_SEQ
        return False

    def _acknowledge(self, sessions: Sequence[_Progress]) -> bool:
        by_number = {s.n: s for s in sessions}
        asked: list[Any] = []
        for s in sessions:
            asked += (s.n, s.acked)
        moved: list[Any] = []
        tallies: list[Any] = []
        for part in _parts(asked, 2):
            for n, acked, rows, done, failed, cancelled in self._run(_tally, 2, part):
                s = by_number[n]
                if s.acked <= acked:
                    continue
                if rows != s.acked - acked or done + failed + cancelled != rows:
                    return False
                moved += (s.base | acked + 1, s.base | s.acked, s.base | max(s.acked - s.keep, 0))
                tallies += (n, s.acked, int(done), int(failed), int(cancelled))
        for part in _parts(moved, 3):
            self._run(_strip, 3, part)
        return self._all_match(_forget, 5, tallies)

    def _all_match(self, statement: _Statement, columns: int, values: list[Any]) -> bool:
        return all(
            self._run(statement, columns, part).rowcount * columns == len(part)
            for part in _parts(values, columns)
        )

    def _run(self, statement: _Statement, columns: int, values: list[Any]) -> sqlite3.Cursor:
        rows = len(values) // columns
        size = 1 << (rows - 1).bit_length()
        if rows < size:
            values = values + [_NOTHING] * (columns * (size - rows))
        return self._db.execute(statement(size), values)


def _parts(values: list[Any], columns: int) -> list[list[Any]]:
    """For one statement each."""
    most = _MOST_ROWS * columns
    return [values[i : i + most] for i in range(0, len(values), most)]


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
        " WHERE key = column1 AND NOT EXISTS (SELECT 1 FROM outcomes WHERE key = column1)"
    )


@functools.cache
def _settle(rows: int) -> str:
    return (
        "INSERT OR ROLLBACK INTO outcomes (key, ending, body, settled_ms)"
        f" SELECT * FROM {_values(rows, 4)} WHERE column1 > 0"
    )


@functools.cache
def _tally(rows: int) -> str:
    within = f"WHERE key > (n << {SEQ_BITS} | acked) AND key <= (n << {SEQ_BITS} | column2)"
    ended = f"(SELECT count(*) FROM outcomes {within} AND ending = '{{}}')"
    return (
        f"SELECT n, acked, (SELECT count(*) FROM requests {within}), {ended.format('done')},"
        f" {ended.format('failed')}, {ended.format('cancelled')}"
        f" FROM {_values(rows, 2)} JOIN sessions ON n = column1"
    )


@functools.cache
def _strip(rows: int) -> str:
    return (
        "INSERT OR ROLLBACK INTO acknowledged (first, last, gone)"
        f" SELECT * FROM {_values(rows, 3)} WHERE column1 > 0"
    )


@functools.cache
def _forget(rows: int) -> str:
    return (
        "UPDATE OR ROLLBACK sessions SET acked = column2, done = done + column3,"
        f" failed = failed + column4, cancelled = cancelled + column5 FROM {_values(rows, 5)}"
        " WHERE n = column1"
    )
