"""The ledger's workload and its checker: clients that move money, and books that must balance.

Raw frames and sqlite3 only; nothing of the server or the client library is imported.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from frames import Json, RawClient, is_outcome, request

LEDGER = "inorder_server.examples.ledger"
START = 100_000
"""Cents that each customer pays in first."""


async def send_all(client: RawClient, work: list[Json], rng: random.Random) -> None:
    """Sends requests without waiting, a few to a frame."""
    start = 0
    while start < len(work):
        size = rng.randint(1, 20)
        await client.send(*work[start : start + size])
        start += size


@dataclass
class Customer:
    """One user with one session, and all that was said to it."""

    name: str
    session: str = ""
    token: str = ""
    sent: dict[int, str] = field(default_factory=dict)
    """Ids by seq, of what was sent."""
    accepted: int = 0
    """The highest seq that was known to be accepted."""
    outcomes: dict[int, Json] = field(default_factory=dict)
    receipt: Json | None = None
    trouble: list[str] = field(default_factory=list)

    def heard(self, message: Json) -> None:
        """Takes note of a message; what must not be becomes ``trouble``."""
        if message["type"] == "accepted":
            self.accepted = max(self.accepted, message["seq"])
        elif is_outcome(message):
            seq = message["seq"]
            self.accepted = max(self.accepted, seq)
            if self.sent.get(seq) != message["id"]:
                self.trouble.append(
                    f"outcome {seq} bears {message['id']}, not {self.sent.get(seq)}"
                )
            if seq in self.outcomes:
                if self.outcomes[seq] != message:
                    self.trouble.append(f"outcome {seq} changed")
            elif seq != len(self.outcomes) + 1:
                self.trouble.append(f"outcome {seq} after {len(self.outcomes)}")
            else:
                self.outcomes[seq] = message
        elif message["type"] == "error" and message.get("of") == "request":
            self.trouble.append(f"refused: {message}")

    def plan(self, others: list[str], count: int, rng: random.Random) -> list[Json]:
        """A deposit and ``count`` transfers, numbered: to be sent."""
        work = [request("deposit", {"amount": START})]
        for _ in range(count):
            to = rng.choice([name for name in others if name != self.name])
            work.append(request("transfer", {"to": to, "amount": rng.randint(1, 500)}))
        for message in work:
            seq = len(self.sent) + 1
            message["seq"], message["id"] = seq, f"{self.name}-{seq}"
            self.sent[seq] = message["id"]
        return work

    async def listen(self, client: RawClient) -> None:
        """Hears everything until all that was sent has an outcome, or the connection ends."""
        while len(self.outcomes) < len(self.sent):
            message = await client.next()
            if message is None:
                return
            self.heard(message)

    @property
    def done(self) -> int:
        return sum(message["type"] == "result" for message in self.outcomes.values())


class Books:
    """The ledger's own file, looked at from outside."""

    def __init__(self, file: Path) -> None:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
            self.balances = dict(db.execute("SELECT name, balance FROM accounts"))
            self.bookings = list(db.execute('SELECT key, "from", "to", amount FROM bookings'))

    def check(self, customers: list[Customer]) -> None:
        """Money is conserved, and each request that was done is booked exactly once."""
        expected: Counter[str] = Counter()
        for _, source, to, amount in self.bookings:
            expected[to] += amount
            if source is not None:
                expected[source] -= amount
        assert self.balances == dict(expected)
        deposits = sum(amount for _, source, _, amount in self.bookings if source is None)
        assert sum(self.balances.values()) == deposits
        booked = Counter(key for key, *_ in self.bookings)
        assert not [key for key, times in booked.items() if times > 1]
        for customer in customers:
            done = {
                f"{customer.session}:{seq}"
                for seq, message in customer.outcomes.items()
                if message["type"] == "result"
            }
            failed = {f"{customer.session}:{seq}" for seq in customer.outcomes} - done
            assert done <= booked.keys()
            assert not failed & booked.keys()
