"""A connection up to its welcome, and what the login leaves to be done: tokens, its place.

Source: SPEC.md, "Authentication", "hello" and "Resume".
"""

from __future__ import annotations

import asyncio

from loguru import logger
from msgspec import Struct

from inorder.codes import ERROR_CODES, CloseCode
from inorder.messages import (
    ByeReceipt,
    ClientMessage,
    Hello,
    Limits,
    Register,
    Token,
    Welcome,
)

from . import handmode
from .auth import Identity
from .edge import Edge, Peer
from .queue import Queue
from .refusal import Refusal
from .registry import Ended, HungUp, Opened
from .stores.port import Outcome
from .voice import Phase, Voice
from .wire import Wire

_MOST_FAILED_LOGINS = 10
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


class Guest(Voice):
    """Who somebody is, which session they get, and for how long they are let stay."""

    def __init__(self, edge: Edge, socket: Wire, identity: Identity | None, peer: Peer) -> None:
        config = edge.node.config
        super().__init__(
            socket,
            edge.node.metrics,
            edge.hold,
            batch=config.limits.batch,
            patience=config.session.slow_client_timeout,
        )
        self._edge = edge
        self._node = edge.node
        self._identity = identity
        self._peer = peer
        self._hand = socket.subprotocol is None
        self._queue: Queue | None = None
        self._place: str | None = None
        self._failed_logins = 0
        self._hello_seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.outbox.arrays = not self._hand
        self._log = logger.bind(peer=peer.address)

    def _closed(self) -> bool:
        """Asked anew after every await: another task may have closed it meanwhile."""
        return self.phase is Phase.CLOSED

    # ---- login

    async def _login(self, message: ClientMessage) -> None:
        if not isinstance(message, Hello | Register):
            self.unauthenticated(type_of(message), getattr(message, "id", None))
            return
        of = type_of(message)
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
                self.finish(CloseCode.UNAUTHENTICATED, "unauthenticated")
            elif refusal.code in ("store_unavailable", "draining"):
                self.finish(_CLOSES[refusal.code], refusal.code)
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
        """Attaches to a new session or the one to resume, and says welcome.

        However it ends, :meth:`_leave` gives back what was taken.
        """
        identity, of = self._identity, type_of(message)
        assert identity is not None
        replaces = self._edge.registry.attached(message.session, identity.name)
        if not self._take_place(identity, replaces=replaces):
            self.shut(CloseCode.TOO_MANY_CONNECTIONS, "too_many_connections")
            return
        try:
            opened = await self._edge.registry.open(
                identity,
                self,
                session=message.session,
                seq=message.seq,
                accepted=message.accepted,
            )
            self._queue = opened.queue
            # Who was revoked between the login and the attach; from here on a revoke finds it.
            await self._edge.auth.confirm(identity)
        except (Refusal, Ended) as exc:
            self._not_attached(of, exc)
            return
        except HungUp:
            return
        if not self._closed():
            self._welcome(opened, identity, message)

    def _not_attached(self, of: str, exc: Refusal | Ended) -> None:
        if isinstance(exc, Ended):
            self.farewell(exc.receipt)
        elif exc.code == "unauthenticated":
            self.shut(CloseCode.FORBIDDEN, "forbidden")
        else:
            self.refusal(of, exc)
            self.finish(_CLOSES.get(exc.code, CloseCode.INTERNAL), exc.code)

    def _welcome(self, opened: Opened, identity: Identity, message: Hello | Register) -> None:
        config, session = self._node.config, opened.queue.session
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
            self._renew_token_later(identity, welcome.expires_in)
        self.put(welcome)
        self._follow(opened)
        self._log = logger.bind(peer=self._peer.address, user=identity.name, session=session.id)
        client = f" ({message.client})" if isinstance(message, Hello) and message.client else ""
        self._log.debug("attached{}, resumed: {}", client, opened.resumed)

    def _follow(self, opened: Opened) -> None:
        session, store = opened.queue.session, self._node.store

        async def read(after: int, upto: int, most: int) -> list[Outcome]:
            return await store.outcomes(session.id, after, upto, most)

        self.outbox.open(
            opened.replay_after,
            lambda: session.settled,
            lambda: session.settled + session.settling,
            read,
        )

    async def _switch(self, resume: handmode.Resume) -> None:
        """``.resume``: leaves the fresh session that the login made for an older one."""
        identity, fresh = self._identity, self._queue
        if self.phase is not Phase.OPEN or fresh is None or identity is None:
            self.unauthenticated("resume", None)
            return
        if fresh.closing:
            self.error("closing", "bye was said", of="resume")
            return
        if fresh.session.last:
            self.error("bad_message", ".resume comes first, before any request", of="resume")
            return
        if resume.session == fresh.session.id:
            self.error("bad_message", "this is the session you are in", of="resume")
            return
        registry = self._edge.registry
        self.outbox.hold_back()
        try:
            opened = await registry.open(
                identity, self, session=resume.session, seq=resume.seq, accepted=None
            )
        except (Refusal, Ended) as exc:
            if isinstance(exc, Ended):
                self.put(ByeReceipt(receipt=exc.receipt))
            else:
                self.refusal("resume", exc)
            self._follow(Opened(fresh, False, 0))
            return
        except HungUp:
            return
        self._queue = opened.queue
        registry.detach(fresh, self)
        if not self._closed():
            self._welcome(opened, identity, Hello())

    def _renew_token_later(self, identity: Identity, expires_in: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(
            expires_in * _TOKEN_LIFE, self._renew_token, identity
        )

    def _renew_token(self, identity: Identity) -> None:
        token, expires_in = self._edge.auth.issue(identity)
        self.put(Token(token=token, expires_in=expires_in))
        self._renew_token_later(identity, expires_in)

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

    def _leave(self) -> None:
        """The socket is gone: first that, then the slower rest."""
        self.phase = Phase.CLOSED
        self._stop_timer()
        self._leave_place()
        queue, self._queue = self._queue, None
        if queue is not None:
            self._edge.registry.detach(queue, self)

    def _take_place(self, identity: Identity, *, replaces: bool) -> bool:
        """One of the user's connections; a resume replaces another one."""
        per_user, most = self._edge.per_user, self._node.config.limits.connections_per_user
        if per_user[identity.name] >= most and not replaces:
            return False
        self._place = identity.name
        per_user[identity.name] += 1
        return True

    def _leave_place(self) -> None:
        per_user, name = self._edge.per_user, self._place
        self._place = None
        if name is not None:
            per_user[name] -= 1
            if not per_user[name]:
                del per_user[name]


def type_of(message: Struct) -> str:
    """A message's ``type``."""
    return str(message.__struct_config__.tag)
