"""The SQLite file: its tables, and how a connection to it is made and checked.

A request's key is its session's number and its ``seq`` in one integer, so that the rows of
a session lie side by side in the table's own tree and no second index is ever written to.
Its outcome has a row of its own: to change a row is to write it again, params, overflow pages
and all. Once acknowledged both go, and what a late repeat is recognised by is left in a third
table, a hundred of them to a page.
Pages that deleted rows leave are used again; the file does not shrink by itself, and stops
growing where as much is acknowledged as is accepted.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from .port import StoreError
from .sqlite_lock import ServingLock

APPLICATION_ID = 0x696E6F72  # "inor": tells this file from other programs' databases
VERSION = 2

SEQ_BITS = 35
MAX_SEQ = (1 << SEQ_BITS) - 1
MAX_NUMBER = (1 << (63 - SEQ_BITS)) - 1

# Of a new file, in bytes. Against SQLite's own 4096 a request costs a sixth less, one of 100
# bytes as well as one of 200 KiB (measured).
_PAGE_SIZE = 8192

# What may be long stands last: a column behind it is reached only through its overflow pages.
_REQUESTS = """
CREATE TABLE requests (
    key         INTEGER PRIMARY KEY,  -- session's n << 35 | seq
    attempt     INTEGER NOT NULL,
    cancel      INTEGER NOT NULL,
    accepted_ms INTEGER NOT NULL,
    id          TEXT NOT NULL,
    digest      BLOB NOT NULL,
    method      TEXT NOT NULL,
    timeout     REAL,
    traceparent TEXT,
    params      BLOB
);
CREATE TABLE outcomes (
    key        INTEGER PRIMARY KEY,  -- its request's
    ending     TEXT NOT NULL,        -- done, failed or cancelled
    settled_ms INTEGER NOT NULL,
    body       BLOB NOT NULL
);
CREATE TABLE stripped (
    key    INTEGER PRIMARY KEY,  -- its request's, which was acknowledged
    id     TEXT NOT NULL,
    digest BLOB NOT NULL
);
"""

SCHEMA = f"""
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
{_REQUESTS.strip()}
CREATE TABLE users (
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

# From format 1, in which a row had its outcome too, or nothing but an empty ending. Half an
# outcome is none.
_FROM_1 = f"""
ALTER TABLE requests RENAME TO requests_1;
{_REQUESTS.strip()}
INSERT INTO requests
    SELECT key, attempt, cancel, accepted_ms, id, digest, method, timeout, traceparent, params
    FROM requests_1 WHERE ending IS NOT '';
INSERT INTO outcomes
    SELECT key, ending, settled_ms, outcome FROM requests_1
    WHERE ending > '' AND settled_ms IS NOT NULL AND outcome IS NOT NULL;
INSERT INTO stripped SELECT key, id, digest FROM requests_1 WHERE ending = '';
DROP TABLE requests_1;
"""

# To acknowledge is to add a row to this: it strips the requests from key `first` to `last`, and
# forgets those of the session up to `gone`. Ranges of many sessions can be joined to a table in
# one statement, but deleting what was joined takes twice as long (a tenth of a commit's time,
# measured).
_ACKNOWLEDGED = f"""
CREATE TEMP VIEW acknowledged (first, last, gone) AS SELECT 0, 0, 0 WHERE 0;
CREATE TEMP TRIGGER acknowledging INSTEAD OF INSERT ON acknowledged BEGIN
    INSERT INTO stripped
        SELECT key, id, digest FROM requests WHERE key >= new.first AND key <= new.last;
    DELETE FROM requests WHERE key >= new.first AND key <= new.last;
    DELETE FROM outcomes WHERE key >= new.first AND key <= new.last;
    DELETE FROM stripped
        WHERE key >= new.last >> {SEQ_BITS} << {SEQ_BITS} AND key <= new.gone;
END;
"""


def connect(path: Path, busy_ms: int, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to a file that :func:`prepare` has seen; waits ``busy_ms`` for locks."""
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


def prepare(path: Path, busy_ms: int) -> None:
    """Makes the database where there is none, checks the one there is, and brings one of an
    older format up to this one.

    Nothing is written to a file that is not ours, nor to one of another format that a process
    serves. Raises :class:`StoreError`.
    """
    if sqlite3.sqlite_version_info < (3, 33):
        raise StoreError(f"SQLite is {sqlite3.sqlite_version}; 3.33 or newer is needed")
    if not path.parent.is_dir():
        raise StoreError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise StoreError(f"{path} is a folder, not a database")
    try:
        db = sqlite3.connect(path, timeout=busy_ms / 1000, isolation_level=None)
        try:
            version = _version(db, path)
            if not version:
                db.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
            if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
                raise StoreError(f"{path}: this file system can't hold a write-ahead log")
            if version in (0, VERSION):
                _make(db, path)
            else:
                lock = ServingLock(path)
                lock.take()
                try:
                    _make(db, path)
                finally:
                    lock.release()
        finally:
            db.close()
    except sqlite3.Error as exc:
        raise StoreError(_plain(path, exc)) from exc


def _make(db: sqlite3.Connection, path: Path) -> None:
    # Also shows at once, rather than at the first request, that it can be written to.
    db.execute("BEGIN IMMEDIATE")
    # Asked again: another process may have done it since.
    version = _version(db, path)
    if version != VERSION:
        for statement in (_FROM_1 if version else SCHEMA).split(";\n"):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("COMMIT")


def _version(db: sqlite3.Connection, path: Path) -> int:
    """The format; 0 where the database is still to be made. Raises for one that isn't ours."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID:
        if version > VERSION:
            raise StoreError(
                f"{path} is of a newer inorder (format {version}; this one knows {VERSION})"
            )
        return int(version)
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application or version or tables:
        raise StoreError(f"{path} is the database of another program")
    return 0


def _plain(path: Path, exc: sqlite3.Error) -> str:
    """One line for the operator."""
    name = getattr(exc, "sqlite_errorname", "")
    if name.startswith("SQLITE_NOTADB"):
        return f"{path} is not an SQLite database"
    if name.startswith("SQLITE_CANTOPEN"):
        return f"{path} can't be opened or made: may this user write to {path.parent}?"
    if name.startswith("SQLITE_READONLY"):
        return f"{path} can't be written to: the file or its folder is read-only"
    return f"{path} can't be used: {exc}"
