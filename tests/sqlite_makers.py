"""Writes of a session, as short as a test wants them, and a look into the SQLite adapter."""

from __future__ import annotations

from typing import Any

from inorder_server.stores.port import Create, Ending, Insert, Outcome, RequestRow, Settle
from inorder_server.stores.sqlite import SqliteStore


def create(session: str = "s") -> Create:
    return Create(session, "ann", 1, 1, "n1", 1)


def insert(seq: int, session: str = "s", epoch: int = 1, body: bytes = b"1") -> Insert:
    return Insert(session, epoch, [RequestRow(seq, f"id-{seq}", b"digest", "echo", body, 5)])


def settle(seq: int, session: str = "s", epoch: int = 1, body: bytes = b"1") -> Settle:
    return ended(session, epoch, seq, "done", body, 6)


def ended(session: str, epoch: int, seq: int, ending: Ending, body: bytes, at_ms: int) -> Settle:
    return Settle(session, epoch, [Outcome(seq, f"id-{seq}", ending, body)], at_ms)


async def in_writer(store: SqliteStore, statement: str) -> Any:
    """What a statement finds there."""
    return await store._write.call(lambda db: db.execute(statement).fetchall())
