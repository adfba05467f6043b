"""The WebSocket edge: one :class:`Connection` a socket, from its first frame to its end.

Source: SPEC.md. Reader, consumer and writer are separate: this module reads, decodes and hands
over; the queue works; the outbox writes. Nothing of a connection reaches a queue before it is
authenticated (G9).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from loguru import logger
from msgspec import Struct
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from inorder import codec
from inorder.codes import ERROR_CODES, CloseCode
from inorder.messages import (
    MAX_INT,
    Ack,
    Bye,
    ByeReceipt,
    Cancel,
    ClientMessage,
    Hello,
    Hint,
    Limits,
    Methods,
    MethodsReport,
    Ping,
    Pong,
    Register,
    Request,
    Status,
    Token,
    Welcome,
)

from . import handmode
from .auth import Auth, Identity
from .node import Node
from .queue import Queue
from .refusal import Refusal
from .registry import Ended, Opened, Registry
from .stores.port import Outcome
from .voice import Phase, Voice

# Before login a peer is nobody: it gets no more memory than a hello needs.
HELLO_BYTES = 4096
HAND_HELLO_TIMEOUT = 120.0
_MOST_FAILED_LOGINS = 10
_MOST_BAD_MESSAGES = 100
# How a connection ends whose session could not be had.
_CLOSES = {
    "session_gone": CloseCode.SESSION_GONE,
    "history_lost": CloseCode.SESSION_GONE,
    "store_unavailable": CloseCode.STORE_UNAVAILABLE,
    "overloaded": CloseCode.OVERLOADED,
    "draining": CloseCode.RESTART,
}
# A fresh token is sent when a tenth of the old one's life is left.
_TOKEN_LIFE = 0.9


@dataclass(slots=True)
class Edge:
    """What all connections of a node share."""

    node: Node
    registry: Registry
    auth: Auth
    connections: set[Connection] = field(default_factory=set)
    per_user: Counter[str] = field(default_factory=Counter)

    async def serve(self, socket: ServerConnection, identity: Identity | None, peer: Peer) -> None:
        """Runs one connection to its end."""
        metrics = self.node.metrics
        connection = Connection(self, socket, identity, peer)
        self.connections.add(connection)
        metrics.connections += 1
        metrics.connections_opened += 1
        try:
            await connection.run()
        finally:
            metrics.connections -= 1
            self.connections.discard(connection)

    def dismiss(self) -> None:
        """The node goes down: those who have not logged in are sent away."""
        for connection in list(self.connections):
            if connection.greeting:
                connection.finish(CloseCode.RESTART, "draining")

    def close_slow(self, now: float) -> None:
        """Closes connections whose peer takes nothing; ``now`` by the loop's clock."""
        bound = self.node.config.session.slow_client_timeout
        for connection in self.connections:
            since = connection.outbox.stuck_since
            if since is not None and now - since > bound:
                connection.too_slow()


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as far as the handshake told."""

    address: str
    forwarded: bool


class Connection(Voice):
    """One WebSocket: what comes in goes to its queue, what goes out it has from Voice."""

    def __init__(
        self, edge: Edge, socket: ServerConnection, identity: Identity | None, peer: Peer
    ) -> None:
        super().__init__(socket, edge.node.metrics, batch=edge.node.config.limits.batch)
        self._edge = edge
        self._node = edge.node
        self._identity = identity
        self._peer = peer
        self._hand = socket.subprotocol is None
        self._first = True
        self._queue: Queue | None = None
        self._failed_logins = 0
        self._bad_messages = 0
        self._hello_seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.outbox.arrays = not self._hand
        self._log = logger.bind(peer=peer.address)

    def _closed(self) -> bool:
        """Asked anew after every await: another task may have closed it meanwhile."""
        return self.phase is Phase.CLOSED

    @property
    def greeting(self) -> bool:
        """Whether nobody has logged in yet."""
        return self.phase is Phase.GREETING

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
            if await self._greet():
                await self._read()
        except ConnectionClosed:
            pass
        except Exception:
            self._log.opt(exception=True).error("a connection failed")
            self.outbox.shut(CloseCode.INTERNAL, "internal")
        finally:
            self._leave()
            if not writer.done() and self._socket.close_code is not None:
                writer.cancel()
            await asyncio.wait([writer])

    async def _greet(self) -> bool:
        """What comes before the first frame. False where the connection is not wanted."""
        config = self._node.config
        if len(self._edge.connections) > config.limits.connections:
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
            frame = await socket.recv()
            if isinstance(frame, bytes):
                self.shut(CloseCode.BINARY, "binary")
                return
            if self.outbox.full:
                await self.outbox.room()
            await self._frame(frame)

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
            parts = codec.split(frame, self._node.config.limits.batch)
        except codec.Malformed as exc:
            self._malformed(exc)
            return
        for part in parts:
            try:
                message = codec.decode_client(part)
            except codec.Malformed as exc:
                self._malformed(exc)
            else:
                await self._message(message)

    async def _line(self, line: str) -> None:
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
            self.outbox.finish(CloseCode.BAD_MESSAGE, "bad_message")
            self.phase = Phase.CLOSED

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
            queue.acknowledge(message.seq)
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
            self.error("bad_message", "one hello a connection", of=_type(message))

    def _bye(self, queue: Queue, message: Bye) -> None:
        if queue.closing:
            self.error("closing", "bye was said", of="bye")
            return
        if self._hand:
            queue.acknowledge(MAX_INT)
        self._edge.registry.leave(queue, message.mode)

    # ---- login

    async def _login(self, message: ClientMessage) -> None:
        if not isinstance(message, Hello | Register):
            self.unauthenticated(_type(message), getattr(message, "id", None))
            return
        of = _type(message)
        # The client has done its part: how long a busy server takes is not its fault.
        self._stop_timer()
        try:
            if self._node.draining:
                raise Refusal("draining", "the server is going down", after=1.0)
            self._identity = await self._authenticate(message)
        except Refusal as refusal:
            self._await_hello()
            self._node.metrics.logins[refusal.code] += 1
            self.refusal(of, refusal)
            # Who is told to try again later may do so as often as it takes.
            self._failed_logins += not ERROR_CODES[refusal.code].retry
            if self._failed_logins > _MOST_FAILED_LOGINS:
                self.outbox.finish(CloseCode.UNAUTHENTICATED, "unauthenticated")
                self.phase = Phase.CLOSED
            return
        self._node.metrics.logins["ok"] += 1
        if self.phase is Phase.GREETING:
            await self._attach(message)

    async def _authenticate(self, message: Hello | Register) -> Identity:
        auth, peer = self._edge.auth, self._peer
        if isinstance(message, Register):
            return await auth.register(
                message.username,
                message.password,
                address=peer.address,
                forwarded=peer.forwarded,
            )
        if message.token is not None:
            return await auth.by_token(message.token)
        if message.username is not None and message.password is not None:
            return await auth.by_password(message.username, message.password, peer.address)
        if message.username is not None or message.password is not None:
            raise Refusal("bad_message", "username and password go together")
        if self._identity is not None:
            return await auth.confirm(self._identity)
        raise Refusal("unauthenticated", "hello needs a token, or username and password")

    async def _attach(self, message: Hello | Register) -> None:
        """Attaches to a new session or the one to resume, and says welcome."""
        identity, of = self._identity, _type(message)
        assert identity is not None
        most = self._node.config.limits.connections_per_user
        replaces = self._edge.registry.attached(message.session, identity.name)
        if self._edge.per_user[identity.name] >= most and not replaces:
            self.shut(CloseCode.TOO_MANY_CONNECTIONS, "too_many_connections")
            return
        self._edge.per_user[identity.name] += 1
        try:
            opened = await self._edge.registry.open(
                identity,
                self,
                session=message.session,
                seq=message.seq,
                accepted=message.accepted,
            )
        except (Refusal, Ended) as exc:
            self._release_place(identity)
            self._not_attached(of, exc)
            return
        except BaseException:
            self._release_place(identity)
            raise
        if not await self._still_welcome(identity):
            self._release_place(identity)
            self._edge.registry.detach(opened.queue, self)
            return
        self._welcome(opened, identity, message)

    async def _still_welcome(self, identity: Identity) -> bool:
        """False where it was taken over or cut while the store was asked, or its user was
        revoked between the login and the attach: from here on a revoke finds it."""
        try:
            await self._edge.auth.confirm(identity)
        except Refusal as refusal:
            if refusal.code != "store_unavailable":
                self.shut(CloseCode.FORBIDDEN, "forbidden")
        return not self._closed()

    def _not_attached(self, of: str, exc: Refusal | Ended) -> None:
        if isinstance(exc, Ended):
            self.put(ByeReceipt(receipt=exc.receipt))
            self.outbox.finish(CloseCode.DONE, "done")
        else:
            self.refusal(of, exc)
            self.outbox.finish(_CLOSES.get(exc.code, CloseCode.INTERNAL), exc.code)
        self.phase = Phase.CLOSED

    def _welcome(self, opened: Opened, identity: Identity, message: Hello | Register) -> None:
        config, session = self._node.config, opened.queue.session
        self._queue = opened.queue
        self.phase = Phase.OPEN
        self._socket.protocol.max_message_size = config.limits.message_bytes
        self._stop_timer()
        welcome = Welcome(
            session=session.id,
            user=identity.name,
            epoch=session.epoch,
            resumed=opened.resumed,
            accepted=session.accepted,
            settled=session.settled,
            acked=session.acked,
        )
        if not self._hand:
            welcome.token, welcome.expires_in = self._edge.auth.issue(identity)
            welcome.limits = Limits(
                queue=config.session.queue,
                unacked=config.session.unacked,
                message_bytes=config.limits.message_bytes,
                outcome_bytes=config.limits.outcome_bytes,
                batch=config.limits.batch,
                rate=config.limits.rate,
                ping=config.server.ping_interval,
            )
            self._renew_token_later(welcome.expires_in)
        self.put(welcome)
        self._follow(opened)
        self._log = logger.bind(peer=self._peer.address, user=identity.name, session=session.id)
        client = f" ({message.client})" if isinstance(message, Hello) and message.client else ""
        self._log.debug("attached{}, resumed: {}", client, opened.resumed)

    def _follow(self, opened: Opened) -> None:
        session, store = opened.queue.session, self._node.store

        async def read(after: int, upto: int, most: int) -> list[Outcome]:
            return await store.outcomes(session.id, after, upto, most)

        self.outbox.open(opened.replay_after, lambda: session.settled, read)

    async def _switch(self, resume: handmode.Resume) -> None:
        """``.resume``: leaves the fresh session that the login made for an older one."""
        identity, fresh = self._identity, self._queue
        if self.phase is not Phase.OPEN or fresh is None or identity is None:
            self.unauthenticated("resume", None)
            return
        if fresh.session.last:
            self.error("bad_message", ".resume comes first, before any request", of="resume")
            return
        if resume.session == fresh.session.id:
            self.error("bad_message", "this is the session you are in", of="resume")
            return
        registry = self._edge.registry
        try:
            opened = await registry.open(
                identity, self, session=resume.session, seq=resume.seq, accepted=None
            )
        except Ended as exc:
            self.put(ByeReceipt(receipt=exc.receipt))
            return
        except Refusal as refusal:
            self.refusal("resume", refusal)
            return
        registry.detach(fresh, self)
        if self._closed():
            registry.detach(opened.queue, self)
            return
        self._welcome(opened, identity, Hello())

    def _renew_token_later(self, expires_in: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(
            expires_in * _TOKEN_LIFE, self._renew_token
        )

    def _renew_token(self) -> None:
        if self._identity is not None:
            token, expires_in = self._edge.auth.issue(self._identity)
            self.put(Token(token=token, expires_in=expires_in))
            self._renew_token_later(expires_in)

    def _await_hello(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(
            self._hello_seconds, self._hello_timeout
        )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hello_timeout(self) -> None:
        self.shut(CloseCode.HELLO_TIMEOUT, "hello_timeout")

    # ---- the end

    def too_slow(self) -> None:
        """The peer takes nothing; its outcomes stay in the journal."""
        if not self._closed():
            bound = self._node.config.session.slow_client_timeout
            self._log.warning("closed a slow client: it took nothing for {:g} s", bound)
            self.shut(CloseCode.SLOW_CLIENT, "slow_client")

    def _leave(self) -> None:
        """The socket is gone: first that, then the slower rest."""
        self.phase = Phase.CLOSED
        self._stop_timer()
        queue, self._queue = self._queue, None
        if queue is not None:
            if self._identity is not None:
                self._release_place(self._identity)
            self._edge.registry.detach(queue, self)

    def _release_place(self, identity: Identity) -> None:
        per_user = self._edge.per_user
        per_user[identity.name] -= 1
        if not per_user[identity.name]:
            del per_user[identity.name]


def _type(message: Struct) -> str:
    return str(message.__struct_config__.tag)


def _is_json_hello(frame: str) -> bool:
    """Whether a first frame without a subprotocol says that a program is at the other end."""
    try:
        return isinstance(codec.decode_client(frame), Hello)
    except codec.Malformed as exc:
        return exc.of == "hello"
