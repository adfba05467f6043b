"""What the reader thread asks of a session's runs, and how they become the port's rows.

Of a run that is acknowledged only in part, what is acknowledged is as if it were stripped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from heapq import merge
from operator import add, attrgetter
from typing import cast

from msgspec import MsgspecError, Struct

from .port import Damaged, Ending, Outcome, RequestRow, Tally
from .sqlite_runs import (
    ENDINGS,
    Body,
    Name,
    counting,
    decode_bodies,
    decode_names,
    decode_outcomes,
    tallied,
)
from .sqlite_schema import MAX_SEQ, SEQ_BITS

PORTION_ROWS = 500
PORTION_BYTES = 1 << 20

# Of one kind (?4), from the run that has ?2, or the one after, to the one that has ?3.
_FROM = """
FROM runs WHERE key <= (?3 << 1 | 1) AND (key & 1) = ?4 AND key >= ifnull((
    SELECT key FROM runs WHERE key >= ?1 << 1 AND key <= ?2 << 1 | 1 AND (key & 1) = ?4
    ORDER BY key DESC LIMIT 1), ?1 << 1) ORDER BY key"""
_NAMES = f"SELECT key >> 1, head {_FROM}"
_RUNS = f"SELECT key >> 1, head, bodies {_FROM}"
_ENDINGS = f"SELECT key >> 1, head {_FROM}"
# The bodies of what is settled stay in the database.
_CLAIMED = f"SELECT key >> 1, head, iif((key >> 1) + count > ?5 + 1, bodies, NULL) {_FROM}"
_STRIPPED = """
SELECT key, names FROM stripped WHERE key <= ?3 AND key >= ifnull((
    SELECT key FROM stripped WHERE key >= ?1 AND key <= ?2 ORDER BY key DESC LIMIT 1), ?1)
ORDER BY key"""
_MARKS = "SELECT key, attempt, cancel FROM marks WHERE key >= ? AND key <= ?"


_NO_BODY: Body = (0, None, None, None)
_UNMARKED = (0, False)


class _Place(Struct):
    """A session's number, shifted, and what of it is acknowledged."""

    base: int
    settled: int
    acked: int
    forgotten: int

    def numbers(self, first: int, last: int = MAX_SEQ) -> tuple[int, int, int]:
        """Of the session, and of two of its requests."""
        return self.base, self.base | min(first, MAX_SEQ), self.base | min(last, MAX_SEQ)


def _place(db: sqlite3.Connection, column: str, value: str | int) -> _Place | None:
    found = db.execute(
        f"SELECT n, settled, acked, forgotten FROM sessions WHERE {column} = ?", (value,)
    ).fetchone()
    return None if found is None else _Place(found[0] << SEQ_BITS, *found[1:])


@contextmanager
def _readable() -> Iterator[None]:
    """Raises :class:`Damaged` for a run that contradicts itself."""
    try:
        yield
    except (MsgspecError, TypeError, ValueError) as exc:
        raise Damaged(f"a row can't be read: {exc}") from exc


@_readable()
def claimed(db: sqlite3.Connection, n: int) -> list[RequestRow]:
    """All rows of a session; of settled ones what they are called and how they ended."""
    s = _place(db, "n", n)
    assert s is not None
    rows = [*_stripped_rows(db, s, 0)]
    endings: dict[int, str] = {}
    for number, letters in db.execute(_ENDINGS, (*s.numbers(s.acked + 1), 1)):
        endings.update(enumerate(letters, number & MAX_SEQ))
    settled = s.acked
    while settled + 1 in endings:
        settled += 1
    marks = _marks(db, s, s.acked)
    numbers = (*s.numbers(s.acked + 1), 0, s.base | settled)
    for number, head, packed in db.execute(_CLAIMED, numbers):
        names = decode_names(head)
        bodies = [_NO_BODY] * len(names) if packed is None else decode_bodies(packed)
        for seq, (name, body) in enumerate(zip(names, bodies, strict=True), number & MAX_SEQ):
            if seq > s.acked:
                id, digest, method = name
                accepted_ms, timeout, traceparent, params = body
                row = RequestRow(seq, id, digest, method, params, accepted_ms, timeout, traceparent)
                if seq in endings:
                    row.ending, row.params = _ending(endings[seq]), None
                if seq in marks:
                    row.attempt, row.cancel = marks[seq]
                rows.append(row)
            elif seq > s.forgotten:
                rows.append(_stripped(seq, name))
    return rows


@_readable()
def outcomes(
    db: sqlite3.Connection, id: str, after: int, upto: int, max_bytes: int
) -> list[Outcome]:
    db.execute("BEGIN")
    s = _place(db, "id", id)
    found = [] if s is None else _outcomes(db, s, max(after, s.acked) + 1, upto, max_bytes)
    db.execute("COMMIT")
    return found


def _outcomes(
    db: sqlite3.Connection, s: _Place, first: int, upto: int, max_bytes: int
) -> list[Outcome]:
    found: list[Outcome] = []
    size = 0
    names = _run_names(db, s, first)
    name = next(names, None)
    for seq, letter, _, body in _ended(db, s, first, upto):
        while name is not None and name[0] < seq:
            name = next(names, None)
        if name is None:
            break
        if name[0] > seq:  # an outcome without a request
            continue
        size += len(body)
        if found and size > max_bytes:
            break
        found.append(Outcome(seq, name[1][0], _ending(letter), body))
    return found


def tally(db: sqlite3.Connection, id: str) -> Tally:
    # One statement sees one state of the database: an acknowledgement that is made
    # meanwhile can't be counted twice. A run that is missing of either kind shows.
    base = f"n << {SEQ_BITS}"
    found = db.execute(
        "SELECT done, failed, cancelled,"
        f" {counting(base, f'{base} | acked', f'{base} | {MAX_SEQ}')} FROM sessions WHERE id = ?",
        (id,),
    ).fetchone()
    if found is None:
        return Tally(0, 0, 0, 0)
    requests, letters = found[3:]
    done, failed, cancelled = map(add, found, tallied(letters))
    return Tally(done, failed, cancelled, int(requests) - len(letters or ""))


@_readable()
def requests(db: sqlite3.Connection, id: str, after: int) -> list[RequestRow]:
    """The next portion of a session's rows, bodies included; empty at the end.

    For people and the audit: it shows as half an outcome what its session counts as settled but
    has none, and without an id an outcome that has no request.
    """
    db.execute("BEGIN")
    s = _place(db, "id", id)
    found: list[RequestRow] = []
    size = 0
    for row in () if s is None else _rows(db, s, after):
        found.append(row)
        size += len(row.params or b"") + len(row.outcome or b"")
        if size > PORTION_BYTES or len(found) == PORTION_ROWS:
            break
    db.execute("COMMIT")
    return found


def _rows(db: sqlite3.Connection, s: _Place, after: int) -> Iterator[RequestRow]:
    ended = _ended(db, s, after + 1, MAX_SEQ)
    one = next(ended, None)
    known = merge(_stripped_rows(db, s, after), _requests(db, s, after), key=attrgetter("seq"))
    for row in known:
        while one is not None and one[0] < row.seq:
            yield _orphan(*one)
            one = next(ended, None)
        if not row.stripped:
            if one is not None and one[0] == row.seq:
                _, letter, row.settled_ms, row.outcome = one
                row.ending = _ending(letter)
                one = next(ended, None)
            elif row.seq <= s.settled:
                row.settled_ms = row.accepted_ms
        yield row
    while one is not None:
        yield _orphan(*one)
        one = next(ended, None)


def _requests(db: sqlite3.Connection, s: _Place, after: int) -> Iterator[RequestRow]:
    marks = _marks(db, s, after)
    for number, head, bodies in db.execute(_RUNS, (*s.numbers(after + 1), 0)):
        names = decode_names(head)
        last = (number & MAX_SEQ) + len(names) - 1
        both = zip(names, decode_bodies(bodies), strict=True)
        for seq, (name, body) in enumerate(both, number & MAX_SEQ):
            if seq <= after:
                continue
            if seq > s.acked or last <= s.acked:
                yield _row(seq, name, body, *marks.get(seq, _UNMARKED))
            elif seq > s.forgotten:
                yield _stripped(seq, name)


def _ended(
    db: sqlite3.Connection, s: _Place, first: int, upto: int
) -> Iterator[tuple[int, str, int, bytes]]:
    """seq, letter, settled_ms and body of outcomes."""
    for number, letters, bodies in db.execute(_RUNS, (*s.numbers(first, upto), 1)):
        last = (number & MAX_SEQ) + len(letters) - 1
        both = zip(letters, decode_outcomes(bodies), strict=True)
        for seq, (letter, (settled_ms, body)) in enumerate(both, number & MAX_SEQ):
            if first <= seq <= upto and (seq > s.acked or last <= s.acked):
                yield seq, letter, settled_ms, body


def _stripped_rows(db: sqlite3.Connection, s: _Place, after: int) -> Iterator[RequestRow]:
    first = max(after, s.forgotten) + 1
    for number, names in db.execute(_STRIPPED, s.numbers(first)):
        for seq, name in enumerate(decode_names(names), number & MAX_SEQ):
            if seq >= first:
                yield _stripped(seq, name)


def _run_names(db: sqlite3.Connection, s: _Place, first: int) -> Iterator[tuple[int, Name]]:
    for number, head in db.execute(_NAMES, (*s.numbers(first), 0)):
        yield from enumerate(decode_names(head), number & MAX_SEQ)


def _marks(db: sqlite3.Connection, s: _Place, after: int) -> dict[int, tuple[int, bool]]:
    _, first, last = s.numbers(after + 1)
    return {
        key & MAX_SEQ: (attempt, bool(cancel))
        for key, attempt, cancel in db.execute(_MARKS, (first, last))
    }


def _row(seq: int, name: Name, body: Body, attempt: int, cancel: bool) -> RequestRow:
    id, digest, method = name
    accepted_ms, timeout, traceparent, params = body
    return RequestRow(
        seq, id, digest, method, params, accepted_ms, timeout, traceparent, attempt, cancel
    )


def _stripped(seq: int, name: Name) -> RequestRow:
    return RequestRow(seq, name[0], name[1], "", None, 0, stripped=True)


def _orphan(seq: int, letter: str, settled_ms: int, body: bytes) -> RequestRow:
    row = RequestRow(seq, "", b"", "", None, 0)
    row.ending, row.outcome, row.settled_ms = _ending(letter), body, settled_ms
    return row


def _ending(letter: str) -> Ending:
    # What none is, is for the audit to say.
    return ENDINGS.get(letter, cast(Ending, letter))
