"""The SQLite file's runs taken apart, for who looks into it or spoils it.

Imports nothing of the server; the format is described in its ``stores/sqlite_schema.py``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import msgspec

SEQ_BITS = 34
_SEQ = (1 << SEQ_BITS) - 1
_ENDINGS = {"d": "done", "f": "failed", "c": "cancelled"}

pack = msgspec.msgpack.encode
_unpack = msgspec.msgpack.decode


class Request(NamedTuple):
    """One that is not acknowledged, of the session with the number ``n``. ``ending`` and
    ``body`` are its outcome's."""

    n: int
    seq: int
    id: str
    attempt: int
    ending: str | None
    body: bytes | None


def requests(db: sqlite3.Connection) -> list[Request]:
    """All of them, by session and number."""
    attempts = dict(db.execute("SELECT key, attempt FROM marks"))
    acked = dict(db.execute("SELECT n, acked FROM sessions"))
    outcomes = {number: (_ENDINGS[letter], body[1]) for number, letter, body in _ones(db, 1)}
    return [
        Request(
            number >> SEQ_BITS,
            number & _SEQ,
            name[0],
            attempts.get(number, 0),
            *outcomes.get(number, (None, None)),
        )
        for number, name, _ in _ones(db, 0)
        if number & _SEQ > acked[number >> SEQ_BITS]
    ]


def stripped(db: sqlite3.Connection) -> list[str]:
    """The ids by which late repeats are known."""
    return [_unpack(name)[0][0] for _, name in _stripped(db)]


def spread(db: sqlite3.Connection) -> None:
    """Gives each request, and each outcome, a row of its own, so that one can be spoilt."""
    acked = dict(db.execute("SELECT n, acked FROM sessions"))
    known = [(number, 1, name) for number, name in _stripped(db)]
    runs = [
        (number << 1 | kind, 1, head if kind else pack([head]), pack([body]))
        for kind in (0, 1)
        for number, head, body in _ones(db, kind)
        if number & _SEQ > acked[number >> SEQ_BITS]
    ]
    db.execute("DELETE FROM runs")
    db.executemany("INSERT INTO runs VALUES (?, ?, ?, ?)", runs)
    db.execute("DELETE FROM stripped")
    db.executemany("INSERT INTO stripped VALUES (?, ?, ?)", known)


def _ones(db: sqlite3.Connection, kind: int) -> Iterator[tuple[int, Any, Any]]:
    """Number (n << 34 | seq), head and body of each request (0) or outcome (1)."""
    for first, head, bodies in db.execute(
        "SELECT key >> 1, head, bodies FROM runs WHERE (key & 1) = ? ORDER BY key", (kind,)
    ):
        heads = head if kind else _unpack(head)
        yield from zip(count(first), heads, _unpack(bodies), strict=False)


def _stripped(db: sqlite3.Connection) -> list[tuple[int, bytes]]:
    """Of a run that is acknowledged in part, too, what is acknowledged."""
    names = {number: name for number, name, _ in _ones(db, 0)}
    for first, head in db.execute("SELECT key, names FROM stripped"):
        names.update(zip(count(first), _unpack(head), strict=False))
    sessions = {n: known for n, *known in db.execute("SELECT n, forgotten, acked FROM sessions")}
    found = []
    for number, name in sorted(names.items()):
        forgotten, acked = sessions[number >> SEQ_BITS]
        if forgotten < number & _SEQ <= acked:
            found.append((number, pack([name])))
    return found
