"""The documents on MongoDB: their ids, their fields, and how they become the port's structures.

Source: ownership.md, "Documents". A request's ``_id`` is its session's and its seq, so that the
rows of a session lie side by side in the one index that every server keeps anyway, and that a
repeated insert meets its first sending; ``try`` says which of them made the row. Times are int64
milliseconds since 1970; params, results and receipts are encoded bytes. ``again`` counts the writes
that only prove an earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from bson.int64 import Int64

from inorder.messages import Receipt

from .port import Create, Insert, RequestRow, SessionRow, User

Document = dict[str, Any]
Found = Mapping[str, Any]

FORMAT = 1

SESSIONS, REQUESTS, USERS = "sessions", "requests", "users"
NODES, COMMANDS, FORMATS = "nodes", "commands", "format"

# Collection, name, keys. Those on requests are served by `_id`.
INDEXES = [
    (SESSIONS, "by_node_and_work", [("node", 1), ("open", 1)]),
    (SESSIONS, "by_node_and_want", [("node", 1), ("want", 1)]),
    (SESSIONS, "by_state_and_age", [("state", 1), ("left_ms", 1)]),
    (SESSIONS, "by_creation", [("created_ms", -1)]),
]

MAX_SEQ = 10**16 - 1

encode_receipt = msgspec.json.encode
_decode_receipt = msgspec.json.Decoder(Receipt).decode


def row_id(session: str, seq: int) -> str:
    """A request's ``_id``: sorts as its seq does."""
    return f"{session}:{min(seq, MAX_SEQ):016d}"


def seq_of(id: str) -> int:
    return int(id[-16:])


def rows(session: str, after: int = 0, upto: int = MAX_SEQ) -> Document:
    """The filter of a session's requests with ``after < seq <= upto``."""
    return {"_id": {"$gt": row_id(session, after), "$lte": row_id(session, upto)}}


def own(session: str, epoch: int, node: str) -> Document:
    """OWN: the filter that fences."""
    return {"_id": session, "epoch": epoch, "node": node, "state": "live"}


def is_own(doc: Found | None, epoch: int, node: str) -> bool:
    return doc is not None and (doc["epoch"], doc["node"], doc["state"]) == (epoch, node, "live")


def session_document(w: Create) -> Document:
    """P1: a session that accepted nothing yet."""
    return {
        "_id": w.session,
        "user": w.user,
        "epoch": w.epoch,
        "node": w.node,
        "attach": w.attach,
        "accepted": 0,
        "acked": 0,
        "done": 0,
        "failed": 0,
        "cancelled": 0,
        "clean": False,
        "open": False,
        "held": False,
        "want": None,
        "state": "live",
        "created_ms": Int64(w.at_ms),
        "left_ms": Int64(w.at_ms),
        "receipt": None,
    }


def session_row(doc: Found) -> SessionRow:
    receipt = doc["receipt"]
    return SessionRow(
        doc["_id"],
        doc["user"],
        doc["epoch"],
        doc["attach"],
        doc["node"],
        doc["accepted"],
        doc["acked"],
        doc["done"],
        doc["failed"],
        doc["cancelled"],
        doc["clean"],
        doc["open"],
        doc["state"],
        int(doc["created_ms"]),
        int(doc["left_ms"]),
        None if receipt is None else _decode_receipt(receipt),
        doc["held"],
    )


def request_document(w: Insert, attempt: int) -> Document:
    """P6: a request's row under its epoch; ``attempt`` numbers the tries to insert it."""
    row = w.row
    return {
        "_id": row_id(w.session, row.seq),
        "id": row.id,
        "digest": row.digest,
        "method": row.method,
        "params": row.params,
        "accepted_ms": Int64(row.accepted_ms),
        "timeout": row.timeout,
        "traceparent": row.traceparent,
        "epoch": w.epoch,
        "try": attempt,
        "attempt": row.attempt,
        "cancel": row.cancel,
        "ending": None,
        "outcome": None,
        "settled_ms": None,
        "by": None,
    }


STRIPPED = dict.fromkeys(
    (
        "method", "params", "timeout", "traceparent", "attempt", "cancel",
        "ending", "outcome", "settled_ms", "by",
        # Without these no late write of its owner finds the row any more.
        "epoch", "try",
    ),
    1,
)  # fmt: skip
"""P10: what is unset, so that only the id, its digest and the age are left."""


def came_late(doc: Found, acked: int) -> bool:
    """An insert whose number was given to another sending of it, or another request, and is
    forgotten: nobody's. What is acknowledged has an ending, or was stripped."""
    return seq_of(doc["_id"]) <= acked and doc.get("ending", "stripped") is None


def request_row(doc: Found, acked: int) -> RequestRow:
    """What is acknowledged counts as stripped, also where a crash came in between."""
    seq = seq_of(doc["_id"])
    row = RequestRow(seq, doc["id"], doc["digest"], "", None, int(doc["accepted_ms"]))
    if seq <= acked:
        row.stripped = True
        return row
    row.method, row.params = doc["method"], doc.get("params")
    row.timeout, row.traceparent = doc["timeout"], doc["traceparent"]
    row.attempt, row.cancel = doc["attempt"], doc["cancel"]
    row.ending, row.outcome = doc["ending"], doc.get("outcome")
    row.settled_ms = None if doc["settled_ms"] is None else int(doc["settled_ms"])
    return row


def user_document(user: User) -> Document:
    return {
        "_id": user.name,
        "password_hash": user.password_hash,
        "generation": user.generation,
        "admin": user.admin,
        "created_ms": Int64(user.created_ms),
    }


def user_of(doc: Found) -> User:
    return User(
        doc["_id"], doc["password_hash"], doc["generation"], doc["admin"], int(doc["created_ms"])
    )
