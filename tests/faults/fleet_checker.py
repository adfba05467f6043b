"""The invariants of a run across nodes, from the store's documents and the nodes' logs.

Nothing of the server or of the client library is imported here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from checker import check_log
from evidence import Witness, ending
from fleet import Fleet
from frames import Json

_LAPSES = ("the lease could not be raised in time", "another node declared this one dead")


class _Told(NamedTuple):
    """What a client knew at some time."""

    witness: Witness
    accepted: int
    held: dict[int, Json]


def told(witnesses: list[Witness]) -> list[_Told]:
    """What everybody knows just now: ask before the documents are read."""
    return [_Told(w, w.told, dict(w.outcomes)) for w in witnesses if w.told]


def check_documents(fleet: Fleet, known: list[_Told]) -> Iterator[str]:
    """At any time, also right after a crash: the store has all that clients were told.

    Rows are read before the sessions, so that what is missing was acknowledged by then.
    """
    rows: dict[str, dict[int, Json]] = defaultdict(dict)
    for row in fleet.documents("requests", "id", "ending"):
        session, _, seq = row["_id"].partition(":")
        rows[session][int(seq)] = row
    sessions = {doc["_id"]: doc for doc in fleet.documents("sessions")}
    for witness, accepted, held in known:
        doc = sessions.get(witness.session)
        if doc is None or doc["state"] != "live":
            if doc is None or doc["state"] != "ended" or not witness.ending:
                yield f"{witness.name}: told {accepted}, the store says {doc and doc['state']}"
            continue
        if doc["accepted"] < accepted or doc["acked"] > witness.acked:
            yield (
                f"{witness.name}: told {accepted}, acknowledged {witness.acked};"
                f" the store has {doc['accepted']}, {doc['acked']}"
            )
        for seq in range(doc["acked"] + 1, accepted + 1):
            row, sent = rows[witness.session].get(seq), witness.requests.get(seq)
            # What it was of one who shares the session may not have heard yet.
            if row is None or (sent is not None and row["id"] != sent["id"]):
                yield f"{witness.name}: told that {seq} is accepted, the store has {row}"
            elif seq in held and ending(held[seq]) != row["ending"]:
                yield f"{witness.name}: holds {held[seq]}, the store has {row['ending']}"


def check_sessions(fleet: Fleet, witnesses: list[Witness]) -> Iterator[str]:
    """At the end: the sessions are those of the clients, with the clients' numbers, and
    nobody's; every outcome was recorded by the owner of that time."""
    sessions = {doc["_id"]: doc for doc in fleet.documents("sessions")}
    if sessions.keys() != {witness.session for witness in witnesses}:
        yield f"sessions of nobody, or lost: {sessions.keys() ^ {w.session for w in witnesses}}"
    for witness in witnesses:
        doc: dict[str, Any] = sessions.get(witness.session, {"state": "lost", "node": None})
        if (doc["state"], doc["node"]) != ("live" if witness.left else "ended", None):
            yield f"{witness.name}: its session is {doc['state']} at {doc['node']}"
            continue
        receipt = doc["receipt"] and json.loads(doc["receipt"])
        if not witness.left:
            if receipt != witness.receipt:
                yield f"{witness.name}: got {witness.receipt}, kept is {receipt}"
        elif receipt is None:
            yield f"{witness.name}: left, and no receipt is kept"
        else:
            witness.hear_receipt(receipt)
            yield from witness.trouble


def check_logs(fleet: Fleet) -> Iterator[str]:
    """No error but that the store was away."""
    for text in fleet.output():
        yield from check_log(text)


def lapses(fleet: Fleet) -> int:
    """How often a node gave its sessions up because its lease was over."""
    return sum(text.count(words) for text in fleet.output() for words in _LAPSES)
