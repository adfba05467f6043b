"""What the reader thread asks of the SQLite file, and how rows become the port's structures."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from inorder.messages import Receipt

from .port import Command, Outcome, RequestRow, SessionRow, Tally, User
from .sqlite_schema import MAX_SEQ, SEQ_BITS

_SESSION = """
SELECT id, user, epoch, attach, node, accepted, acked, done, failed, cancelled, clean, open,
       state, created_ms, left_ms, receipt, held, n FROM sessions"""
# What is acknowledged comes before what isn't: each part is in the order of its own tree, and
# the two are merged.
_STRIPPED = """
SELECT key, id, digest, '', NULL, 0, NULL, NULL, 0, 0, NULL, NULL, NULL, 1
FROM stripped WHERE key > ?1 AND key <= ?2"""
# A settled row's bodies stay in the database.
_CLAIMED = f"""{_STRIPPED} UNION ALL
SELECT r.key, id, digest, method, iif(ending IS NULL, params, NULL), accepted_ms, timeout,
       traceparent, attempt, cancel, ending, NULL, settled_ms, 0
FROM requests r LEFT JOIN outcomes o ON o.key = r.key WHERE r.key > ?1 AND r.key <= ?2
ORDER BY 1"""
# For people and the audit: it shows as half an outcome what its session counts as settled but
# has none, and without an id an outcome that has no request.
_REQUESTS = f"""{_STRIPPED} UNION ALL
SELECT r.key, r.id, digest, method, params, accepted_ms, timeout, traceparent, attempt,
       cancel, ending, body,
       iif(o.key IS NULL AND r.key & {MAX_SEQ} <= s.settled, accepted_ms, settled_ms), 0
FROM sessions s JOIN requests r LEFT JOIN outcomes o ON o.key = r.key
WHERE s.n = ?2 >> {SEQ_BITS} AND r.key > ?1 AND r.key <= ?2
UNION ALL
SELECT key, '', x'', '', NULL, 0, NULL, NULL, 0, 0, ending, body, settled_ms, 0
FROM outcomes o WHERE key > ?1 AND key <= ?2
     AND NOT EXISTS (SELECT 1 FROM requests r WHERE r.key = o.key)
ORDER BY 1 LIMIT ?3"""

_decode_receipt = msgspec.json.Decoder(Receipt).decode

PORTION_ROWS = 500
PORTION_BYTES = 1 << 20


def number(db: sqlite3.Connection, session: str) -> int | None:
    found = db.execute("SELECT n FROM sessions WHERE id = ?", (session,)).fetchone()
    return None if found is None else int(found[0])


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


def claimed(db: sqlite3.Connection, n: int) -> list[RequestRow]:
    """All rows of a session, the bodies of unsettled ones only."""
    return [_request(row) for row in db.execute(_CLAIMED, (n << SEQ_BITS, n << SEQ_BITS | MAX_SEQ))]


def requests(db: sqlite3.Connection, id: str, after: int) -> list[RequestRow]:
    """The next portion of a session's rows, bodies included; empty at the end."""
    n = number(db, id)
    if n is None:
        return []
    found: list[RequestRow] = []
    size = 0
    for row in db.execute(
        _REQUESTS,
        (n << SEQ_BITS | min(after, MAX_SEQ), n << SEQ_BITS | MAX_SEQ, PORTION_ROWS),
    ):
        found.append(_request(row))
        size += len(found[-1].params or b"") + len(found[-1].outcome or b"")
        if size > PORTION_BYTES:
            break
    return found


def _request(row: tuple[Any, ...]) -> RequestRow:
    key, id, digest, method, params, accepted_ms, timeout, traceparent, attempt, cancel = row[:10]
    ending, outcome, settled_ms, stripped = row[10:]
    return RequestRow(
        key & MAX_SEQ,
        id,
        digest,
        method,
        params,
        accepted_ms,
        timeout,
        traceparent,
        attempt,
        bool(cancel),
        ending,
        outcome,
        settled_ms,
        bool(stripped),
    )


def outcomes(
    db: sqlite3.Connection, id: str, after: int, upto: int, max_bytes: int
) -> list[Outcome]:
    n = number(db, id)
    if n is None:
        return []
    found: list[Outcome] = []
    size = 0
    for key, name, ending, body in db.execute(
        "SELECT key, id, ending, body FROM outcomes JOIN requests USING (key)"
        " WHERE key > ? AND key <= ? ORDER BY key",
        (n << SEQ_BITS | min(after, MAX_SEQ), n << SEQ_BITS | min(upto, MAX_SEQ)),
    ):
        size += len(body)
        if found and size > max_bytes:
            break
        found.append(Outcome(key & MAX_SEQ, name, ending, body))
    return found


def tally(db: sqlite3.Connection, id: str) -> Tally:
    # One statement sees one state of the database: an acknowledgement that is made
    # meanwhile can't be counted twice. A row that is missing in either table shows.
    found = db.execute(
        """
        SELECT s.done + total(ending = 'done'), s.failed + total(ending = 'failed'),
               s.cancelled + total(ending = 'cancelled'), count(r.key) - count(o.key)
        FROM sessions s
             LEFT JOIN requests r ON r.key > (s.n << ?1 | s.acked) AND r.key <= (s.n << ?1 | ?2)
             LEFT JOIN outcomes o ON o.key = r.key
        WHERE s.id = ?3 GROUP BY s.n""",
        (SEQ_BITS, MAX_SEQ, id),
    ).fetchone()
    return Tally(0, 0, 0, 0) if found is None else Tally(*map(int, found))


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
