"""The usual writes of a group, each kind in one statement.

A statement a row would cost little by itself, but each gives up the interpreter's lock and
has to win it back from a busy event loop: with 800 rows that takes a hundred times longer
than the work (measured). So many rows are bound to one statement. Those that are missing to
a round number, for which the statement is prepared already, are filled with -1, a key that
nothing has.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from .port import Acknowledge, Create, Insert, MarkStart, RequestRow, Settle
from .sqlite_owned import Owned
from .sqlite_runs import counting, outcome_runs, request_runs, tallied
from .sqlite_schema import MAX_SEQ, SEQ_BITS

Usual = Create | Insert | Settle | MarkStart | Acknowledge
USUAL = frozenset({Create, Insert, Settle, MarkStart, Acknowledge})

_MOST_ROWS = 512
_NOTHING = -1

_Statement = Callable[[int], str]


class _Progress:
    """How far a group takes a session; 0 where it doesn't move."""

    __slots__ = (
        "accepted", "acked", "base", "epoch", "keep", "n", "rows", "settled", "settles", "touched",
    )  # fmt: skip

    def __init__(self, n: int, epoch: int) -> None:
        self.n = n
        self.base = n << SEQ_BITS
        self.epoch = epoch
        self.rows: list[RequestRow] = []
        self.settles: list[Settle] = []
        self.accepted = self.settled = 0
        self.acked = self.keep = 0
        # What is marked or settled before it is there is for the other way to refuse.
        self.touched = 0


class Batch:
    """A group's writes, sorted by session and kind."""

    def __init__(self, db: sqlite3.Connection, owned: Owned) -> None:
        self._db = db
        self._owned = owned
        self._sessions: dict[str, _Progress] = {}
        self._creates: list[Any] = []
        self._marks: list[tuple[_Progress, MarkStart]] = []

    def apply(self, writes: Sequence[Usual]) -> bool:
        """Does them all, within the transaction that is open.

        False where not every one of them matched: then that transaction is to be rolled
        back, or was already.
        """
        if not self._take(writes):
            return False
        node = self._owned.node
        progress: list[Any] = []
        runs: list[Any] = []
        for s in self._sessions.values():
            progress += (
                s.n,
                s.epoch,
                node,
                s.rows[0].seq - 1 if s.rows else _NOTHING,
                s.accepted or _NOTHING,
                s.settles[0].seq - 1 if s.settles else _NOTHING,
                s.settled or _NOTHING,
            )
            # In the order of their keys, as they mostly are.
            if s.settles:
                runs += outcome_runs(s.base, s.settles)
            if s.rows:
                runs += request_runs(s.base, s.rows)
        marks = [v for s, w in self._marks for v in (s.base | w.seq, w.attempt, len(s.settles))]
        try:
            fits = (
                self._all_match(_create, 7, self._creates)
                and self._all_match(_progress, 7, progress)
                and self._all_match(_insert, 4, runs)
                and self._all_match(_mark, 3, marks)
                and self._acknowledge([s for s in self._sessions.values() if s.acked])
            )
        except sqlite3.IntegrityError:
            return False
        if fits:
            self._owned.numbers.update((id, s.n) for id, s in self._sessions.items())
            bodies = sum(map(len, runs[3::4]))
            self._owned.logged += 2 + len(self._sessions) * 3 // 2 + bodies // 2048
        return fits

    def _take(self, writes: Sequence[Usual]) -> bool:
        """Whether all can be done together, each kind at once.

        Nearly all are of two kinds, which are seen to right here, without a call for each.
        """
        id = ""
        s: _Progress | None = None
        for w in writes:
            if w.session is not id:
                id = w.session
                s = self._sessions.get(id) or self._session_of(w)
            if s is None or s.epoch != w.epoch:
                return False
            if type(w) is Insert:
                row = w.row
                seq = row.seq
                if seq != s.accepted + 1 and s.rows:
                    return False
                if not s.touched < seq <= MAX_SEQ or row.attempt or row.cancel:
                    return False
                s.accepted = seq
                s.rows.append(row)
            elif type(w) is Settle:
                seq = w.seq
                if seq != s.settled + 1 and s.settles:
                    return False
                if not s.acked < seq <= MAX_SEQ:
                    return False
                s.settled = seq
                if s.touched < seq:
                    s.touched = seq
                s.settles.append(w)
            elif not self._take_another(s, w):
                return False
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
            self._marks.append((s, w))
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
            for n, acked, requests, letters in self._run(_count, 2, part):
                s = by_number[n]
                if s.acked <= acked:
                    continue
                tally = tallied(letters)
                if requests != s.acked - acked or sum(tally) != requests:
                    return False
                gone = max(s.acked - s.keep, 0)
                moved += (s.base | s.acked, s.base | gone)
                tallies += (n, s.acked, gone, *tally)
        for part in _parts(moved, 2):
            self._run(_strip, 2, part)
        return self._all_match(_forget, 6, tallies)

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
def _insert(rows: int) -> str:
    return f"INSERT OR ROLLBACK INTO runs SELECT * FROM {_values(rows, 4)} WHERE column1 > 0"


@functools.cache
def _mark(rows: int) -> str:
    # Column 3 is how far the group took `settled`: it may settle what it marks.
    return (
        "INSERT OR ROLLBACK INTO marks (key, attempt, cancel)"
        f" SELECT column1, column2, 0 FROM {_values(rows, 3)}"
        f" JOIN sessions ON n = column1 >> {SEQ_BITS}"
        f" WHERE (column1 & {MAX_SEQ}) > settled - column3 AND (column1 & {MAX_SEQ}) <= accepted"
        " ON CONFLICT (key) DO UPDATE SET attempt = max(attempt, excluded.attempt)"
    )


@functools.cache
def _count(rows: int) -> str:
    base = f"n << {SEQ_BITS}"
    columns = counting(base, f"{base} | acked", f"{base} | column2")
    return f"SELECT n, acked, {columns} FROM {_values(rows, 2)} JOIN sessions ON n = column1"


@functools.cache
def _strip(rows: int) -> str:
    return (
        "INSERT OR ROLLBACK INTO acknowledged (last, gone)"
        f" SELECT * FROM {_values(rows, 2)} WHERE column1 > 0"
    )


@functools.cache
def _forget(rows: int) -> str:
    return (
        "UPDATE OR ROLLBACK sessions SET acked = column2, forgotten = max(forgotten, column3),"
        " done = done + column4, failed = failed + column5, cancelled = cancelled + column6"
        f" FROM {_values(rows, 6)} WHERE n = column1"
    )
