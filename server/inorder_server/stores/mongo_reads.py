"""What is asked of MongoDB, all of it from the primary."""

from __future__ import annotations

import random

from .mongo_documents import (
    MAX_SEQ,
    Document,
    Found,
    came_late,
    request_row,
    rows,
    seq_of,
    session_row,
    user_of,
)
from .mongo_link import MongoLink
from .port import Command, Outcome, RequestRow, SessionRow, StoreUnavailable, Tally, User

_LOOKS = 20
_PORTION_ROWS = 500
_BATCH_ROWS = 100
_PORTION_BYTES = 1 << 20


async def session(link: MongoLink, id: str) -> SessionRow | None:
    doc = await link.sessions.find_one({"_id": id, "state": {"$in": ["live", "ended"]}})
    return None if doc is None else session_row(doc)


async def sessions(link: MongoLink) -> list[SessionRow]:
    cursor = link.sessions.find({"state": {"$in": ["live", "ended"]}}).sort("created_ms", -1)
    return [session_row(doc) async for doc in cursor]


async def dead_nodes(link: MongoLink) -> list[str]:
    return [doc["_id"] async for doc in link.nodes.find({"state": "dead"}, {"_id": 1})]


async def unfinished(link: MongoLink) -> list[str]:
    """P14's sweep, in random order: several nodes do it at a time.

    A dead owner's sessions are all of them taken up: also those without work must be given up,
    or they would never expire.
    """
    free = {"node": None, "open": True, "state": "live"}
    found = [doc["_id"] async for doc in link.sessions.find(free, {"_id": 1})]
    dead = await dead_nodes(link)
    if dead:
        left = {"node": {"$in": dead}, "state": "live"}
        found += [doc["_id"] async for doc in link.sessions.find(left, {"_id": 1})]
    random.shuffle(found)
    return found


async def held(link: MongoLink, left_before_ms: int) -> list[str]:
    filter = {"state": "live", "left_ms": {"$lt": left_before_ms}, "node": None, "held": True}
    return [doc["_id"] async for doc in link.sessions.find(filter, {"_id": 1})]


async def requests(link: MongoLink, id: str, after: int) -> list[RequestRow]:
    """The next portion of a session's rows, bodies included; empty at the end. One that was
    inserted but not confirmed is nobody's yet."""
    live = {"_id": id, "state": "live"}
    doc = await link.sessions.find_one(live, {"accepted": 1, "acked": 1})
    if doc is None or after >= doc["accepted"]:
        return []
    found: list[RequestRow] = []
    size, seen = 0, -1
    # Another one where all that was read is nobody's.
    while not found and after != seen:
        seen = after
        cursor = link.requests.find(rows(id, after, doc["accepted"])).sort("_id", 1)
        async with cursor.limit(_PORTION_ROWS).batch_size(_BATCH_ROWS) as portion:
            async for row in portion:
                after = seq_of(row["_id"])
                if came_late(row, doc["acked"]):
                    continue
                found.append(request_row(row, doc["acked"]))
                size += len(found[-1].params or b"") + len(found[-1].outcome or b"")
                if size > _PORTION_BYTES:
                    break
    return found


async def outcomes(
    link: MongoLink, id: str, after: int, upto: int, max_bytes: int
) -> list[Outcome]:
    doc = await link.sessions.find_one({"_id": id}, {"accepted": 1, "acked": 1})
    if doc is None:
        return []
    after, upto = max(after, doc["acked"]), min(upto, doc["accepted"])
    found: list[Outcome] = []
    size = 0
    while after < upto:
        # By number, so that no more is read than a portion: they lie side by side.
        last = min(after + _PORTION_ROWS, upto)
        fields = {"id": 1, "ending": 1, "outcome": 1}
        cursor = link.requests.find(rows(id, after, last), fields).sort("_id", 1)
        for row in await cursor.to_list():
            if row.get("ending") is None:
                return found
            size += len(row["outcome"])
            if found and size > max_bytes:
                return found
            found.append(Outcome(seq_of(row["_id"]), row["id"], row["ending"], row["outcome"]))
        after = last
    return found


async def tally(link: MongoLink, id: str) -> Tally:
    """Counted again where an acknowledgement came in between: it would be counted twice."""
    fields = dict.fromkeys(("epoch", "state", "accepted", "acked", *_ENDINGS), 1)
    before = await link.sessions.find_one({"_id": id}, fields)
    for _ in range(_LOOKS):
        if before is None:
            return Tally(0, 0, 0, 0)
        counts = await _count(link, before)
        after = await link.sessions.find_one({"_id": id}, fields)
        if after == before:
            done, failed, cancelled = (before[key] + counts.get(key, 0) for key in _ENDINGS)
            return Tally(done, failed, cancelled, counts.get(None, 0))
        before = after
    raise StoreUnavailable(f"{link.name}: session {id} moved while it was counted")


_ENDINGS = ("done", "failed", "cancelled")


async def _count(link: MongoLink, doc: Found) -> dict[str | None, int]:
    if doc["state"] != "live" or doc["accepted"] <= doc["acked"]:
        return {}  # what comes late of a session that ended is nobody's
    cursor = await link.requests.aggregate(
        [
            {"$match": rows(doc["_id"], doc["acked"], min(doc["accepted"], MAX_SEQ))},
            {"$group": {"_id": "$ending", "n": {"$sum": 1}}},
        ]
    )
    return {group["_id"]: group["n"] for group in await cursor.to_list()}


async def user(link: MongoLink, name: str) -> User | None:
    doc = await link.users.find_one({"_id": name})
    return None if doc is None else user_of(doc)


async def users(link: MongoLink) -> list[User]:
    return [user_of(doc) async for doc in link.users.find({}).sort("_id", 1)]


async def commands(link: MongoLink, after: int) -> list[Command]:
    cursor = link.commands.find({"_id": {"$gt": after}}).sort("_id", 1)
    return [command(doc) async for doc in cursor]


def command(doc: Document) -> Command:
    return Command(doc["_id"], doc["verb"], doc["target"], doc["argument"], int(doc["created_ms"]))


async def last_command(link: MongoLink) -> int:
    found = await link.commands.find({}, {"_id": 1}).sort("_id", -1).limit(1).to_list()
    return int(found[0]["_id"]) if found else 0
