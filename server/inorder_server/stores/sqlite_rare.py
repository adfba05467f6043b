"""What the writer thread does besides commits: claims, expiry, users, operators' commands."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from . import sqlite_reads as reads
from . import sqlite_rows as rows
from .port import RequestRow, SessionRow, User
from .sqlite_owned import Owned
from .sqlite_runs import counting
from .sqlite_schema import MAX_SEQ, SEQ_BITS
from .sqlite_writes import catch_up, delete_rows

# A command that no node has read within an hour (ms) concerns nobody any more.
_COMMAND_LIFE = 3_600_000


def take_over(db: sqlite3.Connection, owned: Owned) -> None:
    """Whoever owned sessions is dead: the lock on the file is ours."""
    catch_up(db, owned)
    db.execute("UPDATE sessions SET node = NULL WHERE node IS NOT NULL")


def checkpoint(db: sqlite3.Connection) -> None:
    """Copies the write-ahead log into the database, as far as nobody waits for it."""
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def claim(db: sqlite3.Connection, owned: Owned, sessions: Iterable[str]) -> set[str]:
    """P2, for all that were asked for together: those that were to be had."""
    sessions = list(sessions)
    catch_up(db, owned, sessions)
    claimed: set[str] = set()
    db.execute("BEGIN IMMEDIATE")
    for session in sessions:
        owned.standings.pop(session, None)
        found = db.execute(
            "SELECT n, epoch, clean, node FROM sessions WHERE id = ? AND state = 'live'"
            " AND (node IS NULL OR node = ?)",
            (session, owned.node),
        ).fetchone()
        if found is None:
            continue
        n, epoch, clean, node = found
        # A claim whose rows could not be read is made again: `clean` is lost in the row by then.
        if node is None:
            owned.was_clean[session] = bool(clean)
        db.execute(
            "UPDATE sessions SET epoch = ?, node = ?, clean = 0, held = 0,"
            " open = accepted > settled WHERE n = ?",
            (epoch + 1, owned.node, n),
        )
        claimed.add(session)
    db.execute("COMMIT")
    return claimed


def claimed(db: sqlite3.Connection, session: str) -> tuple[SessionRow, list[RequestRow]] | None:
    """P3 to P5: what was claimed. In the reader."""
    db.execute("BEGIN")
    found = reads.session(db, session)
    left = [] if found is None else rows.claimed(db, found[0])
    db.execute("COMMIT")
    return None if found is None else (found[1], left)


def expire(
    db: sqlite3.Connection,
    owned: Owned,
    numbers: Sequence[int],
    left_before_ms: int,
    ended_before_ms: int,
) -> list[str]:
    """P16, for a few sessions: those that were live and are gone. One that has unsettled
    requests stays: held work is its node's to end, blocked work waits for an operator."""
    gone = []
    db.execute("BEGIN IMMEDIATE")
    for n in numbers:
        base = n << SEQ_BITS
        found = db.execute(
            f"""
            SELECT id, state, {counting("?4", "?4 | acked", "?5")} FROM sessions
            WHERE n = ?1 AND (state = 'ended' AND left_ms < ?2
                OR state = 'live' AND node IS NULL AND open = 0 AND left_ms < ?3)""",
            (n, ended_before_ms, left_before_ms, base, base | MAX_SEQ),
        ).fetchone()
        if found is None or found[2] > len(found[3] or ""):
            continue
        delete_rows(db, n)
        db.execute("DELETE FROM sessions WHERE n = ?", (n,))
        owned.forget(found[0])
        if found[1] == "live":
            gone.append(found[0])
    db.execute("COMMIT")
    return gone


def add_user(db: sqlite3.Connection, user: User) -> bool:
    return (
        db.execute(
            "INSERT INTO users (name, password_hash, generation, admin, created_ms)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (user.name, user.password_hash, user.generation, user.admin, user.created_ms),
        ).rowcount
        == 1
    )


def set_password(db: sqlite3.Connection, name: str, password_hash: bytes) -> bool:
    return (
        db.execute(
            "UPDATE users SET password_hash = ?, generation = generation + 1 WHERE name = ?",
            (password_hash, name),
        ).rowcount
        == 1
    )


def revoke(db: sqlite3.Connection, name: str) -> bool:
    return (
        db.execute("UPDATE users SET generation = generation + 1 WHERE name = ?", (name,)).rowcount
        == 1
    )


def delete_user(db: sqlite3.Connection, name: str) -> bool:
    return db.execute("DELETE FROM users WHERE name = ?", (name,)).rowcount == 1


def post(db: sqlite3.Connection, verb: str, target: str, argument: str, at_ms: int) -> int:
    db.execute("BEGIN IMMEDIATE")
    db.execute("DELETE FROM commands WHERE created_ms < ?", (at_ms - _COMMAND_LIFE,))
    n = db.execute(
        "INSERT INTO commands (verb, target, argument, created_ms) VALUES (?, ?, ?, ?)",
        (verb, target, argument, at_ms),
    ).lastrowid
    db.execute("COMMIT")
    return int(n or 0)
