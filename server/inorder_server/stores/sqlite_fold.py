"""What was only in the log becomes rows: for many sessions at once, each kind in one statement.

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

from .port import Create, RequestRow
from .sqlite_owned import Standing
from .sqlite_runs import LETTERS, counting, outcome_runs, packed, request_runs, tallied
from .sqlite_schema import MAX_SEQ, SEQ_BITS

_MOST_ROWS = 512
_MOST_NAMES = 256
_NOTHING = -1

_Statement = Callable[[int], str]


def fold(db: sqlite3.Connection, standings: Sequence[Standing]) -> bool:
    """Writes what these sessions' rows lack, within the transaction that is open.

    False where what is there doesn't match: then that transaction is to be rolled back, or was
    already. The standings are as they were; who commits clears them.
    """
    progress: list[Any] = []
    runs: list[Any] = []
    marks: list[Any] = []
    acknowledged: list[Standing] = []
    for s in standings:
        rows, outcomes, settled_ms = s.rows, s.outcomes, s.settled_ms
        progress += (
            s.n,
            s.epoch,
            s.node,
            rows[0].seq - 1 if rows else _NOTHING,
            s.accepted if rows else _NOTHING,
            outcomes[0].seq - 1 if outcomes else _NOTHING,
            s.settled if outcomes else _NOTHING,
        )
        # What is acknowledged already never becomes a run.
        if s.acked > s.stripped:
            acknowledged.append(s)
            done = _upto(s.acked, outcomes)
            outcomes, settled_ms = outcomes[done:], settled_ms[done:]
            rows = rows[_upto(s.acked, rows) :]
        # In the order of their keys, as they mostly are.
        if outcomes:
            runs += outcome_runs(s.base, outcomes, settled_ms)
        if rows:
            runs += request_runs(s.base, rows)
        for w in s.marks:
            if w.seq > s.acked:
                marks += (s.base | w.seq, w.attempt, len(s.outcomes))
    try:
        return (
            _all_match(db, _progress, 7, progress)
            and _all_match(db, _insert, 4, runs)
            and _all_match(db, _mark, 3, marks)
            and _acknowledge(db, acknowledged)
        )
    except sqlite3.IntegrityError:
        return False


def create_all(db: sqlite3.Connection, numbers: Sequence[int], creates: Sequence[Create]) -> bool:
    """Makes the rows of new sessions that have these numbers. False where one is there."""
    values: list[Any] = []
    for n, w in zip(numbers, creates, strict=True):
        values += (n, w.session, w.user, w.epoch, w.attach, w.node, w.at_ms)
    try:
        return _all_match(db, _create, 7, values)
    except sqlite3.IntegrityError:
        return False


def _upto(seq: int, consecutive: Sequence[Any]) -> int:
    """How many of these don't come behind ``seq``."""
    return max(seq - consecutive[0].seq + 1, 0) if consecutive else 0


def _acknowledge(db: sqlite3.Connection, standings: Sequence[Standing]) -> bool:
    by_number = {s.n: s for s in standings}
    asked: list[Any] = []
    for s in standings:
        asked += (s.n, s.acked)
    moved: list[Any] = []
    tallies: list[Any] = []
    names: list[Any] = []
    for part in _parts(asked, 2):
        for n, acked, requests, letters in _run(db, _count, 2, part):
            s = by_number.pop(n)
            rows = s.rows[: _upto(s.acked, s.rows)]
            ended = s.outcomes[: _upto(s.acked, s.outcomes)]
            tally = tallied((letters or "") + "".join([LETTERS.get(o.ending, "?") for o in ended]))
            total = s.acked - s.stripped
            if acked != s.stripped or requests + len(rows) != total or sum(tally) != total:
                return False
            gone = max(s.acked - s.keep, 0)
            moved += (s.base | s.acked, s.base | gone)
            tallies += (n, s.acked, gone, *tally)
            names += _names(s.base, rows[_upto(gone, rows) :])
    if by_number:
        return False
    for part in _parts(moved, 2):
        _run(db, _strip, 2, part)
    return _all_match(db, _strip_names, 3, names) and _all_match(db, _forget, 6, tallies)


def _names(base: int, rows: Sequence[RequestRow]) -> list[Any]:
    values: list[Any] = []
    for i in range(0, len(rows), _MOST_NAMES):
        part = rows[i : i + _MOST_NAMES]
        names = packed([(r.id, r.digest, r.method) for r in part])
        values += (base | part[0].seq, len(part), names)
    return values


def _all_match(
    db: sqlite3.Connection, statement: _Statement, columns: int, values: list[Any]
) -> bool:
    return all(
        _run(db, statement, columns, part).rowcount * columns == len(part)
        for part in _parts(values, columns)
    )


def _run(
    db: sqlite3.Connection, statement: _Statement, columns: int, values: list[Any]
) -> sqlite3.Cursor:
    rows = len(values) // columns
    size = 1 << (rows - 1).bit_length()
    if rows < size:
        values = values + [_NOTHING] * (columns * (size - rows))
    return db.execute(statement(size), values)


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
    # Column 3 is how far `settled` was taken: what was marked may be settled by now.
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
def _strip_names(rows: int) -> str:
    return f"INSERT OR ROLLBACK INTO stripped SELECT * FROM {_values(rows, 3)} WHERE column1 > 0"


@functools.cache
def _forget(rows: int) -> str:
    return (
        "UPDATE OR ROLLBACK sessions SET acked = column2, forgotten = max(forgotten, column3),"
        " done = done + column4, failed = failed + column5, cancelled = cancelled + column6"
        f" FROM {_values(rows, 6)} WHERE n = column1"
    )
