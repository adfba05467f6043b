"""Leases on MongoDB: P0 of ownership.md. What they mean is for :mod:`inorder_server.cluster`."""

from __future__ import annotations

from bson.int64 import Int64
from pymongo.errors import DuplicateKeyError

from .mongo_claim import is_dead
from .mongo_link import MongoLink
from .mongo_reads import dead_nodes
from .port import StoreError
from .shared import Neighbour, Want


async def join(link: MongoLink, node: str, at_ms: int) -> None:
    """The node is known from now on, and owns nothing yet. Raises :class:`StoreError` where
    its name is not new."""
    try:
        doc = {"_id": node, "n": 0, "state": "live", "since_ms": Int64(at_ms)}
        await link.nodes.insert_one(doc)
    except DuplicateKeyError:
        raise StoreError(f"{link.name}: there is a node {node} already") from None


async def raise_lease(link: MongoLink, node: str, n: int) -> bool:
    """Raises the counter from ``n`` to ``n + 1``. False where it is not ``n``, or the node was
    declared dead. A raise of an earlier attempt counts for nothing here: when it moved the
    counter, for the others to see, nobody knows."""
    filter = {"_id": node, "n": n, "state": "live"}
    return (await link.nodes.update_one(filter, {"$set": {"n": n + 1}})).matched_count == 1


async def neighbours(link: MongoLink) -> list[Neighbour]:
    """Every node that is known, this one too."""
    return [
        Neighbour(doc["_id"], doc["n"], doc["state"] == "dead")
        async for doc in link.nodes.find({}, {"n": 1, "state": 1})
    ]


async def declare_dead(link: MongoLink, node: str, seen: int) -> bool:
    """Whether it is dead now. False where its counter moved after all."""
    filter = {"_id": node, "n": seen, "state": "live"}
    dead = {"$set": {"state": "dead"}}
    if (await link.nodes.update_one(filter, dead)).matched_count:
        return True
    return await is_dead(link, node)


async def leave(link: MongoLink, node: str) -> None:
    """A node's own last word: it runs nothing any more."""
    await link.nodes.update_one({"_id": node}, {"$set": {"state": "dead"}})


async def bury(link: MongoLink, node: str) -> bool:
    """Forgets a dead node that owns nothing any more. False where it does."""
    if await link.sessions.find_one({"node": node, "state": "live"}, {"_id": 1}) is not None:
        return False
    await link.nodes.delete_one({"_id": node, "state": "dead"})
    return True


async def want(link: MongoLink, node: str, session: str) -> bool:
    """P12. False where nobody else owns the session: it may be claimed, or is gone."""
    while True:
        doc = await link.sessions.find_one(
            {"_id": session}, {"epoch": 1, "node": 1, "state": 1, "want": 1}
        )
        if doc is None or doc["state"] != "live" or doc["node"] in (None, node):
            return False
        if await is_dead(link, doc["node"]):
            return False
        if doc["want"] == node:
            return True
        filter = {"_id": session, "epoch": doc["epoch"], "node": doc["node"], "state": "live"}
        if (await link.sessions.update_one(filter, {"$set": {"want": node}})).matched_count:
            return True


async def wanted(link: MongoLink, node: str) -> list[Want]:
    """P14: what others want of this node's sessions."""
    filter = {"node": node, "want": {"$gt": ""}, "state": "live"}
    return [
        Want(doc["_id"], doc["epoch"], doc["want"])
        async for doc in link.sessions.find(filter, {"epoch": 1, "want": 1})
    ]


async def mine(link: MongoLink, node: str) -> dict[str, int]:
    """P14: the sessions of this node, with their epochs."""
    filter = {"node": node, "state": "live"}
    return {doc["_id"]: doc["epoch"] async for doc in link.sessions.find(filter, {"epoch": 1})}


async def abandoned(link: MongoLink) -> list[str]:
    """P14: live sessions of the dead."""
    dead = await dead_nodes(link)
    if not dead:
        return []
    filter = {"node": {"$in": dead}, "state": "live"}
    return [doc["_id"] async for doc in link.sessions.find(filter, {"_id": 1})]
