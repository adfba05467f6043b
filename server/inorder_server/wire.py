"""websockets' connection, with what the outbox needs of it besides."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

_OPEN = State.OPEN
_TEXT = Opcode.TEXT


class Wire(ServerConnection):
    """One WebSocket.

    ``take``, where it is set, is handed each whole text message that ``recv`` would return
    next, as it comes in: it says whether it took it. Else it comes by ``recv`` as usual, which
    costs a future and two steps of a task (a tenth of a request's time, measured).
    """

    take: Callable[[bytes | bytearray | memoryview], bool] | None = None

    def process_event(self, event: Event) -> None:
        if (
            self.take is not None
            and type(event) is Frame
            and event.opcode is _TEXT
            and event.fin
            and not self.recv_messages.frames
            and self.take(event.data)
        ):
            return
        super().process_event(event)

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
