"""How a session becomes this node's: P2 to P5 of ownership.md.

The stamp goes from the highest number down: outcomes of a session are written from the lowest up,
so that a late one of the old owner's is refused wherever an earlier one was.
"""

from __future__ import annotations

from pymongo.operations import UpdateOne

from .mongo_documents import (
    Document,
    Found,
    came_late,
    is_own,
    request_row,
    rows,
    seq_of,
    session_row,
)
from .mongo_link import MongoLink
from .mongo_owned import STAMPED, Own, Owned
from .port import Claimed, RequestRow, StoreUnavailable

_LOOKS = 20
# A bulk has one timeout, and one that fails is begun again under another epoch, from its start.
# So many at a time are done in time by a server that is slow, too.
_STAMPS_AT_A_TIME = 100


class _Superseded(Exception):
    """Rows that this claim is to load were acknowledged, or are gone: a later owner's doing."""


async def claim(link: MongoLink, owned: Owned, session: str) -> Claimed | None:
    """P2 to P5; None where the session is not to be had."""
    for _ in range(_LOOKS):
        doc = await link.sessions.find_one({"_id": session})
        if doc is None or doc["state"] != "live" or not await _may_claim(link, owned, doc):
            return None
        if await _take(link, owned, doc):
            try:
                return await _load(link, owned, session, doc["epoch"] + 1)
            except _Superseded:
                continue
    raise StoreUnavailable(f"{link.name}: session {session} is fought over")


async def is_dead(link: MongoLink, node: str) -> bool:
    """Whether somebody has declared the node dead. One that is not known has been forgotten
    since; no node owns anything before it is known."""
    doc = await link.nodes.find_one({"_id": node}, {"state": 1})
    return doc is None or doc["state"] == "dead"


async def _may_claim(link: MongoLink, owned: Owned, doc: Found) -> bool:
    owner = doc["node"]
    return owner is None or owner == owned.node or await is_dead(link, owner)


async def _take(link: MongoLink, owned: Owned, doc: Found) -> bool:
    """P2. False where the session moved since it was read."""
    id, epoch, owner = doc["_id"], doc["epoch"], doc["node"]
    # A claim whose rows could not be read is made again: `clean` is lost in the document then.
    known, clean = owned.was_clean.get(id, (0, False))
    was_clean = doc["clean"] or (owner == owned.node and known == epoch and clean)
    owned.was_clean[id] = (epoch + 1, was_clean)
    sets: Document = {
        "epoch": epoch + 1,
        "node": owned.node,
        "clean": False,
        "held": False,
        "want": None,
    }
    if doc["accepted"] > doc["acked"]:
        # There may be work: whoever adopts it after this node's death will see.
        sets["open"] = True
    taken = await link.sessions.update_one(
        {"_id": id, "state": "live", "epoch": epoch, "node": owner}, {"$set": sets}
    )
    return taken.matched_count == 1


async def _load(link: MongoLink, owned: Owned, session: str, epoch: int) -> Claimed | None:
    """P3 to P5."""
    doc = await link.sessions.find_one({"_id": session})
    if doc is None or not is_own(doc, epoch, owned.node):
        return None
    found = await _stamped(link, doc)
    unsettled = [r for r in found if r.ending is None and not r.stripped]
    if unsettled:
        first, last = unsettled[0].seq, unsettled[-1].seq
        fields = {"params": 1}
        cursor = link.requests.find(rows(session, first - 1, last), fields)
        bodies = {seq_of(row["_id"]): row async for row in cursor}
        for r in unsettled:
            if "params" not in bodies.get(r.seq, ()):
                raise _Superseded
            r.params = bodies[r.seq]["params"]
    # Last: it was ours all the while.
    doc = await link.sessions.find_one({"_id": session})
    if doc is None or not is_own(doc, epoch, owned.node):
        return None
    owned.sessions[session] = Own(epoch, doc["accepted"], doc["acked"])
    _, was_clean = owned.was_clean.pop(session, (0, False))
    return Claimed(session_row(doc), was_clean, found)


async def _stamped(link: MongoLink, doc: Found) -> list[RequestRow]:
    """P4, and the rows: every one of them has an outcome, or bears this epoch."""
    session, epoch, acked = doc["_id"], doc["epoch"], doc["acked"]
    for _ in range(_LOOKS):
        cursor = link.requests.find(
            rows(session, 0, doc["accepted"]), {"params": 0, "outcome": 0}
        ).sort("_id", 1)
        found = await cursor.to_list()
        if any("epoch" not in row for row in found if seq_of(row["_id"]) > acked):
            raise _Superseded
        older = [
            row["_id"]
            for row in reversed(found)
            if seq_of(row["_id"]) > acked and row["ending"] is None and row["epoch"] != epoch
        ]
        if not older:
            return [request_row(row, acked) for row in found if not came_late(row, acked)]
        stamp = {"$set": {"epoch": epoch, "try": STAMPED}}
        stamps = [
            UpdateOne({"_id": id, "ending": None, "epoch": {"$lt": epoch}}, stamp) for id in older
        ]
        for i in range(0, len(stamps), _STAMPS_AT_A_TIME):
            await link.change(link.requests, stamps[i : i + _STAMPS_AT_A_TIME])
    raise StoreUnavailable(f"{link.name}: session {session} moved while it was claimed")
