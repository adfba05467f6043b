"""What all connections of a node share, and what is done to them together.

Source: design.md section 5, "A stuck client" and "SIGTERM/SIGINT".
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from inorder.codes import CloseCode

from .acceptances import Hold
from .auth import Auth
from .node import Node
from .registry import Registry
from .voice import Phase, Voice


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as far as the handshake told."""

    address: str
    forwarded: bool


@dataclass(slots=True)
class Edge:
    """The connections of a node, and how many each user has."""

    node: Node
    registry: Registry
    auth: Auth
    connections: set[Voice] = field(default_factory=set)
    per_user: Counter[str] = field(default_factory=Counter)
    hold: Hold = field(default_factory=Hold)

    def dismiss(self) -> None:
        """The node goes down: those who have not logged in are sent away."""
        for connection in list(self.connections):
            if connection.phase is Phase.GREETING:
                connection.finish(CloseCode.RESTART, "draining")

    def close_slow(self, now: float) -> None:
        """Closes connections whose peer takes nothing; ``now`` by the loop's clock."""
        bound = self.node.config.session.slow_client_timeout
        for connection in self.connections:
            since = connection.outbox.stuck_since
            if since is not None and now - since > bound:
                connection.too_slow(bound)
