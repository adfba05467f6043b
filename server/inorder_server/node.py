"""A node's parts, as its queues and its registry see them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from .config import Config
from .handlers.methods import Methods
from .handlers.runner import Runner
from .handlers.slots import Slots
from .journal import Journal
from .metrics import Metrics
from .stores.port import Store


class Standing(Protocol):
    """This node's among others that share its store."""

    @property
    def alive(self) -> bool:
        """Whether it may run sessions: its lease holds."""
        ...

    async def obtain(self, session: str, given_up: Callable[[], bool]) -> None:
        """Returns when a session that another node owns may be claimed, or nobody waits for it."""
        ...


def wall_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Node:
    """One server process. ``name`` is new at every start: an incarnation, not a machine."""

    name: str
    config: Config
    store: Store
    journal: Journal
    methods: Methods
    runner: Runner
    metrics: Metrics
    now: Callable[[], float] = time.monotonic
    wall_ms: Callable[[], int] = wall_ms
    draining: bool = False
    standing: Standing | None = None
    """None where nobody shares the store."""
    suspects: Slots = field(default_factory=lambda: Slots(1))
    """For heads that were interrupted more than once: such run one at a time, so that a
    request that kills the process takes no innocent one along."""

    @property
    def alive(self) -> bool:
        """Whether it may run sessions."""
        return self.standing is None or self.standing.alive
