"""Who may come in: passwords, tokens, headers, registration.

Source: SPEC.md, "Authentication"; design.md section 4. An unknown user and a wrong password
get the same answer after the same work. Tokens are signed, carry the user's name and
generation, and are void once the generation was raised.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal, Protocol

from msgspec import Struct

from .attempts import Attempts
from .passwords import broken_name_rule, broken_password_rule
from .refusal import Refusal
from .stores.port import StoreUnavailable, User
from .tokens import Tokens, bad_token

WINDOW = 60.0
"""Seconds in which failed logins are counted."""
PER_ADDRESS = 20
PER_NAME = 10
MOST_WAITING = 1000


class Identity(Struct, frozen=True):
    """Who a connection is. ``generation`` is the one its token would bear."""

    name: str
    admin: bool
    generation: int


class Users(Protocol):
    """What of the store is needed here."""

    async def user(self, name: str) -> User | None: ...
    async def add_user(self, user: User) -> bool: ...


class PasswordPool(Protocol):
    """What of :class:`~inorder_server.passwords.Passwords` is needed here."""

    async def hash(self, password: str) -> bytes: ...
    async def check(self, password: str, hashed: bytes | None) -> bool: ...


def new_user(name: str, password_hash: bytes, *, admin: bool, at: float) -> User:
    """The row of a new account; ``at`` in seconds since 1970.

    Generations begin at the time, so that the tokens of a deleted account don't fit one that
    is made later under the same name.
    """
    at_ms = int(at * 1000)
    return User(name, password_hash, at_ms, admin, at_ms)


class Auth:
    """The one place that says who somebody is. Every way raises :class:`Refusal`, also
    ``store_unavailable`` where the store is away and ``overloaded`` where too many log in."""

    def __init__(
        self,
        store: Users,
        *,
        secret: bytes,
        token_ttl: float,
        registration: Literal["open", "closed", "auto"],
        passwords: PasswordPool,
        clock: Callable[[], float] = time.time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._registration = registration
        self._passwords = passwords
        self._clock = clock
        self._now = now
        self._tokens = Tokens(secret, token_ttl, clock)
        self._by_address = Attempts(PER_ADDRESS, WINDOW)
        self._by_name = Attempts(PER_NAME, WINDOW)
        self._waiting = 0
        self._ended = asyncio.Event()

    async def by_password(self, name: str, password: str, address: str) -> Identity:
        """Raises ``unauthenticated`` and ``rate_limited``."""
        known = broken_name_rule(name) is None
        async with self._attempt(address, name if known else None):
            user = await self._user(name) if known else None
            right = await self._passwords.check(password, user.password_hash if user else None)
            if not right or user is None:
                raise _wrong_password()
            # It may have been changed, or the user deleted, while bcrypt was at work.
            fresh = await self._user(name)
            if fresh is None or fresh.password_hash != user.password_hash:
                raise _wrong_password()
            self._by_name.clear(name)
            return _identity(fresh)

    async def by_token(self, token: str) -> Identity:
        """Raises ``unauthenticated`` and ``token_expired``."""
        name, generation = self._tokens.read(token)
        return await self.confirm(Identity(name, False, generation))

    async def by_header(self, authorization: str, address: str) -> Identity:
        """``Authorization: Basic`` (RFC 7617, UTF-8) or ``Bearer`` (RFC 6750)."""
        scheme, _, credentials = authorization.strip().partition(" ")
        credentials = credentials.strip()
        match scheme.lower():
            case "bearer":
                return await self.by_token(credentials)
            case "basic":
                try:
                    decoded = base64.b64decode(credentials, validate=True).decode()
                except (binascii.Error, ValueError):
                    raise Refusal("unauthenticated", "Basic needs name:password") from None
                name, _, password = decoded.partition(":")
                return await self.by_password(name, password, address)
        raise Refusal("unauthenticated", "Authorization has to be Basic or Bearer")

    async def register(
        self, name: str, password: str, *, address: str, forwarded: bool
    ) -> Identity:
        """Makes an account. Raises ``forbidden``, ``invalid_params``, ``name_taken`` and, for
        an address that tries too many taken names, ``rate_limited``."""
        if not self.registration_open(address, forwarded):
            raise Refusal("forbidden", "registration is closed here: ask for an account")
        if broken := broken_name_rule(name):
            raise Refusal("invalid_params", broken, details={"field": "username"})
        if broken := broken_password_rule(password):
            raise Refusal("invalid_params", broken, details={"field": "password"})
        async with self._attempt(address, None):
            if await self._user(name) is not None:
                raise _name_taken()
            hashed = await self._passwords.hash(password)
            user = new_user(name, hashed, admin=False, at=self._clock())
            try:
                added = await self._store.add_user(user)
            except StoreUnavailable:
                raise _store_unavailable() from None
            if not added:
                raise _name_taken()
            return _identity(user)

    async def confirm(self, identity: Identity) -> Identity:
        """The identity as the store has it now. Raises ``unauthenticated`` for a user who was
        deleted or revoked since."""
        user = await self._user(identity.name)
        if user is None or user.generation != identity.generation:
            raise bad_token()
        return _identity(user)

    def issue(self, identity: Identity) -> tuple[str, float]:
        """A token and the seconds it lives."""
        return self._tokens.issue(identity.name, identity.generation), self._tokens.ttl

    def registration_open(self, address: str, forwarded: bool) -> bool:
        """``forwarded``: the handshake had a Forwarded or X-Forwarded-For header, so that the
        peer is a proxy and its address says nothing of the client."""
        if self._registration == "auto":
            ip = _ip(address)
            return ip is not None and ip.is_loopback and not forwarded
        return self._registration == "open"

    @asynccontextmanager
    async def _attempt(self, address: str, name: str | None) -> AsyncIterator[None]:
        """Lets so many in as there are failures left, and counts those that fail.

        When all that are left are under way it waits for one to end: many good logins at once
        are no attack, and many guesses gain nothing. One who hangs up first has learned
        nothing, so that counts for nothing.
        """
        counts = [(self._by_address, network(address))]
        if name is not None:
            counts.append((self._by_name, name))
        while self._must_wait(counts):
            if self._waiting >= MOST_WAITING:
                raise Refusal("overloaded", "too many logins at once", after=1)
            self._waiting += 1
            try:
                await self._ended.wait()
            finally:
                self._waiting -= 1
        for attempts, key in counts:
            attempts.begin(key)
        failed = False
        try:
            yield
        except Refusal as refusal:
            failed = refusal.code in ("unauthenticated", "name_taken")
            raise
        finally:
            for attempts, key in counts:
                attempts.end(key, self._now(), failed=failed)
            self._ended.set()
            self._ended = asyncio.Event()

    def _must_wait(self, counts: list[tuple[Attempts, str]]) -> bool:
        waits = [attempts.wait(key, self._now()) for attempts, key in counts]
        if longest := max((wait for wait in waits if wait is not None), default=0.0):
            raise Refusal("rate_limited", "too many failed logins", after=round(longest, 3))
        return None in waits

    async def _user(self, name: str) -> User | None:
        try:
            return await self._store.user(name)
        except StoreUnavailable:
            raise _store_unavailable() from None


def network(address: str) -> str:
    """Whom an address stands for: itself, and with IPv6 its /64, which one customer has."""
    ip = _ip(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
    return address if ip is None else str(ip)


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def _identity(user: User) -> Identity:
    return Identity(user.name, user.admin, user.generation)


def _wrong_password() -> Refusal:
    return Refusal("unauthenticated", "the name or the password is wrong")


def _name_taken() -> Refusal:
    return Refusal("name_taken", "the name is taken")


def _store_unavailable() -> Refusal:
    return Refusal("store_unavailable", "the store is away", after=1)
