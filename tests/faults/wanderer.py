"""Clients that come back at any of several nodes, of raw frames and by the library.

A run across nodes has slower parts than one node has: they come back less often.
"""

from __future__ import annotations

from borrower import Borrower
from teller import Teller
from websockets.asyncio.client import ClientConnection

_FIRST_PATIENCE, _LAST_PATIENCE = 2.0, 10.0


class Wanderer(Teller):
    """Its first connection is to the n-th node, the others go to any."""

    # Its session moved, with it or without it.
    comes_back_after = Teller.comes_back_after | {4509}
    # A node that was stopped takes connections, and answers nothing.
    patience = _FIRST_PATIENCE
    longest_wait = 0.3

    async def _open(self, socket: ClientConnection) -> None:
        try:
            await super()._open(socket)
        except TimeoutError:
            # On a busy machine a node may need longer, and begins anew with each hello.
            self.patience = min(2 * self.patience, _LAST_PATIENCE)
            raise
        self.patience = _FIRST_PATIENCE


class Passenger(Borrower):
    """It has one address, behind which is another node each time."""

    patience = 90.0
    longest_wait = 0.5
