"""The WebSocket edge: one :class:`Connection` a socket, from its first frame to its end.

Source: SPEC.md. Reader, consumer and writer are separate: this module reads, decodes and hands
over; the queue works; the outbox writes. Nothing of a connection reaches a queue before it is
authenticated (G9).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from websockets.exceptions import ConnectionClosed

from inorder import codec
from inorder.codes import CloseCode
from inorder.messages import (
    MAX_INT,
    Ack,
    Bye,
    Cancel,
    ClientMessage,
    Hello,
    Hint,
    Methods,
    MethodsReport,
    Ping,
    Pong,
    Request,
    Status,
)

from . import handmode
from .auth import Identity
from .edge import Edge, Peer
from .login import Guest, type_of
from .queue import Queue
from .voice import Phase
from .wire import Wire

# Before login a peer is nobody: it gets no more memory than a hello needs.
HELLO_BYTES = 4096
HAND_HELLO_TIMEOUT = 120.0
_MOST_BAD_MESSAGES = 100
_USUAL = frozenset({Request, Ack})
_REQUESTS = frozenset({Request})


async def serve(edge: Edge, socket: Wire, identity: Identity | None, peer: Peer) -> None:
    """Runs one connection to its end."""
    metrics = edge.node.metrics
    connection = Connection(edge, socket, identity, peer)
    edge.connections.add(connection)
    metrics.connections += 1
    metrics.connections_opened += 1
    try:
        await connection.run()
    finally:
        metrics.connections -= 1
        edge.connections.discard(connection)


class Connection(Guest):
    """One WebSocket: what comes in goes to its queue, what goes out it has from Voice."""

    def __init__(self, edge: Edge, socket: Wire, identity: Identity | None, peer: Peer) -> None:
        super().__init__(edge, socket, identity, peer)
        self._first = True
        self._bad_messages = 0

    # ---- the reader

    async def run(self) -> None:
        """Greets, reads until the socket closes, then detaches."""
        loop = asyncio.get_running_loop()
        writer = loop.create_task(self.outbox.write(), name="writer")
        self._socket.protocol.max_message_size = HELLO_BYTES
        timeout = HAND_HELLO_TIMEOUT if self._hand else self._node.config.auth.hello_timeout
        self._hello_seconds = timeout
        self._await_hello()
        try:
            await self._converse()
        finally:
            self._leave()
            writer.cancel()
            await asyncio.wait([writer])

    async def _converse(self) -> None:
        try:
            if await self._greet():
                await self._read()
        except ConnectionClosed:
            return
        except Exception:
            self._failed()
        self._leave()
        # What still comes counts for nothing; but left unread it would hold up the close.
        with suppress(ConnectionClosed):
            while True:
                await self._socket.recv()

    def _failed(self) -> None:
        self._log.opt(exception=True).error("a connection failed")
        self.shut(CloseCode.INTERNAL, "internal")

    async def _greet(self) -> bool:
        """What comes before the first frame. False where the connection is not wanted."""
        if self._node.draining:
            self.finish(CloseCode.RESTART, "draining")
            return False
        if len(self._edge.connections) > self._node.config.limits.connections:
            self.shut(CloseCode.TOO_MANY_CONNECTIONS, "too_many_connections")
            return False
        if self._hand:
            if self._identity is not None:
                await self._attach(Hello())
            else:
                self.put(Hint(message=handmode.HINT))
        return True

    async def _read(self) -> None:
        socket = self._socket
        while self.phase is not Phase.CLOSED:
            if not self._hand:
                socket.take = self._take
            try:
                frame = await socket.recv()
            finally:
                socket.take = None
            if isinstance(frame, bytes):
                self.shut(CloseCode.BINARY, "binary")
                return
            await self._frame(frame)

    def _take(self, data: bytes | bytearray | memoryview) -> bool:
        """A frame of requests and acknowledgements, as nearly all are: nothing in them has to be
        waited for. False, and nothing is done, for all others: those are the reader's."""
        queue = self._queue
        if queue is None or self.phase is not Phase.OPEN or self.outbox.full:
            return False
        try:
            messages = codec.decode_frame(str(data, "utf-8"), self._node.config.limits.batch)
        except (UnicodeError, codec.Malformed):
            return False
        kinds = set(map(type, messages))
        if not kinds <= _USUAL:
            return False
        self._bad_messages = 0
        try:
            if kinds == _REQUESTS:
                queue.requests(cast(Sequence[Request], messages))
                return True
            for message in messages:
                if type(message) is Request:
                    queue.request(message)
                elif type(message) is Ack:
                    queue.acknowledge(message.seq)
        except Exception:
            self._failed()
        return True

    async def _frame(self, frame: str) -> None:
        if self._hand and not (self._first and _is_json_hello(frame)):
            self._first = self._first and not frame.strip()
            await self._line(frame)
            return
        if self._hand:
            self._hand = False
            self.outbox.arrays = True
        self._first = False
        try:
            messages = codec.decode_frame(frame, self._node.config.limits.batch)
        except codec.Malformed as exc:
            self._malformed(exc)
            return
        for message in messages:
            if self.outbox.full:
                await self.outbox.room()
            if type(message) is Request and self._queue is not None and self.phase is Phase.OPEN:
                # Nearly all are: without a coroutine each.
                self._bad_messages = 0
                self._queue.request(message)
            elif isinstance(message, codec.Malformed):
                self._malformed(message)
            else:
                await self._message(message)

    async def _line(self, line: str) -> None:
        await self.outbox.room()
        try:
            parsed = handmode.parse(line)
        except codec.Malformed as exc:
            self._malformed(exc)
            return
        if isinstance(parsed, handmode.Help):
            identity = self._identity
            lines = self._node.methods.lines(identity is not None and identity.admin)
            for text in handmode.help_lines(lines if self.phase is Phase.OPEN else []):
                self.put(Hint(message=text))
        elif isinstance(parsed, handmode.Resume):
            await self._switch(parsed)
        elif parsed is not None:
            await self._message(parsed)

    def _malformed(self, exc: codec.Malformed) -> None:
        if self.phase is Phase.GREETING and exc.of not in (None, "hello", "register"):
            self.unauthenticated(exc.of, exc.id)
        else:
            self.error(exc.code, exc.message, of=exc.of, id=exc.id)
        self._bad_messages += 1
        if self._bad_messages > _MOST_BAD_MESSAGES:
            self.finish(CloseCode.BAD_MESSAGE, "bad_message")

    # ---- messages

    async def _message(self, message: ClientMessage) -> None:
        self._bad_messages = 0
        queue = self._queue
        if self.phase is not Phase.OPEN or queue is None:
            if self.phase is Phase.GREETING:
                await self._login(message)
            return
        if isinstance(message, Request):
            queue.request(message)
        elif isinstance(message, Ack):
            queue.acknowledge(self._held(message.seq))
        elif isinstance(message, Ping):
            self.put(Pong(data=message.data))
        elif isinstance(message, Cancel):
            queue.cancel(message.id)
        elif isinstance(message, Status):
            self.put(queue.status(message.from_))
        elif isinstance(message, Methods):
            self.put(MethodsReport(methods=self._node.methods.lines(queue.user.admin)))
        elif isinstance(message, Bye):
            self._bye(queue, message)
        else:
            self.error("bad_message", "one hello a connection", of=type_of(message))

    def _bye(self, queue: Queue, message: Bye) -> None:
        if queue.closing:
            self.error("closing", "bye was said", of="bye")
            return
        if self._hand:
            queue.acknowledge(self._held(MAX_INT))
        self._edge.registry.leave(queue, message.mode)

    def _held(self, seq: int) -> int:
        """By hand, without a number: all that was sent."""
        return self.outbox.sent if self._hand and seq == MAX_INT else seq


def _is_json_hello(frame: str) -> bool:
    """Whether a first frame without a subprotocol says that a program is at the other end."""
    try:
        return isinstance(codec.decode_client(frame), Hello)
    except codec.Malformed as exc:
        return exc.of == "hello"
