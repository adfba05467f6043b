"""What waits to be written to one connection.

What comes in one turn of the loop is written together at its end, without a task; the one task
of a connection writes what has to wait: for a slow peer, for the journal, for the close.

Source: design.md section 5; SPEC.md, "Frames" and "Resume". Outcomes are never piled up for a slow
peer: what it is behind with is read from the journal when there is room again, exactly as after
a resume. Everything else that can wait here is bounded by what the peer itself asks for, and its
reader asks for no more while there is too much.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from loguru import logger
from websockets.exceptions import ConnectionClosed

from inorder import codec
from inorder.codes import CloseCode
from inorder.messages import Accepted, Error, Result

from .acceptances import Acceptances, Hold
from .stores.port import Outcome, StoreUnavailable
from .wire import Wire

# Above this many bytes outcomes are left to the journal, progress is dropped, and the reader
# waits before it takes another frame.
HIGH_WATER = 1 << 20
# A frame is closed once it has this many bytes, whatever else waits.
_FRAME_BYTES = 64 << 10
# Outcomes are read from the journal in portions of about so many bytes.
_PORTION_BYTES = 256 << 10
# What a repeat that waits for its turn counts for, in bytes, and an outcome beside its body.
_REPEAT_BYTES = 64
_OUTCOME_BYTES = 80
# Seconds that a peer has to answer the close where nothing else is due to it.
_CLOSE_TIMEOUT = 5
# Seconds until a store that is away is asked again.
_STORE_AGAIN = 0.2

ReadOutcomes = Callable[[int, int, int], Awaitable[list[Outcome]]]
"""Outcomes with ``after < seq <= upto``, about ``max_bytes`` of them (see the store port)."""


class _Failure(msgspec.Struct):
    """The body of an outcome that is no result."""

    code: str
    message: str
    # Not Raw | None: msgspec decodes Raw in a union with nothing but UNSET.
    details: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_failure = msgspec.json.Decoder(_Failure)


def outcome_message(outcome: Outcome) -> Result | Error:
    """An outcome as the wire has it."""
    if outcome.ending == "done":
        return Result(id=outcome.id, seq=outcome.seq, result=msgspec.Raw(outcome.body))
    body = _failure.decode(outcome.body)
    return Error(
        code=body.code,
        message=body.message,
        retry=False,
        id=outcome.id,
        seq=outcome.seq,
        details=None if body.details is msgspec.UNSET else body.details,
    )


class Outbox:
    """Messages for one connection, in order.

    ``arrays``: program mode, in which several messages share a frame and one ``accepted``
    stands for all earlier ones. Before :meth:`open` outcomes and progress are held back: the
    welcome comes first. ``hold`` is the node's. ``patience``: seconds that a peer has to take
    what is due to it and to answer the close.
    """

    def __init__(self, socket: Wire, hold: Hold, *, batch: int, patience: float) -> None:
        self.arrays = False
        self.stuck_since: float | None = None
        """When the write that is under way began, by the loop's clock."""
        self._socket = socket
        self._batch = batch
        self._patience = patience
        # A number stands for an outcome that is sent again, and is read at its turn. New ones
        # are encoded with all else that is in their frame, in one piece.
        self._messages: deque[bytes | int | Outcome] = deque()
        self._bytes = 0
        # The next one, which waits for the socket.
        self._frame = b""
        self._acceptances = Acceptances(self.put, self._notify, hold)
        self._sent = 0
        self._settled: Callable[[], int] = lambda: 0
        self._read: ReadOutcomes | None = None
        self._closing: tuple[CloseCode, str] | None = None
        self._shut = False
        self._closer: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop
        # Set while the writer's task has nothing to do; then what comes is flushed.
        self._wake: asyncio.Future[None] | None = None
        self._flushing = False
        self._room: asyncio.Future[None] | None = None
        self._caught_up: list[asyncio.Future[bool]] = []

    # ---- what is put in

    @property
    def full(self) -> bool:
        """Whether more waits than the peer should let wait."""
        return self._bytes > HIGH_WATER

    @property
    def sent(self) -> int:
        """The highest seq whose outcome was written, or waits here to be."""
        return self._sent

    def put(self, message: bytes) -> None:
        """One encoded message."""
        if self._closing is None:
            self._add(message, len(message))

    def _add(self, message: bytes | int, size: int) -> None:
        if not self._shut:
            self._messages.append(message)
            self._bytes += size
            self._notify()

    def accepted(self, accepted: Accepted, *, cumulative: bool, expected: bool = False) -> None:
        """In program mode only the newest one that carries a seq is written, and that one only
        where its outcome doesn't follow at once; ``expected``: it should, else :meth:`look`.

        Before the welcome there is nothing to say: it tells the number itself.
        """
        if self._read is None or self._closing is not None:
            return
        by_itself = not (self.arrays and cumulative)
        self._acceptances.add(accepted, by_itself=by_itself, expected=expected)

    def look(self) -> None:
        """Whether there is something to write now."""
        self._notify()

    def progress(self, message: bytes) -> None:
        """Dropped where the peer is behind: the only lossy message."""
        if self._read is not None and not self.full:
            # What runs was accepted: nobody should hear of it the other way round.
            self._acceptances.tell()
            self.put(message)

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """New outcomes, in order. Left to the journal where the peer is behind."""
        if self._closing is not None:
            return
        self._notify()
        if self._read is None:
            return
        for outcome in outcomes:
            if self._bytes > HIGH_WATER or outcome.seq != self._sent + 1:
                break
            self._put_outcome(outcome)
        self._acceptances.settled(self._sent)

    def _put_outcome(self, outcome: Outcome) -> None:
        self._sent = outcome.seq
        self._messages.append(outcome)
        self._bytes += _OUTCOME_BYTES + len(outcome.body)

    def repeat(self, seq: int) -> None:
        """An outcome that was written before is asked for again."""
        if seq <= self._sent and self._closing is None:
            self._add(seq, _REPEAT_BYTES)

    def open(
        self,
        sent: int,
        settled: Callable[[], int],
        coming: Callable[[], int],
        read: ReadOutcomes,
    ) -> None:
        """Outcomes after ``sent`` are due from now on. ``settled`` says up to which seq there
        are any, ``coming`` up to which they are in the journal's hands at least."""
        self._sent = sent
        self._acceptances.open(coming)
        self._settled = settled
        self._read = read
        self._notify()

    def hold_back(self) -> None:
        """As before :meth:`open`: another welcome comes first."""
        self._read = None

    def finish(self, code: CloseCode, reason: str) -> None:
        """Close once everything that is due by now was written."""
        if self._closing is None:
            self._closing = (code, reason)
            due = self._settled()
            self._settled = lambda: due
            self._notify()

    def shut(self, code: CloseCode, reason: str) -> None:
        """Write nothing more; close at once."""
        if self._shut:
            return
        self._end()
        # Not by the writer: it may wait for the peer to read, or for the store.
        self._closer = asyncio.get_running_loop().create_task(
            self._close(code, reason, _CLOSE_TIMEOUT), name="closer"
        )

    async def room(self) -> None:
        """Returns when the peer has read enough that more may be asked for."""
        while self.full:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    async def caught_up(self) -> bool:
        """Returns once everything that is due was written. False where the connection ends
        before."""
        if self._closing is not None:
            return False
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._caught_up.append(done)
        self._notify()
        return await done

    def _notify(self) -> None:
        if self._wake is not None and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _make_room(self) -> None:
        _wake(self._room)
        self._room = None

    def _report(self, caught_up: bool) -> None:
        waiting, self._caught_up = self._caught_up, []
        for done in waiting:
            if not done.done():
                done.set_result(caught_up)

    # ---- what is taken out

    def _flush(self) -> None:
        """Writes what came in this turn of the loop; what has to wait is left to the writer."""
        self._flushing = False
        if self._wake is None or self._wake.done():
            return  # the writer is at it, or was cancelled
        try:
            while self._next() and self._socket.send_now(self._frame):
                self._frame = b""
        except Exception:
            self._failed()
        if self._has_more():
            _wake(self._wake)
            self._wake = None

    def _has_more(self) -> bool:
        """Whether there is work for the writer's task."""
        return bool(
            self._frame
            or self._messages
            or self._closing is not None
            or self._caught_up
            or self._socket.behind
            or (self._read is not None and self._sent < self._settled())
        )

    async def write(self) -> None:
        """Writes until the connection is closed, by either side. One task runs this."""
        self._loop = asyncio.get_running_loop()
        try:
            while not self._shut:
                if self._next() or self._socket.behind:
                    await self._write_one()
                elif self._messages:
                    await self._fetch()
                elif await self._catch_up():
                    continue
                elif self._closing is not None:
                    await self._close(*self._closing, self._patience)
                    return
                else:
                    self._report(caught_up=True)
                    self._wake = self._loop.create_future()
                    await self._wake
        except ConnectionClosed:
            pass
        except Exception:
            self._failed()
        finally:
            self._end()
            if self._closer is not None:
                await asyncio.wait([self._closer])

    def _failed(self) -> None:
        logger.opt(exception=True).error("a connection could not be written to")
        self.shut(CloseCode.INTERNAL, "internal")

    def _end(self) -> None:
        """Nothing more is written; who waits for it goes on."""
        self._shut = True
        self._frame = b""
        self._closing = self._closing or (CloseCode.DONE, "done")
        self._messages.clear()
        self._acceptances.close()
        self._bytes = 0
        self.stuck_since = None
        self._notify()
        self._make_room()
        self._report(caught_up=False)

    async def _close(self, code: CloseCode, reason: str, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                await self._socket.close(code, reason)
        except TimeoutError:
            # A peer that reads nothing doesn't get the close frame either.
            self._socket.transport.abort()

    async def _write_one(self) -> None:
        frame, self._frame = self._frame, b""
        self.stuck_since = self._loop.time()
        if frame:
            await self._socket.send(frame, text=True)
        else:
            await self._socket.caught_up()
        self.stuck_since = None

    def _next(self) -> bool:
        """Makes the next frame, unless one is ready: of one message, or in program mode of as
        many as fit. False where there is nothing to write, or it has to be fetched before."""
        if self._frame:
            return True
        accepted = self._acceptances.take(at_once=self._closing is not None)
        parts: list[Any] = [] if accepted is None else [msgspec.Raw(accepted)]
        size = 0
        most = self._batch if self.arrays else 1
        messages = self._messages
        while messages and len(parts) < most and size < _FRAME_BYTES:
            message = messages[0]
            if type(message) is Outcome:
                size += _OUTCOME_BYTES + len(message.body)
                parts.append(outcome_message(message))
            elif isinstance(message, bytes):
                size += len(message)
                parts.append(msgspec.Raw(message))
            else:
                break
            messages.popleft()
        if not parts:
            return False
        self._bytes -= size
        self._frame = codec.encode(parts[0] if len(parts) == 1 else parts)
        if self._room is not None and not self.full:
            self._make_room()
        return True

    async def _fetch(self) -> None:
        """The outcome to be sent again has come to its turn."""
        seq = self._messages[0]
        assert isinstance(seq, int)
        found = await self._outcomes(seq - 1, seq, 0)
        if found is None or self._shut:
            return
        self._messages.popleft()
        self._bytes -= _REPEAT_BYTES
        # There is none where it was acknowledged meanwhile.
        for outcome in found:
            self._messages.appendleft(outcome)
            self._bytes += _OUTCOME_BYTES + len(outcome.body)

    async def _catch_up(self) -> bool:
        """Reads from the journal what the peer is behind with. False where it is not."""
        settled = self._settled()
        if self._read is None or self._sent >= settled:
            return False
        found = await self._outcomes(self._sent, settled, _PORTION_BYTES)
        if found is None or self._shut:
            return True
        for outcome in found:
            self._put_outcome(outcome)
        self._acceptances.settled(self._sent)
        if not found:
            # Acknowledged meanwhile, or left for the next connection.
            self._sent = settled
        return True

    async def _outcomes(self, after: int, upto: int, most: int) -> list[Outcome] | None:
        """None where the store is to be asked again; nothing where the connection can't wait
        for it."""
        if self._read is None:
            return []
        try:
            return await self._read(after, upto, most)
        except StoreUnavailable:
            if self._closing is not None:
                return []
            await asyncio.sleep(_STORE_AGAIN)
            return None


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
