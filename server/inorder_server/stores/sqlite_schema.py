"""The SQLite file: its tables, and how a connection to it is made and checked.

A request's key is its session's number and its ``seq`` in one integer, so that the rows of
a session lie side by side in the table's own tree and no second index is ever written to.
Pages that deleted rows leave are used again; the file does not shrink by itself, and stops
growing where as much is acknowledged as is accepted.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from .port import StoreError

APPLICATION_ID = 0x696E6F72  # "inor": tells this file from other programs' databases
VERSION = 1

SEQ_BITS = 35
MAX_SEQ = (1 << SEQ_BITS) - 1
MAX_NUMBER = (1 << (63 - SEQ_BITS)) - 1

# What is looked at most stands first and what may be long last: a column behind a long one
# is reached only through its overflow pages.
SCHEMA = """
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
CREATE TABLE requests (
    key         INTEGER PRIMARY KEY,  -- session's n << 35 | seq
    ending      TEXT,                 -- NULL, done, failed or cancelled; '' once stripped
    attempt     INTEGER NOT NULL,
    cancel      INTEGER NOT NULL,
    accepted_ms INTEGER NOT NULL,
    settled_ms  INTEGER,
    id          TEXT NOT NULL,
    digest      BLOB NOT NULL,
    method      TEXT NOT NULL,
    timeout     REAL,
    traceparent TEXT,
    params      BLOB,
    outcome     BLOB
);
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


def connect(path: Path, busy_ms: int, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to a file that :func:`prepare` has seen; waits ``busy_ms`` for locks."""
    db = sqlite3.connect(path, timeout=busy_ms / 1000, isolation_level=None, cached_statements=256)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA temp_store = MEMORY")
        # Only where `checkpoint` doesn't keep up: this one holds up the commit that it hits.
        db.execute("PRAGMA wal_autocheckpoint = 16000")
        db.execute("PRAGMA journal_size_limit = 67108864")
        db.execute(f"PRAGMA query_only = {int(read_only)}")
    except BaseException:
        db.close()
        raise
    return db


def prepare(path: Path, busy_ms: int) -> None:
    """Makes the database where there is none, and checks the one there is.

    Nothing is written to a file that is not ours. Raises :class:`StoreError`.
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
            _check(db, path)
            if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
                raise StoreError(f"{path}: this file system can't hold a write-ahead log")
            # Also shows at once, rather than at the first request, that it can be written to.
            db.execute("BEGIN IMMEDIATE")
            # Asked again: another process may have made it since.
            if not _check(db, path):
                for statement in SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {VERSION}")
            db.execute("COMMIT")
        finally:
            db.close()
    except sqlite3.Error as exc:
        raise StoreError(_plain(path, exc)) from exc


def _check(db: sqlite3.Connection, path: Path) -> bool:
    """Whether the database is made already. Raises for one that isn't ours."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID:
        if version > VERSION:
            raise StoreError(
                f"{path} is of a newer inorder (format {version}; this one knows {VERSION})"
            )
        return True
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application or version or tables:
        raise StoreError(f"{path} is the database of another program")
    return False


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
