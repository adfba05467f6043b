"""What the reader thread asks of the SQLite file besides requests: sessions, users, commands."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from inorder.messages import Receipt

from .port import Command, SessionRow, User

_SESSION = """
SELECT id, user, epoch, attach, node, accepted, acked, done, failed, cancelled, clean, open,
       state, created_ms, left_ms, receipt, held, n FROM sessions"""
_decode_receipt = msgspec.json.Decoder(Receipt).decode


def session(db: sqlite3.Connection, id: str) -> tuple[int, SessionRow] | None:
    """The session's number and row."""
    found = db.execute(_SESSION + " WHERE id = ?", (id,)).fetchone()
    return None if found is None else (found[-1], _session(found))


def sessions(db: sqlite3.Connection) -> list[SessionRow]:
    return [_session(row) for row in db.execute(_SESSION + " ORDER BY created_ms DESC, n DESC")]


def _session(row: tuple[Any, ...]) -> SessionRow:
    id, user, epoch, attach, node, accepted, acked, done, failed, cancelled = row[:10]
    clean, open, state, created_ms, left_ms, receipt, held = row[10:17]
    return SessionRow(
        id,
        user,
        epoch,
        attach,
        node,
        accepted,
        acked,
        done,
        failed,
        cancelled,
        bool(clean),
        bool(open),
        state,
        created_ms,
        left_ms,
        None if receipt is None else _decode_receipt(receipt),
        bool(held),
    )


def unfinished(db: sqlite3.Connection) -> list[str]:
    return [
        id
        for (id,) in db.execute(
            "SELECT id FROM sessions INDEXED BY sessions_unfinished"
            " WHERE node IS NULL AND open = 1 AND state = 'live' ORDER BY n"
        )
    ]


def held(db: sqlite3.Connection, left_before_ms: int) -> list[str]:
    return [
        id
        for (id,) in db.execute(
            "SELECT id FROM sessions"
            " WHERE node IS NULL AND held = 1 AND state = 'live' AND left_ms < ? ORDER BY n",
            (left_before_ms,),
        )
    ]


def user(db: sqlite3.Connection, name: str) -> User | None:
    found = db.execute(_USER + " WHERE name = ?", (name,)).fetchone()
    return None if found is None else _user(found)


def users(db: sqlite3.Connection) -> list[User]:
    return [_user(row) for row in db.execute(_USER + " ORDER BY name")]


_USER = "SELECT name, password_hash, generation, admin, created_ms FROM users"


def _user(row: tuple[Any, ...]) -> User:
    name, password_hash, generation, admin, created_ms = row
    return User(name, password_hash, generation, bool(admin), created_ms)


def commands(db: sqlite3.Connection, after: int) -> list[Command]:
    return [
        Command(*row)
        for row in db.execute(
            "SELECT n, verb, target, argument, created_ms FROM commands WHERE n > ? ORDER BY n",
            (after,),
        )
    ]


def last_command(db: sqlite3.Connection) -> int:
    found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'commands'").fetchone()
    return 0 if found is None else int(found[0])


def expiring(db: sqlite3.Connection, left_before_ms: int, ended_before_ms: int) -> list[int]:
    """The numbers of sessions that may have to go (the writer looks again)."""
    return [
        n
        for (n,) in db.execute(
            "SELECT n FROM sessions WHERE state = 'ended' AND left_ms < ?2"
            " OR state = 'live' AND node IS NULL AND open = 0 AND left_ms < ?1",
            (left_before_ms, ended_before_ms),
        )
    ]
