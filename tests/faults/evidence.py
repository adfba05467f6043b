"""What one client of a fault run has sent, was told and holds; what must not be is trouble.

Nothing of the server or of the client library is imported here, nor where it is judged.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from frames import Json

ENDINGS = ("done", "failed", "cancelled")
LEDGER = {"deposit", "transfer"}
PASSWORD = "a password"


def ending(outcome: Json) -> str:
    """``done``, ``failed`` or ``cancelled``, as a receipt counts it."""
    if outcome["type"] == "result":
        return "done"
    return "cancelled" if outcome["code"] == "cancelled" else "failed"


@dataclass
class Witness:
    """A client's own account of its session. ``work`` is what it is to send, in order."""

    name: str
    work: list[Json]
    session: str = ""
    token: str = ""
    requests: dict[int, Json] = field(default_factory=dict)
    """By seq: those that may have been accepted as that number."""
    told: int = 0
    """The highest number that was said to be accepted."""
    acked: int = 0
    """The highest number whose outcome was said to be held."""
    outcomes: dict[int, Json] = field(default_factory=dict)
    cancels: dict[str, bool] = field(default_factory=dict)
    """Ids that a cancel was sent for, and whether it was answered."""
    receipt: Json | None = None
    ending: bool = False
    """It has said ``bye``."""
    early: bool = False
    """It did so before it had all outcomes."""
    left: bool = False
    """It went without ``bye``, with all that it had sent settled."""
    trouble: list[str] = field(default_factory=list)
    connections: int = 0
    drained: list[int] = field(default_factory=list)
    """The codes with which connections were closed after they had been told ``draining``."""
    longest: float = 0.0
    """The longest that it waited for a new outcome since the one before, in seconds."""
    _newest: float = 0.0

    @property
    def held(self) -> int:
        return len(self.outcomes)

    @property
    def endings(self) -> Counter[str]:
        """How many outcomes of each kind it holds."""
        return Counter(ending(outcome) for outcome in self.outcomes.values())

    def complain(self, words: str) -> None:
        """Takes note of what must not be."""
        self.trouble.append(f"{self.name}: {words}")

    def hear_accepted(self, seq: int, id: str | None) -> None:
        """``accepted``: the number must be one that was sent, under this id."""
        sent = self.requests.get(seq)
        if sent is None or (id is not None and sent["id"] != id):
            self.complain(f"accepted {seq} as {id}, sent was {sent and sent['id']}")
        self.told = max(self.told, seq)

    def hear_outcome(self, outcome: Json) -> None:
        """An outcome: the next one, or one that is held already and has not changed."""
        seq, id = outcome["seq"], outcome["id"]
        self.hear_accepted(seq, id)
        if seq in self.outcomes:
            if self.outcomes[seq] != outcome:
                self.complain(f"outcome {seq} was {self.outcomes[seq]}, now it is {outcome}")
        elif seq != self.held + 1:
            self.complain(f"outcome {seq} came after {self.held}")
        else:
            self.outcomes[seq] = outcome
            now = time.monotonic()
            self.longest = max(self.longest, now - (self._newest or now))
            self._newest = now

    def hear_welcome(self, welcome: Json) -> None:
        """``welcome`` of a session that is resumed: nothing is missing."""
        accepted, settled, acked = (welcome[name] for name in ("accepted", "settled", "acked"))
        if not acked <= settled <= accepted:
            self.complain(f"numbers out of order in {welcome}")
        if accepted < self.told or settled < self.held:
            self.complain(f"told {self.told}, held {self.held}, but {welcome}")
        if acked > self.acked:
            self.complain(f"acknowledged {self.acked} only, but {welcome}")
        if accepted > max(self.requests, default=0):
            self.complain(f"sent {max(self.requests, default=0)} only, but {welcome}")
        self.told = max(self.told, accepted)

    def hear_receipt(self, receipt: Json) -> bool:
        """The receipt: verified, and as the client has counted. False where the session has not
        ended yet: its head waits to be tried again."""
        if receipt["pending"] and receipt["verified"] and self._may_be_blocked():
            return False
        if self.receipt is not None and self.receipt != receipt:
            self.complain(f"another receipt: {receipt}, before {self.receipt}")
        self.receipt = receipt
        if receipt["verified"] is not True or receipt["pending"] or not self._counted(receipt):
            self.complain(f"held {self.held}, {dict(self.endings)}, told {self.told}: {receipt}")
        return True

    def _may_be_blocked(self) -> bool:
        # The ledger's are tried again where its file can't be written to.
        head = self.requests.get(self.held + 1)
        return head is not None and head["method"] in {"roll_again", *LEDGER}

    def _counted(self, receipt: Json) -> bool:
        if receipt["session"] != self.session:
            return False
        total = sum(receipt[name] for name in ENDINGS)
        counts = [(receipt[name], self.endings[name]) for name in ENDINGS]
        if self.early:
            # What was still due at the `bye` may have been lost with the connection.
            return total == receipt["accepted"] >= self.told and all(a >= b for a, b in counts)
        return total == receipt["accepted"] == self.held and all(a == b for a, b in counts)


Watch = Callable[[str], None]
"""Called with a session's key (``session:seq``) as soon as its cancel was answered."""
