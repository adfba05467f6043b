"""Single steps of a group on MongoDB: what each needs, does, and looks like once it is in effect.

P7 to P15 of ownership.md, whose filters these are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bson.int64 import Int64
from pymongo.operations import UpdateOne

from .mongo_documents import Document, Found, encode_receipt, row_id
from .mongo_rounds import Change, gave_up
from .port import Acknowledge, Create, End, MarkCancel, MarkStart, Release


class Step(NamedTuple):
    """A compare-and-set on a session: what it needs beside OWN, what it does, and how one sees
    that it is in effect already."""

    i: int
    session: str
    needs: Document
    sets: Document
    in_effect: Callable[[Found], bool]
    gives_up: bool = False


# ---- on a session


def created(i: int, w: Create) -> Step:
    """P1, where the session is there already."""
    return Step(i, w.session, {}, {}, lambda doc: bool(doc["user"] == w.user))


# ---- on a request


def change(w: Change, attempt: int) -> UpdateOne:
    """P8, P9 and the start mark of P5: of an unsettled row that bears this epoch and try."""
    filter = {
        "_id": row_id(w.session, w.seq),
        "epoch": w.epoch,
        "try": attempt,
        "ending": None,
    }
    if isinstance(w, MarkCancel):
        return UpdateOne(filter, {"$set": {"cancel": True}})
    if isinstance(w, MarkStart):
        return UpdateOne(filter, {"$max": {"attempt": w.attempt}})
    outcome = {
        "ending": w.outcome.ending,
        "outcome": w.outcome.body,
        "settled_ms": Int64(w.at_ms),
        "by": w.epoch,
    }
    return UpdateOne(filter, {"$set": outcome})


def in_effect(row: Found, w: Change) -> bool:
    settled = row.get("ending") is not None
    if isinstance(w, MarkCancel):
        # A request that is settled needs no mark: its outcome is on its way.
        return bool(settled or row.get("cancel"))
    if isinstance(w, MarkStart):
        return bool(row.get("attempt", 0) >= w.attempt)
    outcome = w.outcome
    there = (row["ending"], row["outcome"], row["by"])
    return settled and there == (outcome.ending, outcome.body, w.epoch)


def confirm(i: int, session: str, first: int, last: int) -> Step:
    """P7. All from ``first`` to ``last`` are durable, and nothing is left out before."""
    return Step(
        i,
        session,
        {"accepted": {"$gte": first - 1, "$lt": last}},
        {"$set": {"accepted": last, "open": True}},
        lambda doc: bool(doc["accepted"] >= last),
    )


def attach(i: int, session: str, attach: int) -> Step:
    """P11."""
    return Step(
        i,
        session,
        {"attach": {"$lt": attach}},
        {"$set": {"attach": attach, "want": None}},
        lambda doc: bool(doc["attach"] >= attach),
    )


def release(i: int, w: Release) -> Step:
    """P13."""
    sets = {
        "node": w.node,
        "clean": w.clean,
        "open": w.open,
        "held": w.held,
        "want": None,
        "receipt": encode_receipt(w.receipt),
        "left_ms": Int64(w.at_ms),
    }
    return Step(
        i, w.session, {"attach": w.attach}, {"$set": sets}, lambda doc: gave_up(doc, w), True
    )


def is_acknowledged(seq: int) -> Callable[[Found], bool]:
    return lambda doc: bool(doc["acked"] >= seq)


def ids_of(wanted: dict[str, tuple[int, Acknowledge, int]]) -> list[str]:
    return [
        row_id(id, seq)
        for id, (_, w, acked) in wanted.items()
        for seq in range(acked + 1, w.seq + 1)
    ]


def count(found: dict[str, Found], session: str, acked: int, upto: int) -> dict[str, int] | None:
    """How the requests in (acked, upto] ended; None where one did not, or is not there."""
    counts = {"done": 0, "failed": 0, "cancelled": 0}
    for seq in range(acked + 1, upto + 1):
        row = found.get(row_id(session, seq))
        if row is None or row.get("ending") is None:
            return None
        counts[row["ending"]] += 1
    return counts


def end(i: int, w: End, acked: int, counts: dict[str, int]) -> Step:
    """P15. ``counts`` is how those ended that were not acknowledged."""
    sets = {
        "state": "ended",
        "node": None,
        "open": False,
        "held": False,
        "clean": True,
        "receipt": encode_receipt(w.receipt),
        "left_ms": Int64(w.at_ms),
    }
    # `acked` stays the number of those tallied, as in a session that lives.
    moved = {**counts, "acked": sum(counts.values())}
    return Step(
        i,
        w.session,
        {"accepted": w.accepted, "acked": acked},
        {"$set": sets, "$inc": moved},
        lambda doc: gave_up(doc, w),
        True,
    )
