"""What a fault run on several nodes is to be, all of it from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from plan import Client, Fault, clients_of, work_of

CLIENTS = 8
REQUESTS = 240
"""At least so many are accepted in a run; the stand-in for MongoDB is slow."""

NODE_FAULTS = ("kill", "stop", "pause")
STORE_FAULTS = ("store-kill", "store-cut", "store-hole", "store-slow")
NETWORK_FAULTS = ("drop", "cut", "delay", "half-open")
_WEIGHTS = [3, 1, 4, 2, 3, 3, 2, 1, 1, 1, 1]
_RIVALS_WORK = 10
_MS = 8.0
"""On average, of a request that takes time: long enough to be interrupted now and then."""


@dataclass
class FleetPlan:
    """``clients`` go to the nodes by turns, the ``rivals`` share a session."""

    seed: int
    nodes: int
    config: dict[str, dict[str, Any]]
    clients: list[Client]
    rivals: list[Client]
    faults: list[Fault]

    @property
    def total(self) -> int:
        return sum(len(client.work) for client in (*self.clients, *self.rivals))


def fleet_plan(seed: int, nodes: int = 3) -> FleetPlan:
    """The run of this seed on so many nodes."""
    rng = random.Random(f"{seed} on {nodes}")
    config: dict[str, dict[str, Any]] = {
        "server": {"drain_timeout": rng.choice([0.2, 1]), "ping_interval": 1},
        "session": {
            "queue": rng.choice([10, 60, 1000]),
            "unacked": rng.choice([60, 10000]),
            "on_disconnect": rng.choice(["finish", "finish", "hold", "cancel"]),
        },
        "handlers": {"modules": ["vault_handlers", "fault_handlers"]},
    }
    names = [f"client-{n}" for n in range(rng.randint(CLIENTS, CLIENTS + 2))]
    clients = clients_of(names, REQUESTS, rng, ms=_MS)
    rivals = [_rival(name, names, rng) for name in ("rival-1", "rival-2")]
    return FleetPlan(seed, nodes, config, clients, rivals, _faults(rng))


def _rival(name: str, names: list[str], rng: random.Random) -> Client:
    """Nothing of what it sends is refused for good."""
    work = [
        message
        for message in work_of(name, names, _RIVALS_WORK, rng, _MS)
        if message["method"] != "no_such_method" and message["params"] != {"ms": "long"}
    ]
    return Client(name, rng.getrandbits(32), work, window=rng.choice([1, 3, 8]), ack=1)


def _faults(rng: random.Random) -> list[Fault]:
    """Four to seven, in order, among them the kill of a node."""
    kinds = ["kill"]
    kinds += rng.choices(
        [*NODE_FAULTS, *STORE_FAULTS, *NETWORK_FAULTS], _WEIGHTS, k=rng.randint(3, 6)
    )
    rng.shuffle(kinds)
    places = sorted(rng.uniform(0.02, 0.8) for _ in kinds)
    return [Fault(kind, at, rng.random()) for kind, at in zip(kinds, places, strict=True)]
