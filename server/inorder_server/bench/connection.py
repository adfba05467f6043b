"""A socket under load: as little as can be between it and :class:`Session`."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from inorder.dialing import MAX_FRAME
from inorder.messages import SUBPROTOCOL

from .plan import BenchError
from .session import Session

now = time.monotonic_ns
_STEP = 0.001  # uvloop's timers count milliseconds, and may be early by half of one


class Connection(asyncio.Protocol):
    """One connection and its session.

    ``opened`` is done when the session may send, or holds the :class:`BenchError` that prevents
    it; ``closed`` is done when the socket is gone. ``on_outcomes`` is called after outcomes came
    and before what they make room for is sent. ``on_trouble`` gets the :class:`BenchError`
    that ends the run.

    The asyncio shell of ``websockets`` costs several times this: a future a frame, a task a
    connection.
    """

    def __init__(
        self,
        session: Session,
        url: str,
        on_outcomes: Callable[[Connection], None],
        on_trouble: Callable[[BenchError], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.session = session
        self.opened: asyncio.Future[BenchError | None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.farewell = False
        self._waiting = False
        self._on_outcomes = on_outcomes
        self._on_trouble = on_trouble
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._fragments: list[bytes] = []
        self._protocol = ClientProtocol(
            parse_uri(url),
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            max_size=MAX_FRAME,
        )

    async def open(self, patience: float) -> None:
        """Connects and logs in, within so many seconds. Raises :class:`BenchError`."""
        uri = self._protocol.uri
        context = ssl.create_default_context() if uri.secure else None
        try:
            async with asyncio.timeout(patience):
                await self._loop.create_connection(lambda: self, uri.host, uri.port, ssl=context)
                failed = await self.opened
        except TimeoutError:
            raise BenchError(f"no answer to the login within {patience:g} s") from None
        except OSError as exc:
            raise BenchError(f"no connection: {exc}") from None
        if failed is not None:
            raise failed

    # ---- sending

    def flush(self) -> None:
        """Sends what the session has to send."""
        at = now()
        if frames := self.session.frames(at):
            self.send(frames)
        elif self.session.resume_at > at and not self._waiting:
            self._waiting = True
            self._loop.call_later((self.session.resume_at - at) / 1e9 + _STEP, self._go_on)

    def send(self, frames: list[bytes]) -> None:
        """Sends frames as they are."""
        protocol = self._protocol
        if protocol.state is not State.OPEN:
            return
        for frame in frames:
            protocol.send_text(frame)
        self._write()

    def bye(self) -> None:
        """Ends the session; its receipt is awaited until ``closed``."""
        self.farewell = True
        if self.session.welcomed and not self.session.is_bare:
            self.send(self.session.bye())
        elif self._protocol.state is State.OPEN:
            self._protocol.send_close(1000)
            self._write()

    def abort(self) -> None:
        """Drops the socket."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self) -> None:
        assert self._transport is not None
        data = self._protocol.data_to_send()
        if data and not self._transport.is_closing():
            self._transport.write(data[0] if len(data) == 1 else b"".join(data))

    def _go_on(self) -> None:
        self._waiting = False
        self.flush()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none by class.
        self._transport = cast(asyncio.Transport, transport)
        self._protocol.send_request(self._protocol.connect())
        self._write()

    def data_received(self, data: bytes) -> None:
        at = now()
        protocol, session = self._protocol, self.session
        before = session.settled
        protocol.receive_data(data)
        try:
            for event in protocol.events_received():
                if isinstance(event, Response):
                    self._shook_hands()
                elif isinstance(event, Frame):
                    if event.opcode is Opcode.TEXT and event.fin:
                        session.receive(event.data, at)
                    else:
                        self._rare(event, at)
        except BenchError as exc:
            self._fail(exc)
            return
        if session.settled != before:
            self._on_outcomes(self)
        elif not self.opened.done() and session.welcomed and protocol.state is State.OPEN:
            self.opened.set_result(None)
        if session.settled != before or session.sent < session.issued:
            self.flush()
        self._write()

    def eof_received(self) -> None:
        self._protocol.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._protocol.state is not State.CLOSED:
            self._protocol.receive_eof()
        if not self.opened.done():
            self._fail(BenchError(f"refused: {self.ending()}"))
        if not self.closed.done():
            self.closed.set_result(None)

    def ending(self) -> str:
        """How the connection ended: code and reason, or what became of the handshake."""
        failed = self._protocol.handshake_exc
        if isinstance(failed, InvalidStatus):
            said = (failed.response.body or b"").decode(errors="replace").strip()
            return f"HTTP {failed.response.status_code} {said}".rstrip()
        if failed is not None:
            return f"no WebSocket: {failed}"
        code, reason = self._protocol.close_code, self._protocol.close_reason
        return f"{code or 1006} {reason or ''}".rstrip()

    # ---- the rest

    def _shook_hands(self) -> None:
        if self._protocol.handshake_exc is not None:
            raise BenchError(f"refused: {self.ending()}")
        if not self.session.is_bare:
            self.send([self.session.hello()])

    def _rare(self, frame: Frame, at: int) -> None:
        """Messages in fragments, and control frames, which the protocol has answered."""
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._fragments.append(bytes(frame.data))
            if frame.fin:
                whole = b"".join(self._fragments)
                self._fragments.clear()
                self.session.receive(whole, at)

    def _fail(self, exc: BenchError) -> None:
        if not self.opened.done():
            self.opened.set_result(exc)
        else:
            self._on_trouble(exc)
        self.abort()
