"""The MongoDB adapter: many nodes on one database, each session owned by one of them at a time.

Nothing is used beyond what every compatible server does alike, and nothing beyond the atomicity
of a single document: it runs on a standalone server, a replica set and a sharded cluster. Every
write is acknowledged by a majority and journaled there; reads go to the primary.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from . import mongo_nodes as nodes
from . import mongo_rare as rare
from . import mongo_reads as reads
from .mongo_claim import claim
from .mongo_link import POOL, MongoLink
from .mongo_owned import Owned
from .mongo_writes import commit
from .port import (
    Claimed,
    Command,
    Outcome,
    RequestRow,
    SessionRow,
    StoreError,
    StoreUnavailable,
    Tally,
    User,
    Write,
)
from .shared import Neighbour, Want

# When a node dies the others are asked for all its sessions at once. A wait here is no part of an
# operation's timeout, as that for a connection is; and half the connections are for all else.
CLAIMS_AT_A_TIME = POOL // 2
_TOOLS_WAIT = 10.0


class MongoStore:
    """A :class:`~inorder_server.stores.shared.SharedStore` in the database that ``uri`` names
    (``inorder`` where it names none).

    With ``serving`` false it joins no cluster, owns no session and changes none (``commit``,
    ``claim`` and ``expire`` raise :class:`StoreError`): for tools beside running servers.
    No operation of a server takes longer than a third of ``lease`` (seconds). A tool has none
    to lose, and waits for a database that is busy.
    """

    def __init__(self, uri: str, serving: bool = True, lease: float = 10.0) -> None:
        self._link = MongoLink(uri, lease / 3 if serving else max(lease / 3, _TOOLS_WAIT))
        self.name = self._link.name
        self._serving = serving
        self._node: Owned | None = None
        self._claims = asyncio.Semaphore(CLAIMS_AT_A_TIME)

    async def open(self, node: str) -> None:
        await self._link.open()
        self.name = self._link.name
        if self._serving:
            try:
                await self._link.call(nodes.join(self._link, node, time.time_ns() // 1_000_000))
            except BaseException:
                await self._link.close()
                raise
            self._node = Owned(node)

    async def close(self) -> None:
        """Whatever this node still owns is free for the others: it runs nothing any more."""
        node, self._node = self._node, None
        if node is not None:
            with contextlib.suppress(StoreUnavailable):
                await self._link.call(nodes.leave(self._link, node.node))
        await asyncio.shield(self._link.close())

    @property
    def _owned(self) -> Owned:
        if self._node is None:
            raise StoreError(f"{self.name} is not open for serving: its sessions are not ours")
        return self._node

    # -- sessions

    async def commit(self, writes: Sequence[Write]) -> set[str]:
        return await self._link.call(commit(self._link, self._owned, writes))

    async def claim(self, session: str) -> Claimed | None:
        async with self._claims:
            return await self._link.call(claim(self._link, self._owned, session))

    async def session(self, session: str) -> SessionRow | None:
        return await self._link.call(reads.session(self._link, session))

    async def unfinished(self) -> list[str]:
        return await self._link.call(reads.unfinished(self._link))

    async def outcomes(self, session: str, after: int, upto: int, max_bytes: int) -> list[Outcome]:
        return await self._link.call(reads.outcomes(self._link, session, after, upto, max_bytes))

    async def tally(self, session: str) -> Tally:
        return await self._link.call(reads.tally(self._link, session))

    async def held(self, left_before_ms: int) -> list[str]:
        return await self._link.call(reads.held(self._link, left_before_ms))

    async def expire(self, left_before_ms: int, ended_before_ms: int) -> list[str]:
        _ = self._owned
        return await self._link.call(rare.expire(self._link, left_before_ms, ended_before_ms))

    # -- users

    async def add_user(self, user: User) -> bool:
        return await self._link.call(rare.add_user(self._link, user))

    async def user(self, name: str) -> User | None:
        return await self._link.call(reads.user(self._link, name))

    async def users(self) -> list[User]:
        return await self._link.call(reads.users(self._link))

    async def set_password(self, name: str, password_hash: bytes) -> bool:
        return await self._link.call(rare.set_password(self._link, name, password_hash))

    async def revoke(self, name: str) -> bool:
        return await self._link.call(rare.revoke(self._link, name))

    async def delete_user(self, name: str) -> bool:
        return await self._link.call(rare.delete_user(self._link, name))

    # -- operators

    async def post(self, verb: str, target: str, argument: str, at_ms: int) -> int:
        return await self._link.call(rare.post(self._link, verb, target, argument, at_ms))

    async def commands(self, after: int) -> list[Command]:
        return await self._link.call(reads.commands(self._link, after))

    async def last_command(self) -> int:
        return await self._link.call(reads.last_command(self._link))

    async def sessions(self) -> list[SessionRow]:
        return await self._link.call(reads.sessions(self._link))

    async def requests(self, session: str, after: int = 0) -> AsyncIterator[RequestRow]:
        while portion := await self._link.call(reads.requests(self._link, session, after)):
            for row in portion:
                yield row
            after = portion[-1].seq

    # -- the cluster

    async def raise_lease(self, n: int) -> bool:
        return await self._link.call(nodes.raise_lease(self._link, self._owned.node, n))

    async def rejoin(self, node: str) -> None:
        await self._link.call(nodes.leave(self._link, self._owned.node))
        await self._link.call(nodes.join(self._link, node, time.time_ns() // 1_000_000))
        self._node = Owned(node)

    async def neighbours(self) -> list[Neighbour]:
        return await self._link.call(nodes.neighbours(self._link))

    async def declare_dead(self, node: str, seen: int) -> bool:
        return await self._link.call(nodes.declare_dead(self._link, node, seen))

    async def bury(self, node: str) -> bool:
        return await self._link.call(nodes.bury(self._link, node))

    async def want(self, session: str) -> bool:
        return await self._link.call(nodes.want(self._link, self._owned.node, session))

    async def wanted(self) -> list[Want]:
        return await self._link.call(nodes.wanted(self._link, self._owned.node))

    async def mine(self) -> dict[str, int]:
        return await self._link.call(nodes.mine(self._link, self._owned.node))

    async def abandoned(self) -> list[str]:
        return await self._link.call(nodes.abandoned(self._link))
