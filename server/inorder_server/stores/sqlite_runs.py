"""Runs: how consecutive requests, or outcomes, of a session share a row of the SQLite file.

A row costs the same whether it holds one request or sixteen, so what is committed together
stands together. Neither a run's start nor its length means anything by itself: those of the
requests and of their outcomes are not the same, and a run that is acknowledged only in part
stays until the rest is, so that no row is ever written again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from .port import Ending, Outcome, RequestRow
from .sqlite_schema import MAX_SEQ

# What bounds a run bounds what an acknowledgement of a part of it leaves behind.
_MOST_ROWS = 256
_MOST_BYTES = 1 << 16

LETTERS: dict[Ending, str] = {"done": "d", "failed": "f", "cancelled": "c"}
"""How the endings stand in a run of outcomes."""
ENDINGS: dict[str, Ending] = {letter: ending for ending, letter in LETTERS.items()}
"""Of the letters in a run of outcomes. Another one is for the audit to find."""

Name = tuple[str, bytes, str]
"""Of a request: its id, digest and method."""
Body = tuple[int, float | None, str | None, bytes | None]
"""Of a request: accepted_ms, timeout, traceparent and params."""

decode_names: Callable[[bytes], list[Name]] = msgspec.msgpack.Decoder(list[Name]).decode
decode_bodies = msgspec.msgpack.Decoder(list[Body]).decode
decode_outcomes = msgspec.msgpack.Decoder(list[tuple[int, bytes]]).decode
"""Of outcomes: settled_ms and body."""

_encode_into = msgspec.msgpack.Encoder().encode_into


def packed(values: Sequence[tuple[Any, ...]]) -> bytearray:
    # Python binds a bytearray in a third of the time that it takes for bytes (measured).
    made = bytearray()
    _encode_into(values, made)
    return made


def request_runs(base: int, rows: Sequence[RequestRow]) -> Sequence[Any]:
    """The values of the rows of `runs`, four each, that hold these consecutive requests;
    ``base`` is their session's number, shifted."""
    first = rows[0]
    names: Sequence[Name]
    bodies: Sequence[Body]
    if len(rows) == 1:
        # As most are where clients send one at a time: this takes two fifths less (measured).
        names = ((first.id, first.digest, first.method),)
        bodies = ((first.accepted_ms, first.timeout, first.traceparent, first.params),)
    else:
        sizes = [len(r.params) if r.params else 0 for r in rows]
        if len(rows) > _MOST_ROWS or sum(sizes) > _MOST_BYTES:
            return [v for a, z in _cut(sizes) for v in request_runs(base, rows[a:z])]
        names = [(r.id, r.digest, r.method) for r in rows]
        bodies = [(r.accepted_ms, r.timeout, r.traceparent, r.params) for r in rows]
    return (base | first.seq) << 1, len(rows), packed(names), packed(bodies)


def outcome_runs(
    base: int, outcomes: Sequence[Outcome], settled_ms: Sequence[int]
) -> Sequence[Any]:
    """The same of consecutive outcomes, and when each was settled."""
    first = outcomes[0]
    bodies: Sequence[tuple[int, bytes]]
    if len(outcomes) == 1:
        letters = LETTERS.get(first.ending, "?")
        bodies = ((settled_ms[0], first.body),)
    else:
        sizes = [len(o.body) for o in outcomes]
        if len(outcomes) > _MOST_ROWS or sum(sizes) > _MOST_BYTES:
            return [
                v
                for a, z in _cut(sizes)
                for v in outcome_runs(base, outcomes[a:z], settled_ms[a:z])
            ]
        letters = "".join([LETTERS.get(o.ending, "?") for o in outcomes])
        bodies = [(at, o.body) for at, o in zip(settled_ms, outcomes, strict=True)]
    return (base | first.seq) << 1 | 1, len(outcomes), letters, packed(bodies)


def _cut(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where parts begin and end that are small enough; a large request is one by itself."""
    start = size = 0
    for i, more in enumerate(sizes):
        if i > start and (i - start == _MOST_ROWS or size + more > _MOST_BYTES):
            yield start, i
            start, size = i, 0
        size += more
    yield start, len(sizes)


# ---- where a run is
#
# A number of a request means its key in `marks` here: its session's number and seq.


class Holding(Struct, frozen=True):
    """Where a request, or its outcome, is: its run's key, its place in it, and the head."""

    key: int
    place: int
    head: Any


def holding(db: sqlite3.Connection, number: int, outcome: bool) -> Holding | None:
    """The run that has this request, or its outcome."""
    found = db.execute(
        "SELECT key, count, head FROM runs WHERE key >= ? AND key <= ? AND (key & 1) = ?"
        " ORDER BY key DESC LIMIT 1",
        ((number & ~MAX_SEQ) << 1, number << 1 | outcome, int(outcome)),
    ).fetchone()
    if found is None or number >= (found[0] >> 1) + found[1]:
        return None
    return Holding(found[0], number - (found[0] >> 1), found[2])


def stripped_name(db: sqlite3.Connection, number: int) -> Name | None:
    """What is left of an acknowledged request."""
    found = db.execute(
        "SELECT key, count, names FROM stripped WHERE key >= ? AND key <= ?"
        " ORDER BY key DESC LIMIT 1",
        (number & ~MAX_SEQ, number),
    ).fetchone()
    if found is None or number >= found[0] + found[1]:
        return None
    names: list[Name] = decode_names(found[2])
    return names[number - int(found[0])]


def counting(base: str, after: str, upto: str) -> str:
    """Two columns of SQL, from rows alone: how many requests have a number above ``after``, up
    to ``upto``, and the letters of their outcomes. All three are expressions; ``base`` is the
    number 0 of their session."""
    runs = (
        f"FROM runs WHERE key >= ({base}) << 1 AND key <= ({upto}) << 1 | 1"
        f" AND (key >> 1) + count > ({after}) + 1 AND (key & 1) ="
    )
    requests = f"min((key >> 1) + count, ({upto}) + 1) - max(key >> 1, ({after}) + 1)"
    # The length has 32 bits.
    letters = f"substr(head, 1, min(count, ({upto}) + 1 - (key >> 1)))"
    letters = f"substr({letters}, max(1, ({after}) + 2 - (key >> 1)))"
    return f"(SELECT total({requests}) {runs} 0), (SELECT group_concat({letters}, '') {runs} 1)"


def tallied(letters: str | None) -> tuple[int, int, int]:
    """How many of these outcomes are done, failed and cancelled."""
    if letters is None:
        return 0, 0, 0
    return letters.count("d"), letters.count("f"), letters.count("c")
