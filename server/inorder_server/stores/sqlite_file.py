"""The SQLite file as it is found: made, checked, brought up to today's format, or refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from .port import StoreError
from .sqlite_formats import run, upgrade
from .sqlite_lock import ServingLock
from .sqlite_schema import SCHEMA, VERSION

APPLICATION_ID = 0x696E6F72  # "inor": tells this file from other programs' databases

# Of a new file, in bytes. Against SQLite's own 4096 a request of 200 KiB costs an eighth less,
# and one of 100 bytes the same (measured).
_PAGE_SIZE = 8192


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
        if version:
            upgrade(db, version)
        else:
            run(db, SCHEMA)
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
