"""Inserts and settles of a group, each kind in one statement.

A statement a row would cost little by itself, but every one gives up the interpreter's
lock and has to win it back from a busy event loop: with 800 rows that takes a hundred times
longer than the work (measured). So many rows are bound to one statement; those that are
missing to a round number, for which the statement is prepared already, are NULL and left
out.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from .port import Insert, Settle
from .sqlite_owned import Owned
from .sqlite_schema import MAX_SEQ, SEQ_BITS

_MOST_ROWS = 512

# Without OR ROLLBACK a statement that may fail half-way keeps a copy of every page it
# changes, to undo itself: half as much work again.


@functools.cache
def _insert(rows: int) -> str:
    return (
        "INSERT OR ROLLBACK INTO requests (key, attempt, cancel, accepted_ms, id, digest,"
        f" method, timeout, traceparent, params) SELECT * FROM ({_rows(rows, 10)})"
        " WHERE column1 IS NOT NULL"
    )


@functools.cache
def _settle(rows: int) -> str:
    return (
        "UPDATE OR ROLLBACK requests SET ending = column2, outcome = column3,"
        f" settled_ms = column4 FROM ({_rows(rows, 4)})"
        " WHERE key = column1 AND ending IS NULL"
    )


@functools.cache
def _advance(rows: int) -> str:
    # 3 and 4: accepted before and after, 5 and 6: settled; NULL where it stays as it is.
    return (
        "UPDATE OR ROLLBACK sessions SET accepted = ifnull(column4, accepted),"
        " settled = ifnull(column6, settled), open = open OR column4 IS NOT NULL"
        f" FROM ({_rows(rows, 7)})"
        " WHERE n = column1 AND epoch = column2 AND node = column7 AND state = 'live'"
        " AND accepted = ifnull(column3, accepted) AND settled = ifnull(column5, settled)"
        " AND ifnull(column6, settled) <= ifnull(column4, accepted)"
    )


def _rows(rows: int, columns: int) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return "VALUES " + ",".join([row] * rows)


def _all_match(
    db: sqlite3.Connection,
    statement: Callable[[int], str],
    rows: Sequence[tuple[Any, ...]],
) -> bool:
    for i in range(0, len(rows), _MOST_ROWS):
        part = rows[i : i + _MOST_ROWS]
        size = 1 << (len(part) - 1).bit_length()
        values = list(chain.from_iterable(part))
        values += [None] * (len(part[0]) * (size - len(part)))
        if db.execute(statement(size), values).rowcount != len(part):
            return False
    return True


class _Advance:
    """How far a group takes a session."""

    __slots__ = ("accepted", "base", "epoch", "first_accepted", "first_settled", "n", "settled")

    def __init__(self, n: int, epoch: int) -> None:
        self.n = n
        self.base = n << SEQ_BITS
        self.epoch = epoch
        self.first_accepted = self.accepted = 0
        self.first_settled = self.settled = 0


def apply_together(db: sqlite3.Connection, owned: Owned, writes: Sequence[Insert | Settle]) -> bool:
    """Does them all, within the transaction. False where not every one matched: then the
    transaction is to be rolled back, or was."""
    sessions: dict[str, _Advance] = {}
    inserts = []
    settles = []
    for w in writes:
        s = sessions.get(w.session)
        if s is None:
            n = owned.number(db, w.session)
            if n is None:
                return False
            s = sessions[w.session] = _Advance(n, w.epoch)
        elif s.epoch != w.epoch:
            return False
        if type(w) is Insert:
            seq = w.row.seq
            if not s.accepted:
                s.first_accepted = seq
            elif seq != s.accepted + 1:
                return False
            s.accepted = seq
            inserts.append(insert_values(s.base, w))
        else:
            assert type(w) is Settle
            seq = w.seq
            if not s.settled:
                s.first_settled = seq
            elif seq != s.settled + 1:
                return False
            s.settled = seq
            settles.append((s.base | seq, w.ending, w.body, w.at_ms))
        if seq > MAX_SEQ:
            return False
    advances = []
    for s in sessions.values():
        before, after = (s.first_accepted - 1, s.accepted) if s.accepted else (None, None)
        first, last = (s.first_settled - 1, s.settled) if s.settled else (None, None)
        advances.append((s.n, s.epoch, before, after, first, last, owned.node))
    try:
        return (
            _all_match(db, _advance, advances)
            and _all_match(db, _insert, inserts)
            and _all_match(db, _settle, settles)
        )
    except sqlite3.IntegrityError:
        return False


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
