"""What is seldom written on MongoDB: expiry, users, operators' commands.

What is written here is tried again where an answer was lost; a duplicate that bears one's own
mark is a success, once that was written to again.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from bson.int64 import Int64
from pymongo.errors import AutoReconnect, DuplicateKeyError
from pymongo.operations import DeleteMany, UpdateOne

from . import mongo_reads as reads
from .mongo_documents import Found, row_id, rows, user_document
from .mongo_link import MongoLink
from .port import User

_T = TypeVar("_T")
_TRIES = 3
_AT_ONCE = 50
# A command that no node has read within an hour (ms) concerns nobody any more.
_COMMAND_LIFE = 3_600_000
_AGAIN = {"$inc": {"again": 1}}
_FREE = {"state": "live", "node": None, "open": False}


async def tried(work: Callable[[], Awaitable[_T]]) -> _T:
    """What ``work`` returns, at once where a connection was merely old."""
    for left in reversed(range(_TRIES)):
        try:
            return await work()
        except AutoReconnect as exc:
            if not left or exc.timeout:
                raise
    raise AssertionError("not reached")


# ---- P16


async def expire(link: MongoLink, left_before_ms: int, ended_before_ms: int) -> list[str]:
    """Those that were live and are gone."""
    await _forget(link, ended_before_ms, left_before_ms)
    old = {**_FREE, "left_ms": {"$lt": left_before_ms}}
    fields = {"epoch": 1, "accepted": 1, "acked": 1}
    docs = await link.sessions.find(old, fields).to_list()
    gone: list[str] = []
    # A few at a time: commits come between.
    for i in range(0, len(docs), _AT_ONCE):
        gone += await _expire(link, docs[i : i + _AT_ONCE])
    return gone


async def _expire(link: MongoLink, docs: Sequence[Found]) -> list[str]:
    # Outcomes come in order: where the last request has one, all have. One that has unsettled
    # requests stays: held work is its node's to end, blocked work waits for an operator.
    last = {d["_id"]: row_id(d["_id"], d["accepted"]) for d in docs if d["accepted"] > d["acked"]}
    ends = await link.find(link.requests, list(last.values()), {"ending": 1})
    settled = {id for id, row in last.items() if row in ends and ends[row].get("ending")}
    over = [d for d in docs if d["_id"] not in last or d["_id"] in settled]
    done = await link.change(
        link.sessions,
        [
            UpdateOne(
                {
                    "_id": d["_id"],
                    "state": "live",
                    "node": None,
                    "open": False,
                    "epoch": d["epoch"],
                },
                {"$set": {"state": "gone"}},
            )
            for d in over
        ],
    )
    ids = [d["_id"] for d in over]
    if done < len(over):
        found = await link.find(link.sessions, ids, {"state": 1})
        ids = [id for id in ids if id in found and found[id]["state"] == "gone"]
    await link.change(link.requests, [DeleteMany(rows(id)) for id in ids], ordered=False)
    return ids


async def _forget(link: MongoLink, ended_before_ms: int, gone_before_ms: int) -> None:
    """Rows of sessions that aren't live go, and then their sessions."""
    for state, before in (("ended", ended_before_ms), ("gone", gone_before_ms)):
        old = {"state": state, "left_ms": {"$lt": before}}
        ids = [doc["_id"] async for doc in link.sessions.find(old, {"_id": 1})]
        for i in range(0, len(ids), _AT_ONCE):
            part = ids[i : i + _AT_ONCE]
            await link.change(link.requests, [DeleteMany(rows(id)) for id in part], ordered=False)
            await link.sessions.delete_many({"_id": {"$in": part}, "state": state})


# ---- users


async def add_user(link: MongoLink, user: User) -> bool:
    doc = user_document(user)

    async def add() -> bool:
        try:
            await link.users.insert_one(dict(doc))
        except DuplicateKeyError:
            # The hash is salted: nobody else's is the same.
            mine = {"_id": doc["_id"], "password_hash": doc["password_hash"]}
            return lost and (await link.users.update_one(mine, _AGAIN)).matched_count == 1
        return True

    lost = False
    try:
        return await add()
    except AutoReconnect:
        lost = True
        return await tried(add)


async def set_password(link: MongoLink, name: str, password_hash: bytes) -> bool:
    changed = await tried(
        lambda: link.users.update_one(
            {"_id": name}, {"$set": {"password_hash": password_hash}, "$inc": {"generation": 1}}
        )
    )
    return changed.matched_count == 1


async def revoke(link: MongoLink, name: str) -> bool:
    changed = await tried(lambda: link.users.update_one({"_id": name}, {"$inc": {"generation": 1}}))
    return changed.matched_count == 1


async def delete_user(link: MongoLink, name: str) -> bool:
    return (await link.users.delete_one({"_id": name})).deleted_count == 1


# ---- operators


async def post(link: MongoLink, verb: str, target: str, argument: str, at_ms: int) -> int:
    """The next number goes to whoever inserts it first, so that none appears behind a higher
    one that somebody has read already."""
    mark = secrets.token_hex(16)
    created = Int64(at_ms)
    while True:
        n = await tried(lambda: reads.last_command(link)) + 1
        doc = {
            "_id": n,
            "verb": verb,
            "target": target,
            "argument": argument,
            "created_ms": created,
            "mark": mark,
        }
        if await tried(lambda doc=doc: _posted(link, doc)):  # type: ignore[misc]
            break
    # The last one stays: it says which numbers were given.
    old = {"created_ms": {"$lt": Int64(at_ms - _COMMAND_LIFE)}, "_id": {"$lt": n}}
    await link.commands.delete_many(old)
    return n


async def _posted(link: MongoLink, doc: Found) -> bool:
    try:
        await link.commands.insert_one(dict(doc))
    except DuplicateKeyError:
        mine = {"_id": doc["_id"], "mark": doc["mark"]}
        return (await link.commands.update_one(mine, _AGAIN)).matched_count == 1
    return True
