"""What waits to be written to one connection, and the one task that writes it.

Source: design.md section 5; SPEC.md, "Frames" and "Resume". Outcomes are never piled up for a slow
peer: what it is behind with is read from the journal when there is room again, exactly as after
a resume. Everything else that can wait here is bounded by what the peer itself asks for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from inorder import codec
from inorder.codes import CloseCode
from inorder.messages import Accepted, Error, Result

from .stores.port import Outcome, StoreUnavailable

# Above this many bytes outcomes are left to the journal, progress is dropped, and the reader
# waits before it takes another frame.
HIGH_WATER = 1 << 20
# A frame is closed once it has this many bytes, whatever else waits.
_FRAME_BYTES = 64 << 10
# Outcomes are read from the journal in portions of about so many bytes.
_PORTION_BYTES = 256 << 10
# Seconds that a peer has to take the close frame and answer it.
_CLOSE_TIMEOUT = 5

ReadOutcomes = Callable[[int, int, int], Awaitable[list[Outcome]]]
"""Outcomes with ``after < seq <= upto``, about ``max_bytes`` of them (see the store port)."""


class _Failure(msgspec.Struct):
    """The body of an outcome that is no result."""

    code: str
    message: str
    # Not Raw | None: msgspec decodes Raw in a union with nothing but UNSET.
    details: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_failure = msgspec.json.Decoder(_Failure)


def outcome_message(outcome: Outcome) -> bytes:
    """An outcome as the wire has it: ``result`` or ``error``."""
    if outcome.ending == "done":
        return codec.encode(
            Result(id=outcome.id, seq=outcome.seq, result=msgspec.Raw(outcome.body))
        )
    body = _failure.decode(outcome.body)
    return codec.encode(
        Error(
            code=body.code,
            message=body.message,
            retry=False,
            id=outcome.id,
            seq=outcome.seq,
            details=None if body.details is msgspec.UNSET else body.details,
        )
    )


class Outbox:
    """Messages for one connection, in order.

    ``arrays``: program mode, in which several messages share a frame and one ``accepted``
    stands for all earlier ones. Before :meth:`open` outcomes and progress are held back: the
    welcome comes first.
    """

    def __init__(self, socket: ServerConnection, *, batch: int) -> None:
        self.arrays = False
        self.stuck_since: float | None = None
        """When the write that is under way began, by the loop's clock."""
        self._socket = socket
        self._batch = batch
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._accepted: Accepted | None = None
        self._outcome_put = 0
        self._sent = 0
        self._settled: Callable[[], int] = lambda: 0
        self._read: ReadOutcomes | None = None
        self._again: set[int] = set()
        self._closing: tuple[CloseCode, str] | None = None
        self._shut = False
        self._closer: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    # ---- what is put in

    @property
    def full(self) -> bool:
        """Whether more waits than the peer should let wait."""
        return self._bytes > HIGH_WATER

    def put(self, message: bytes) -> None:
        """One encoded message."""
        if self._shut or self._closing is not None:
            return
        self._messages.append(message)
        self._bytes += len(message)
        self._notify()

    def accepted(self, accepted: Accepted, *, cumulative: bool) -> None:
        """In program mode only the newest one that carries a seq is written.

        Before the welcome there is nothing to say: it tells the number itself.
        """
        if self._read is None:
            return
        waiting = self._accepted
        if self.arrays and cumulative and (waiting is None or waiting.seq < accepted.seq):
            self._accepted = accepted
            self._notify()
        else:
            # One by itself, or that of a repeat: it must not stand for a later one.
            self.put(codec.encode(accepted))

    def progress(self, message: bytes) -> None:
        """Dropped where the peer is behind: the only lossy message."""
        if self._read is not None and not self.full:
            self.put(message)

    def outcome(self, outcome: Outcome) -> None:
        """A new outcome. Left to the journal where the peer is behind."""
        if self._read is None or self.full or outcome.seq != self._sent + 1:
            self._notify()
            return
        self._sent = outcome.seq
        self._outcome_put = outcome.seq
        self.put(outcome_message(outcome))

    def repeat(self, seq: int) -> None:
        """An outcome that was written before is asked for again."""
        if seq <= self._sent:
            self._again.add(seq)
            self._notify()

    def open(self, sent: int, settled: Callable[[], int], read: ReadOutcomes) -> None:
        """Outcomes after ``sent`` are due from now on."""
        self._sent = sent
        self._settled = settled
        self._read = read
        self._again.clear()
        self._notify()

    def finish(self, code: CloseCode, reason: str) -> None:
        """Close once everything that is due was written."""
        if self._closing is None:
            self._closing = (code, reason)
            self._notify()

    def shut(self, code: CloseCode, reason: str) -> None:
        """Write nothing more; close at once."""
        if self._shut:
            return
        self._shut = True
        self._closing = (code, reason)
        self._messages.clear()
        self._accepted = None
        self._bytes = 0
        self._notify()
        self._make_room()
        if self.stuck_since is not None and self._closer is None:
            # The writer can't see it: it waits for the peer to read.
            self._closer = asyncio.get_running_loop().create_task(
                self._close(code, reason), name="closer"
            )

    async def room(self) -> None:
        """Returns when the peer has read enough that more may be asked for."""
        while self.full:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def _notify(self) -> None:
        if self._wake is not None:
            self._wake.set_result(None)
            self._wake = None

    def _make_room(self) -> None:
        if self._room is not None:
            if not self._room.done():
                self._room.set_result(None)
            self._room = None

    # ---- what is taken out

    async def write(self) -> None:
        """Writes until the connection is closed, by either side. One task runs this."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                if self._messages or self._accepted is not None:
                    frame = self._compose()
                    self.stuck_since = loop.time()
                    await self._socket.send(frame, text=True)
                    self.stuck_since = None
                    if not self.full:
                        self._make_room()
                elif not self._shut and await self._catch_up():
                    continue
                elif self._closing is not None:
                    await self._close(*self._closing)
                    return
                else:
                    self._wake = loop.create_future()
                    await self._wake
        except ConnectionClosed:
            return
        finally:
            self.stuck_since = None
            self._shut = True
            self._bytes = 0
            self._make_room()
            if self._closer is not None:
                await asyncio.wait([self._closer])

    async def _close(self, code: CloseCode, reason: str) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._socket.close(code, reason)
        except TimeoutError:
            # A peer that reads nothing doesn't get the close frame either.
            self._socket.transport.abort()

    def _compose(self) -> bytes:
        """The next frame: one message, or in program mode as many as fit."""
        parts: list[bytes] = []
        size = 0
        accepted, self._accepted = self._accepted, None
        if accepted is not None and accepted.seq > self._outcome_put:
            parts.append(codec.encode(accepted))
        most = self._batch if self.arrays else 1
        messages = self._messages
        while messages and len(parts) < most and size < _FRAME_BYTES:
            message = messages.popleft()
            size += len(message)
            parts.append(message)
        self._bytes -= size
        return parts[0] if len(parts) == 1 else codec.join(parts)

    async def _catch_up(self) -> bool:
        """Reads from the journal what the peer is behind with. False where it is not."""
        if self._read is None:
            return False
        settled = self._settled()
        if self._sent >= settled and not self._again:
            return False
        try:
            if self._sent < settled:
                found = await self._read(self._sent, settled, _PORTION_BYTES)
                for outcome in found:
                    self._sent = outcome.seq
                    self._outcome_put = outcome.seq
                    self.put(outcome_message(outcome))
                if not found:
                    # Acknowledged meanwhile: nobody is owed them any more.
                    self._sent = settled
            else:
                seq = self._again.pop()
                for outcome in await self._read(seq - 1, seq, 0):
                    self.put(outcome_message(outcome))
        except StoreUnavailable:
            await asyncio.sleep(0.2)
        return True
