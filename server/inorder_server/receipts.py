"""Whether a receipt holds: two countings that know nothing of each other.

Source: design.md G6; SPEC.md, "Receipt". The queue counts as it goes; the journal is counted by a
query on its rows plus the tally written when acknowledged rows were stripped.
"""

from __future__ import annotations

from dataclasses import dataclass

from inorder.messages import Receipt

from .session import Counts
from .stores.port import Tally


def verify(
    session: str, counts: Counts, tally: Tally, *, consumer_ended: bool, left_in_memory: int
) -> tuple[Receipt, list[str]]:
    """The receipt, and in plain words what does not hold. ``left_in_memory`` is how many
    requests are still queued beside those that a stop, `hold` or a block left pending."""
    findings = []
    if not consumer_ended:
        findings.append("the consumer has not ended")
    if left_in_memory:
        findings.append(f"{left_in_memory} requests are still in the queue")
    endings = counts.done + counts.failed + counts.cancelled
    if counts.accepted != endings + counts.pending:
        findings.append(f"the queue's numbers do not add up: {counts}")
    for name in ("done", "failed", "cancelled", "pending"):
        ours, theirs = getattr(counts, name), getattr(tally, name)
        if ours != theirs:
            findings.append(f"{name}: the queue counted {ours}, the journal {theirs}")
    receipt = Receipt(
        session,
        counts.accepted,
        counts.done,
        counts.failed,
        counts.cancelled,
        counts.pending,
        not findings,
    )
    return receipt, findings


@dataclass(slots=True)
class Totals:
    """What the node's sessions came to, for the line when the last queue is gone."""

    sessions: int = 0
    accepted: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    pending: int = 0
    verified: int = 0

    def add(self, receipt: Receipt, sign: int = 1) -> None:
        """Counts a session's receipt; with ``sign`` -1 takes an older one of it back."""
        self.sessions += sign
        self.accepted += sign * receipt.accepted
        self.done += sign * receipt.done
        self.failed += sign * receipt.failed
        self.cancelled += sign * receipt.cancelled
        self.pending += sign * receipt.pending
        self.verified += sign * receipt.verified

    def __str__(self) -> str:
        return (
            f"{self.sessions} sessions, {self.accepted} accepted, {self.done} done, "
            f"{self.failed} failed, {self.cancelled} cancelled, {self.pending} pending, "
            f"{self.verified} verified"
        )
