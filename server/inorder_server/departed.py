"""What a node remembers of sessions whose queue is gone: totals, tries, and when to come back.

Source: design.md section 5, "Last one out" and "Disconnect". Everything here may be lost with the
process: the store has what counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from inorder.messages import Receipt

from .modes import Mode
from .queue import Queue
from .receipts import Totals
from .session import Session


class Departed:
    """``comes_back`` is called with the id of a session whose parked head is due."""

    def __init__(self, comes_back: Callable[[str], None]) -> None:
        self.totals = Totals()
        self._comes_back = comes_back
        self._stay = False
        # Receipts already in the totals of sessions that may come back.
        self._counted: dict[str, Receipt] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        # Heads that were tried (seq, tries, due): a resume does not begin their tries anew.
        self._heads: dict[str, tuple[int, int, float]] = {}

    def left(self, queue: Queue, receipt: Receipt | None, *, ended: bool) -> None:
        """A queue is gone; ``ended``: for good. Without a receipt it was fenced."""
        id, head, parked = queue.session.id, queue.session.head(), queue.parked
        if receipt is not None and receipt.accepted:
            self.totals.add(receipt)
            if not ended:
                self._counted[id] = receipt
        if head is None or queue.fenced:
            return
        if head.tries or head.due:
            # Also where it was not parked again: held, it was not even looked at.
            self._heads[id] = (head.seq, head.tries, head.due)
        if parked is None:
            return
        # Held work waits for its client.
        if parked.until is not None and queue.mode is not Mode.HOLD and not self._stay:
            loop = asyncio.get_running_loop()
            delay = max(parked.until - queue.node.now(), 0)
            self._timers[id] = loop.call_later(delay, self._due, id)

    def back(self, session: Session) -> None:
        """The session is taken up again: it is not counted twice, and its head goes on."""
        counted = self._counted.pop(session.id, None)
        if counted is not None:
            self.totals.add(counted, -1)
        timer = self._timers.pop(session.id, None)
        if timer is not None:
            timer.cancel()
        seq, tries, due = self._heads.pop(session.id, (0, 0, 0.0))
        head = session.head()
        if head is not None and head.seq == seq:
            head.tries, head.due = tries, due

    def expects(self, session: str) -> bool:
        """Whether it comes back by itself."""
        return session in self._timers

    def forget(self, sessions: list[str]) -> None:
        """These expired: they can't come back."""
        for id in sessions:
            self._counted.pop(id, None)
            self._heads.pop(id, None)

    def stay(self) -> None:
        """Nobody comes back any more: the node is going down."""
        self._stay = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _due(self, id: str) -> None:
        del self._timers[id]
        self._comes_back(id)
