"""How many runs of a method may go on at once, over all sessions: first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """A bound on what goes on at once. Used on the event loop only.

    Unlike :class:`asyncio.Semaphore` a wait can be called off without cancelling the task
    that waits.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[asyncio.Future[bool]] = deque()

    def enter(self) -> asyncio.Future[bool] | None:
        """Takes a slot at once (None), or returns what to wait for: it becomes true with
        the slot, or false when the one who waits set it so."""
        if self._free and not self._waiting:
            self._free -= 1
            return None
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        return turn

    def leave(self) -> None:
        """Gives a slot back: it goes to the one who waits longest, if there is one."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(True)
                return
        self._free += 1
