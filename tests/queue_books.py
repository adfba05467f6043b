"""The books of ``queue_model``: what methods promise, what is known of sessions and requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

QUEUE, UNACKED, MAX_INTERRUPTS = 4, 7, 2


class Kind(NamedTuple):
    """What is promised of a method."""

    attempts: int = 1
    timeout: float = 20
    fails: bool = False  # on_interrupt="fail"
    blocks: bool = False  # on_exhausted="block"
    free: bool = False  # idempotent
    quick: bool = False  # does not wait at a gate
    stubborn: bool = False  # does not stop when it is first asked to


KINDS = {
    "quick": Kind(quick=True),
    "plain": Kind(),
    "again": Kind(attempts=3),
    "once": Kind(fails=True),
    "onceagain": Kind(attempts=2, fails=True),
    "block": Kind(blocks=True),
    "stubborn": Kind(stubborn=True),
    "free": Kind(free=True),
    "swift": Kind(free=True, quick=True),
}


@dataclass(eq=False)
class Run:
    """One start of a handler. ``how`` it ended: ret, error, raise, retry, timeout, cancelled,
    stopped; ``crash`` and ``before``: another process began it."""

    asked: Asked
    began: float
    how: str | None = None
    body: bytes = b""


@dataclass(eq=False)
class Asked:
    """A request that was given a number; that is its place in the list, from 1."""

    seq: int
    id: str
    method: str
    value: int
    cancel: bool = False
    by_id: bool = False
    cancel_durable: bool = False
    cancel_told: bool = False
    handed: tuple[str, bytes] | None = None
    outcome: tuple[str, bytes] | None = None
    mark: int = 0
    suspect: bool = False
    never: bool = False
    loose: bool = False
    tries: int = 0
    due: float = 0.0
    final: bool = False
    runs: list[Run] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        return KINDS[self.method]

    @property
    def last(self) -> Run | None:
        return self.runs[-1] if self.runs else None

    @property
    def returned(self) -> bool:
        """Its outcome is sure, and on its way to the journal or about to be."""
        return self.handed is not None or (self.last is not None and self.last.how == "ret")


@dataclass(eq=False)
class Ledger:
    """One session: what its node says of it in memory, and what is durable (``kept_…``)."""

    id: str
    asked: list[Asked] = field(default_factory=list)
    accepted: int = 0
    settled: int = 0
    acked: int = 0
    gap: bool = False
    kept_accepted: int = 0
    kept_settled: int = 0
    kept_acked: int = 0
    exists: bool = False
    owned: bool = True
    clean: bool = False
    state: str = "live"
    receipt: Any = None
    active: Run | None = None
    attached: int = 0  # connections, and hellos under way
    finishing: bool = False  # nobody needs to be there for its work to go on
    back: float | None = None  # when it comes back by itself
    closing: bool = False
    expiring: bool = False
    claimed_seq: int = 0  # the most that a client acknowledged
    retries: int = 0  # operators' words that were not used up
    skips: int = 0

    def counts(self) -> tuple[int, int, int, int, int]:
        """accepted, done, failed, cancelled, pending of what is durable."""
        endings = [one.outcome[0] for one in self.asked[: self.kept_accepted] if one.outcome]
        return (
            self.kept_accepted,
            endings.count("done"),
            endings.count("failed"),
            endings.count("cancelled"),
            self.kept_accepted - len(endings),
        )

    def remembered(self, id: str) -> Asked | None:
        for one in reversed(self.asked[max(self.acked - QUEUE, 0) :]):
            if one.id == id:
                return one
        return None

    def cancel_all(self) -> None:
        """A policy, a bye or an expiry cancels what is left."""
        for one in self.asked[self.settled :]:
            if one.handed is None:
                one.cancel = True
