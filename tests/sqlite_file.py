"""The SQLite file's log and runs taken apart, for who looks into it or spoils it.

Imports nothing of the server; the format is described in its ``stores/sqlite_schema.py``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import Any, NamedTuple

import msgspec

SEQ_BITS = 34
_SEQ = (1 << SEQ_BITS) - 1
REQUEST, OUTCOME, MARK, ACKNOWLEDGEMENT = 1, 2, 3, 4
"""The kinds of writes in the log."""
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


def copied(db: sqlite3.Connection) -> sqlite3.Connection:
    """A copy in memory that has nothing in its log. ``db`` must not be writing."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    db.backup(copy)
    catch_up(copy)
    return copy


def catch_up(db: sqlite3.Connection) -> None:
    """Makes rows of what is in the log, one each."""
    for (entry,) in db.execute("SELECT writes FROM log ORDER BY n").fetchall():
        for kind, session, *fields in _singly(entry):
            found = db.execute(
                "SELECT n, accepted, settled, acked FROM sessions WHERE id = ?", (session,)
            ).fetchone()
            if found is not None:
                _write(db, *found, kind, *fields)
    db.execute("DELETE FROM log")


def _singly(entry: bytes) -> Iterator[tuple[Any, ...]]:
    """Kind, session, seq and fields of each write in a row of the log, one for each request."""
    for kind, session, _, *fields in _unpack(entry):
        if kind == REQUEST:
            for seq, *row in fields[0]:
                yield kind, session, seq, *row
        elif kind == OUTCOME:
            for seq, _, ending, body in fields[0]:
                yield kind, session, seq, ending, body, fields[1]
        else:
            yield kind, session, *fields


def _write(
    db: sqlite3.Connection, n: int, accepted: int, settled: int, acked: int, kind: int, *w: Any
) -> None:
    """What its rows have already is in the log of a session for a while longer."""
    base = n << SEQ_BITS
    if kind == REQUEST:
        seq, id, digest, method, params, accepted_ms, timeout, traceparent, *_ = w
        if seq > accepted:
            name, body = (id, digest, method), (accepted_ms, timeout, traceparent, params)
            row = ((base | seq) << 1, 1, pack([name]), pack([body]))
            db.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", row)
            db.execute("UPDATE sessions SET accepted = ?, open = 1 WHERE n = ?", (seq, n))
    elif kind == OUTCOME:
        seq, ending, body, settled_ms = w
        if seq > settled:
            row = ((base | seq) << 1 | 1, 1, ending[0], pack([(settled_ms, body)]))
            db.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", row)
            db.execute("UPDATE sessions SET settled = ? WHERE n = ?", (seq, n))
    elif kind == MARK:
        if w[0] > settled:
            db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, 0)", (base | w[0], w[1]))
    elif kind == ACKNOWLEDGEMENT and w[0] > acked:
        _acknowledge(db, n, acked, *w)


def _acknowledge(db: sqlite3.Connection, n: int, acked: int, seq: int, keep: int) -> None:
    base = n << SEQ_BITS
    letters = [letter for number, letter, _ in _ones(db, 1) if base | acked < number <= base | seq]
    db.execute(
        "UPDATE sessions SET acked = ?, forgotten = max(forgotten, ?), done = done + ?,"
        " failed = failed + ?, cancelled = cancelled + ? WHERE n = ?",
        (seq, seq - keep, *map(letters.count, "dfc"), n),
    )


def logged(db: sqlite3.Connection, wanted: int) -> dict[str, int]:
    """Of each session the highest seq that the log has a write of this kind for."""
    entries = db.execute("SELECT writes FROM log ORDER BY n")
    return {
        session: seq
        for (entry,) in entries
        for kind, session, seq, *_ in _singly(entry)
        if kind == wanted
    }


def requests(db: sqlite3.Connection) -> list[Request]:
    """All of them, by session and number."""
    with closing(copied(db)) as copy:
        return _requests(copy)


def _requests(db: sqlite3.Connection) -> list[Request]:
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
    with closing(copied(db)) as copy:
        return [_unpack(name)[0][0] for _, name in _stripped(copy)]


def spread(db: sqlite3.Connection) -> None:
    """Gives each request, and each outcome, a row of its own, so that one can be spoilt."""
    catch_up(db)
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
