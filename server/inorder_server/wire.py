"""websockets' connection, with what the outbox needs of it besides."""

from __future__ import annotations

from contextlib import suppress

from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

_OPEN = State.OPEN


class Wire(ServerConnection):
    """One WebSocket."""

    @property
    def behind(self) -> bool:
        """Whether the peer has left more unread than should wait for it here."""
        return self.paused and self.protocol.state is _OPEN

    async def caught_up(self) -> None:
        """Returns once the peer is not :attr:`behind` any more, or the connection is lost."""
        with suppress(OSError):
            await self.drain()

    def send_now(self, frame: bytes) -> bool:
        """Writes a text frame where nothing has to be waited for, without a task. False, and
        nothing is written, where the peer is behind or the connection is not open any more:
        ``send`` waits, or says so.
        """
        if self.paused or self.protocol.state is not _OPEN:
            return False
        self.protocol.send_text(frame)
        self.send_data()
        return True
