"""What a fault run is to be, all of it from its seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from frames import Json, request

REQUESTS = 2000
"""At least so many are accepted in a run."""
CLIENTS = 20
START = 100_000
"""Cents that each client pays in first."""
BETWEEN_KILLS = 100
"""Requests, on average, where killing is all that happens."""

SERVER_FAULTS = ("kill", "stop", "pause", "lock", "full")
NETWORK_FAULTS = ("drop", "cut", "delay", "half-open")
_MIX = {"transfer": 55, "roll": 25, "roll_thread": 6, "roll_once": 7, "roll_again": 4, "bad": 3}


@dataclass(frozen=True)
class Fault:
    """``at`` is the part of all outcomes that have come when it happens; ``size`` is a random
    number from 0 to 1 that says how much of it."""

    kind: str
    at: float
    size: float


@dataclass
class Client:
    """``window`` requests may be on their way; every ``ack``-th outcome is acknowledged.
    ``bye`` is the part of its work after which it leaves, 1: all of it."""

    name: str
    seed: int
    work: list[Json]
    window: int
    ack: int
    bye: float = 1.0
    leaves: bool = False
    cancels: set[str] = field(default_factory=set)
    repeats: bool = False


@dataclass
class Plan:
    """``through`` is ``raw`` (frames of the tests' own) or ``library`` (the client)."""

    seed: int
    through: str
    config: dict[str, dict[str, Any]]
    clients: list[Client]
    faults: list[Fault]

    @property
    def total(self) -> int:
        return sum(len(client.work) for client in self.clients)


def plan(seed: int, through: str | None = None, kills: int = 0, requests: int = REQUESTS) -> Plan:
    """The run of this seed; ``through`` is by turns unless it is given. With ``kills`` its
    only faults are so many kills, and there is more to do."""
    rng = random.Random(f"{seed} {kills}" if kills else seed)
    by_turns = ("raw", "library")[seed % 2]
    through = through or by_turns
    queue = rng.choice([10, 60, 1000])
    config: dict[str, dict[str, Any]] = {
        "server": {"drain_timeout": rng.choice([0.2, 1]), "ping_interval": 2},
        "session": {
            "queue": queue,
            "unacked": rng.choice([60, 10000]),
            "on_disconnect": rng.choice(["finish", "finish", "hold", "cancel"]),
        },
        "handlers": {"modules": ["inorder_server.examples.ledger", "fault_handlers"]},
    }
    if kills:
        # Somebody is always the head, and must not be given up for that.
        config["session"]["max_interrupts"] = 1000
    names = [f"client-{n}" for n in range(rng.randint(CLIENTS, CLIENTS + 8))]
    clients = clients_of(names, max(requests, kills * BETWEEN_KILLS), rng)
    faults = _kills(rng, kills) if kills else _faults(rng)
    return Plan(seed, through, config, clients, faults)


def clients_of(
    names: list[str], requests: int, rng: random.Random, *, ms: float = 1
) -> list[Client]:
    """One for each name; at least so many of all their requests are accepted. Those that take
    time take ``ms`` milliseconds on average."""
    share = requests * 1.15 / len(names)
    clients = []
    for name in names:
        work = list(work_of(name, names, round(share * rng.uniform(0.95, 1.2)), rng, ms))
        client = Client(
            name, rng.getrandbits(32), work, rng.choice([1, 8, 32, 200]), rng.randint(1, 30)
        )
        client.repeats = rng.random() < 0.3
        client.leaves = rng.random() < 0.25
        if rng.random() < 0.05:
            client.bye = rng.uniform(0.5, 1)
        if rng.random() < 0.3:
            client.cancels = {m["id"] for m in work if rng.random() < 0.1}
        clients.append(client)
    return clients


def work_of(
    name: str, names: list[str], count: int, rng: random.Random, ms: float = 1
) -> Iterator[Json]:
    """A deposit, then a mix; each with an id, none with a number yet."""
    start = f"{rng.getrandbits(32):08x}"
    yield request("deposit", {"amount": START}, id=f"{start}-0")
    others = [other for other in names if other != name]
    methods = rng.choices(list(_MIX), list(_MIX.values()), k=count - 1)
    for n, method in enumerate(methods, 1):
        params: Json = {"ms": round(ms * rng.expovariate(1), 3)}
        if method == "transfer":
            # Now and then more than anybody has: a failure of the method's own.
            amount = START * 100 if rng.random() < 0.03 else rng.randint(1, 500)
            params = {"to": rng.choice(others), "amount": amount}
        elif method == "bad":
            method, params = rng.choice([("no_such_method", {}), ("roll", {"ms": "long"})])
        yield request(method, params, id=f"{start}-{n}")


def _faults(rng: random.Random) -> list[Fault]:
    """Three to six, in order, among them a kill."""
    kinds = ["kill"]
    kinds += rng.choices(
        [*SERVER_FAULTS, *NETWORK_FAULTS], [4, 3, 2, 1, 2, 3, 3, 1, 2], k=rng.randint(2, 5)
    )
    rng.shuffle(kinds)
    # Not so near to the end that nothing is left to be broken.
    places = sorted(rng.uniform(0.02, 0.85) for _ in kinds)
    return [Fault(kind, at, rng.random()) for kind, at in zip(kinds, places, strict=True)]


def _kills(rng: random.Random, count: int) -> list[Fault]:
    """At random places: in the middle of a commit as well as between two."""
    places = sorted(rng.uniform(0.01, 0.9) for _ in range(count))
    return [Fault("kill", at, rng.uniform(0.25, 1)) for at in places]
