"""Files of older formats, brought up to today's within the transaction that is open.

Format 1 had a request and its outcome in one row, format 2 a row for either; since format 3
they stand in runs. Format 4 has a log in front of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

from .port import Outcome, RequestRow
from .sqlite_runs import outcome_runs, packed, request_runs
from .sqlite_schema import JOURNAL, LOG, SEQ_BITS

# In format 1 a row had its outcome too, or nothing but an empty ending. Half an outcome is none.
_FROM_1 = """
ALTER TABLE requests RENAME TO requests_1;
CREATE TABLE requests (key INTEGER PRIMARY KEY, attempt, cancel, accepted_ms, id, digest, method,
                       timeout, traceparent, params);
INSERT INTO requests
    SELECT key, attempt, cancel, accepted_ms, id, digest, method, timeout, traceparent, params
    FROM requests_1 WHERE ending IS NOT '';
CREATE TABLE outcomes (key INTEGER PRIMARY KEY, ending, settled_ms, body);
INSERT INTO outcomes
    SELECT key, ending, settled_ms, outcome FROM requests_1
    WHERE ending > '' AND settled_ms IS NOT NULL AND outcome IS NOT NULL;
CREATE TABLE stripped (key INTEGER PRIMARY KEY, id, digest);
INSERT INTO stripped SELECT key, id, digest FROM requests_1 WHERE ending = '';
DROP TABLE requests_1;
"""

_BITS_2 = 35
_SEQ_2 = (1 << _BITS_2) - 1
# All of these operators bind alike.
_NUMBER = f"(key >> {_BITS_2} << {SEQ_BITS}) | (key & {_SEQ_2})"
_COLUMNS = (
    "n, id, user, epoch, attach, node, accepted, settled, acked, done, failed, cancelled, clean,"
    " open, state, created_ms, left_ms, held, receipt"
)
_FROM_2 = f"""
DROP INDEX sessions_unfinished;
ALTER TABLE sessions RENAME TO sessions_2;
ALTER TABLE requests RENAME TO requests_2;
ALTER TABLE outcomes RENAME TO outcomes_2;
ALTER TABLE stripped RENAME TO stripped_2;
{JOURNAL.strip()}
INSERT INTO sessions ({_COLUMNS}, forgotten)
    SELECT {_COLUMNS}, min(acked, ifnull((
        SELECT min(key) & {_SEQ_2} FROM stripped_2
        WHERE key > n << {_BITS_2} AND key <= (n << {_BITS_2} | acked)) - 1, acked))
    FROM sessions_2;
INSERT INTO marks SELECT {_NUMBER}, attempt, cancel FROM requests_2 WHERE attempt OR cancel;
"""
_LEFT_OF_2 = """
DROP TABLE sessions_2;
DROP TABLE requests_2;
DROP TABLE outcomes_2;
DROP TABLE stripped_2;
"""

_MOST_ROWS = 256

_Row = tuple[Any, ...]


def run(db: sqlite3.Connection, script: str) -> None:
    """Its statements, one by one: ``executescript`` would end the transaction."""
    for statement in script.split(";\n"):
        db.execute(statement)


def upgrade(db: sqlite3.Connection, version: int) -> None:
    if version == 3:
        run(db, LOG)
        return
    if version == 1:
        run(db, _FROM_1)
    run(db, _FROM_2)
    insert = "INSERT INTO runs VALUES (?, ?, ?, ?)"
    found = db.execute(
        "SELECT key, id, digest, method, params, accepted_ms, timeout, traceparent"
        " FROM requests_2 ORDER BY key"
    )
    for base, first, rows in _consecutive(found):
        requests = [RequestRow(first + i, *row) for i, row in enumerate(rows)]
        db.executemany(insert, _fours(request_runs(base, requests)))
    found = db.execute("SELECT key, ending, body, settled_ms FROM outcomes_2 ORDER BY key")
    for base, first, rows in _consecutive(found):
        outcomes = [Outcome(first + i, "", *row[:2]) for i, row in enumerate(rows)]
        db.executemany(insert, _fours(outcome_runs(base, outcomes, [row[2] for row in rows])))
    found = db.execute("SELECT key, id, digest, '' FROM stripped_2 ORDER BY key")
    for base, first, rows in _consecutive(found):
        values = (base | first, len(rows), packed(rows))
        db.execute("INSERT INTO stripped VALUES (?, ?, ?)", values)
    run(db, _LEFT_OF_2)


def _consecutive(found: Iterable[_Row]) -> Iterator[tuple[int, int, list[_Row]]]:
    """Runs of rows: their session's number, shifted, the seq of the first, and the rows without
    their keys."""
    first = 0
    rows: list[_Row] = []
    for key, *row in found:
        if rows and (key != first + len(rows) or len(rows) == _MOST_ROWS):
            yield first >> _BITS_2 << SEQ_BITS, first & _SEQ_2, rows
            rows = []
        if not rows:
            first = key
        rows.append(tuple(row))
    if rows:
        yield first >> _BITS_2 << SEQ_BITS, first & _SEQ_2, rows


def _fours(values: Sequence[Any]) -> Iterator[_Row]:
    each = iter(values)
    return zip(*repeat(each, 4), strict=True)
