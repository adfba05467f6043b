"""The store in memory as one that several nodes share: leases, and asking for sessions."""

from __future__ import annotations

from dataclasses import dataclass, field

from memory_store import Database, MemoryStore

from inorder_server.stores.port import Claimed, StoreUnavailable
from inorder_server.stores.shared import Neighbour, Want


@dataclass
class SharedDatabase(Database):
    nodes: dict[str, Neighbour] = field(default_factory=dict)
    wants: dict[str, str] = field(default_factory=dict)

    def dead(self, node: str | None) -> bool:
        return node is not None and self.nodes[node].dead


class SharedMemoryStore(MemoryStore):
    """One node's. ``lose_raises``: so many raises take effect but seem to fail."""

    database: SharedDatabase

    def __init__(self, database: SharedDatabase) -> None:
        super().__init__(database)
        self.lose_raises = 0

    async def open(self, node: str) -> None:
        self.node = node
        self.database.nodes[node] = Neighbour(node, 0, dead=False)

    async def close(self) -> None:
        self._die(self.node)

    def _die(self, node: str) -> None:
        self.database.nodes[node] = Neighbour(node, self.database.nodes[node].n, dead=True)

    async def claim(self, session: str) -> Claimed | None:
        row = self.database.sessions.get(session)
        if row is not None and self.database.dead(row.node):
            row.node = None
        self.database.wants.pop(session, None)
        return await super().claim(session)

    async def unfinished(self) -> list[str]:
        return await super().unfinished() + await self.abandoned()

    async def raise_lease(self, n: int) -> bool:
        await self._call("raise_lease")
        me = self.database.nodes[self.node]
        if me.dead or me.n != n:
            return False
        self.database.nodes[self.node] = Neighbour(me.name, n + 1, dead=False)
        if self.lose_raises:
            self.lose_raises -= 1
            raise StoreUnavailable("its answer is lost")
        return True

    async def rejoin(self, node: str) -> None:
        await self._call("rejoin")
        self._die(self.node)
        await self.open(node)

    async def neighbours(self) -> list[Neighbour]:
        await self._call("neighbours")
        return list(self.database.nodes.values())

    async def declare_dead(self, node: str, seen: int) -> bool:
        await self._call("declare_dead")
        if self.database.nodes[node].n == seen:
            self._die(node)
        return self.database.dead(node)

    async def bury(self, node: str) -> bool:
        if any(row.node == node for row in self.database.sessions.values()):
            return False
        del self.database.nodes[node]
        return True

    async def want(self, session: str) -> bool:
        await self._call("want")
        row = self.database.sessions.get(session)
        if row is None or row.node in (None, self.node) or self.database.dead(row.node):
            return False
        self.database.wants[session] = self.node
        return True

    async def wanted(self) -> list[Want]:
        await self._call("wanted")
        rows = self.database.sessions
        return [
            Want(id, rows[id].epoch, node)
            for id, node in self.database.wants.items()
            if rows[id].node == self.node
        ]

    async def mine(self) -> dict[str, int]:
        await self._call("mine")
        rows = self.database.sessions.values()
        return {r.id: r.epoch for r in rows if r.node == self.node and r.state == "live"}

    async def abandoned(self) -> list[str]:
        rows = self.database.sessions.values()
        return [r.id for r in rows if r.state == "live" and self.database.dead(r.node)]
