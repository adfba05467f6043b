"""What is in the SQLite file, and how a connection to it is made.

What is committed goes into the log first (see :mod:`.sqlite_log`); all the rest of the file is
as it was before what is there. Consecutive requests of a session are then one row, a run (see
:mod:`.sqlite_runs`); so are outcomes. Both are in one table, whose key is the session's number,
the ``seq`` of the first and which of the two it is: what a session does next is beside what it
did last, on the same page, and pages are what it costs. No second index is ever written
to, and no run written again. Once all of a run is acknowledged it goes, and what a late repeat
is recognised by is left in another table, a hundred requests to a page.
Pages that deleted rows leave are used again; the file does not shrink by itself, and stops
growing where as much is acknowledged as is accepted.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

VERSION = 4

SEQ_BITS = 34
MAX_SEQ = (1 << SEQ_BITS) - 1
MAX_NUMBER = (1 << (62 - SEQ_BITS)) - 1

LOG = """\
CREATE TABLE log (
    n      INTEGER PRIMARY KEY,
    writes BLOB NOT NULL         -- requests, outcomes, marks and acknowledgements of many sessions
);"""

JOURNAL = f"""
{LOG}
CREATE TABLE sessions (
    n          INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    user       TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    attach     INTEGER NOT NULL,
    node       TEXT,
    accepted   INTEGER NOT NULL DEFAULT 0,
    settled    INTEGER NOT NULL DEFAULT 0,
    acked      INTEGER NOT NULL DEFAULT 0,
    forgotten  INTEGER NOT NULL DEFAULT 0,  -- requests up to this one are not known any more
    done       INTEGER NOT NULL DEFAULT 0,
    failed     INTEGER NOT NULL DEFAULT 0,
    cancelled  INTEGER NOT NULL DEFAULT 0,
    clean      INTEGER NOT NULL DEFAULT 0,
    open       INTEGER NOT NULL DEFAULT 0,
    state      TEXT NOT NULL DEFAULT 'live',
    created_ms INTEGER NOT NULL,
    left_ms    INTEGER NOT NULL,
    held       INTEGER NOT NULL DEFAULT 0,
    receipt    BLOB
);
CREATE INDEX sessions_unfinished ON sessions (n) WHERE node IS NULL AND open = 1;
CREATE TABLE runs (
    key    INTEGER PRIMARY KEY,  -- (session's n << 34 | seq of the first) << 1 | 1 for outcomes
    count  INTEGER NOT NULL,
    head   BLOB NOT NULL,        -- ids, digests, methods; of outcomes the text 'dfc…'
    bodies BLOB NOT NULL         -- last: what is behind it is reached only through its pages
);
CREATE TABLE marks (
    key     INTEGER PRIMARY KEY,  -- session's n << 34 | seq
    attempt INTEGER NOT NULL,
    cancel  INTEGER NOT NULL
);
CREATE TABLE stripped (
    key   INTEGER PRIMARY KEY,  -- session's n << 34 | seq of the first
    count INTEGER NOT NULL,
    names BLOB NOT NULL         -- the head of its run, which was acknowledged
);
"""

SCHEMA = f"""{JOURNAL}CREATE TABLE users (
    name          TEXT PRIMARY KEY,
    password_hash BLOB NOT NULL,
    generation    INTEGER NOT NULL,
    admin         INTEGER NOT NULL,
    created_ms    INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE commands (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,
    verb       TEXT NOT NULL,
    target     TEXT NOT NULL,
    argument   TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
"""

# To acknowledge is to add a row to this: it strips the runs of a session that end up to `last`,
# and forgets those up to `gone`. Ranges of many sessions can be joined to a table in one
# statement, but deleting what was joined takes twice as long (a tenth of a commit's time,
# measured). What is acknowledged only in part counts as acknowledged by its session's row.
_FIRST = f"new.last >> {SEQ_BITS} << {SEQ_BITS}"
_RUNS = f"""
    FROM runs WHERE key >= ({_FIRST}) << 1 AND key <= new.last << 1 | 1
                    AND (key >> 1) + count <= new.last + 1"""
_ACKNOWLEDGED = f"""
CREATE TEMP VIEW acknowledged (last, gone) AS SELECT 0, 0 WHERE 0;
CREATE TEMP TRIGGER acknowledging INSTEAD OF INSERT ON acknowledged BEGIN
    INSERT INTO stripped SELECT key >> 1, count, head {_RUNS} AND NOT key & 1;
    DELETE {_RUNS};
    DELETE FROM marks WHERE key >= {_FIRST} AND key <= new.last;
    DELETE FROM stripped
        WHERE key >= {_FIRST} AND key <= new.gone AND key + count <= new.gone + 1;
END;
"""


def connect(path: Path, busy_ms: int, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to a file that was prepared; waits ``busy_ms`` for locks."""
    db = sqlite3.connect(path, timeout=busy_ms / 1000, isolation_level=None, cached_statements=256)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA temp_store = MEMORY")
        # Debian's SQLite overwrites pages that become free, unless told not to where that is
        # all that they would be written for: a third of the time with bodies of 10 KiB (measured).
        db.execute("PRAGMA secure_delete = FAST")
        # Only where `checkpoint` doesn't keep up: this one holds up the commit that it hits.
        db.execute("PRAGMA wal_autocheckpoint = 8000")
        db.execute("PRAGMA journal_size_limit = 67108864")
        if read_only:
            db.execute("PRAGMA query_only = ON")
        else:
            # In KiB; against SQLite's own 2,000 a request costs an eighth less where two million
            # outcomes are kept, a fourteenth less in a small file (measured).
            db.execute("PRAGMA cache_size = -16000")
            db.executescript(_ACKNOWLEDGED)
    except BaseException:
        db.close()
        raise
    return db
