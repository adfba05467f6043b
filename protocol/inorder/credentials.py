"""Who one is: the part of ``hello`` and ``register`` that proves it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from .errors import ConnectionLost, InorderError
from .messages import Hello, Register
from .retry import Verdict, judge

Answer = str | tuple[str, str]
"""A token, or a name with its password."""
Auth = Callable[[], Answer | Awaitable[Answer]]
"""Asked before each login, so that a token can be fetched when it is needed."""


@dataclass(frozen=True)
class State:
    """What a program keeps of a session to come back to it (SPEC.md, "Resume").

    ``held``: outcomes up to this seq were taken; ``accepted``: the highest seq that was
    accepted. Three plain values: ``dataclasses.asdict`` makes them JSON.
    """

    session: str
    held: int
    accepted: int


@dataclass(frozen=True)
class Credentials:
    """A token, or a name and password; with ``register`` the account is made first.

    All empty: the handshake's headers have said who one is.
    """

    token: str | None = field(default=None, repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    register: bool = False

    def __post_init__(self) -> None:
        if (self.username is None) != (self.password is None):
            raise ValueError("a username goes with a password")
        if self.token is not None and self.username is not None:
            raise ValueError("either a token or a username with a password")
        if self.register and self.username is None:
            raise ValueError("register needs a username and a password")

    @classmethod
    def of(cls, answer: Answer, register: bool = False) -> Credentials:
        """From what an ``auth`` callable returned."""
        if isinstance(answer, str):
            return cls(token=answer, register=register)
        username, password = answer
        return cls(username=username, password=password, register=register)

    def greeting(self, resume: State | None, client: str | None) -> Hello | Register:
        """The first message of a connection."""
        session = resume.session if resume else None
        seq = resume.held if resume else None
        accepted = resume.accepted if resume else None
        if self.register:
            assert self.username is not None
            assert self.password is not None
            return Register(
                username=self.username,
                password=self.password,
                session=session,
                seq=seq,
                accepted=accepted,
                client=client,
            )
        return Hello(
            token=self.token,
            username=self.username,
            password=self.password,
            session=session,
            seq=seq,
            accepted=accepted,
            client=client,
        )


class Login:
    """Which credentials a connection tries, one after the other.

    Coming back one has a token from the server, which costs it less than a password; where
    that is refused, the program's own are tried. What ``auth`` returned and was refused is
    asked for once again. What it raises is a reason to come back later, but for the first
    connection. Where the answer to a ``register`` was lost, the account may be this client's own:
    when the next one finds the name taken, it is logged in to.
    """

    def __init__(self, given: Credentials | None, auth: Auth | None, register: bool) -> None:
        self._given = given
        self._auth = auth
        self._register = register
        self._succeeded = False
        # A `register` waits for its answer; one never had any.
        self._pending = self._in_doubt = False

    def goes_on(self, refused: InorderError) -> bool:
        """Whether the next of :meth:`tries` may do better than the one that was refused."""
        # What may pass may have come after the account was made.
        self._pending = self._pending and refused.retry
        if refused.code == "name_taken":
            return self._in_doubt
        return judge(refused) is Verdict.LOG_IN_ANEW

    def succeeded(self) -> None:
        """The account is made: from now on it is only logged in to."""
        self._succeeded, self._register = True, False
        self._pending = self._in_doubt = False
        if self._given is not None:
            self._given = replace(self._given, register=False)

    async def tries(self, token: str | None) -> AsyncGenerator[Credentials, None]:
        """``token``: the newest that the server gave. Each next one only if the one before
        was refused."""
        async with aclosing(self._own(token)) as own:
            async for each in own:
                self._in_doubt = self._in_doubt or self._pending
                self._pending = each.register
                yield each
                if each.register and self._in_doubt:
                    yield replace(each, register=False)

    async def _own(self, token: str | None) -> AsyncGenerator[Credentials, None]:
        given = self._given
        if given == _BY_HEADERS:
            yield _BY_HEADERS
            return
        if token is not None:
            yield Credentials(token=token)
        if given is not None:
            if given.token != token or token is None:
                yield given
            return
        first = await self._ask()
        yield first
        if token is None and (again := await self._ask()) != first:
            yield again

    async def _ask(self) -> Credentials:
        assert self._auth is not None
        try:
            answer = self._auth()
            if inspect.isawaitable(answer):
                answer = await answer
        except InorderError:
            raise
        except Exception as exc:
            if not self._succeeded:
                raise
            # What it asks may be away for as long as the server was.
            raise ConnectionLost("login_unavailable", f"auth: {exc!r}", retry=True) from exc
        return Credentials.of(answer, self._register)


_BY_HEADERS = Credentials()
