"""What a store that several nodes share offers beside the port: leases, and asking for sessions.

Source: ownership.md, P0, P12 and P14.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from .port import Store


class Neighbour(Struct, frozen=True):
    """A node as the store has it: its counter, and whether it was declared dead."""

    name: str
    n: int
    dead: bool


class Want(Struct, frozen=True):
    """P12: another node asks for a session of this one's."""

    session: str
    epoch: int
    node: str


class SharedStore(Store, Protocol):
    """All methods may raise :class:`~inorder_server.stores.port.StoreUnavailable`."""

    async def raise_lease(self, n: int) -> bool:
        """P0. Raises this node's counter from ``n`` to ``n + 1``, durably. False where it is
        not ``n``: an earlier attempt raised it, or the node was declared dead."""
        ...

    async def rejoin(self, node: str) -> None:
        """P0. This process stopped everything and begins again under a new name: what it
        owned under the old one is free."""
        ...

    async def neighbours(self) -> list[Neighbour]:
        """P0. Every node that is known, this one too."""
        ...

    async def declare_dead(self, node: str, seen: int) -> bool:
        """P0. Whether ``node``, whose counter stood still at ``seen``, is dead now."""
        ...

    async def bury(self, node: str) -> bool:
        """Forgets a dead node. False where it still owns sessions."""
        ...

    async def want(self, session: str) -> bool:
        """P12. Asks the owner for a session. False where no other living node owns it."""
        ...

    async def wanted(self) -> list[Want]:
        """P14. What others want of this node's sessions."""
        ...

    async def mine(self) -> dict[str, int]:
        """P14. The live sessions that are this node's, with their epochs."""
        ...

    async def abandoned(self) -> list[str]:
        """P14. Live sessions of dead nodes; ``unfinished`` has these too."""
        ...
