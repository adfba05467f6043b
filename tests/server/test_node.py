"""A node's parts: their defaults."""

from __future__ import annotations

import time

from node_bench import Bench
from virtual_time import virtual

from inorder_server.node import Node, wall_ms


def test_the_wall_s_time_is_in_milliseconds() -> None:
    assert abs(wall_ms() - time.time() * 1000) < 10_000


@virtual
async def test_a_node_takes_work_and_has_suspects_of_its_own() -> None:
    parts = Bench().node
    one, other = (
        Node(
            "n",
            parts.config,
            parts.store,
            parts.journal,
            parts.methods,
            parts.runner,
            parts.metrics,
        )
        for _ in range(2)
    )
    assert not one.draining
    assert one.now is time.monotonic
    assert one.suspects.enter() is None
    assert other.suspects.enter() is None
