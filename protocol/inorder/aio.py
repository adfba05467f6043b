"""The asyncio client's entry: from a URL and credentials to a session."""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any

from . import retry
from .core import Core
from .credentials import Auth, Credentials, Login, State
from .dialing import Dialer
from .job import Job
from .phases import Phase
from .retry import Backoff
from .session import Session


class connect:
    """Opens a session: ``async with connect(url, token=…) as session``.

    Leaving the block normally is :meth:`Session.close`; leaving it by an exception is
    :meth:`Session.detach`. ``session = await connect(…)`` leaves both to the program.

    ``token``, or ``username`` with ``password``, or ``auth``, a callable (also ``async``) that
    returns a token or a (name, password); or none of them, where ``additional_headers`` hold
    the credentials. ``register``: make the account first. ``resume``: go on with an older
    session. ``window``: the most requests on their way at once. ``client``: a name for the
    server's log. Other options go to ``websockets.asyncio.client.connect`` (``ssl``,
    ``proxy``, ``additional_headers``, ``ping_timeout`` …).

    The first connection must stand within ``open_timeout`` seconds, and a first failure is
    final, unless ``keep_trying``. A connection that is lost later is opened again (``backoff``
    yields the seconds before each attempt), until it was gone for ``give_up_after`` seconds;
    0: not at all, None: for ever. Then, or where coming back is of no use, everything that is
    open ends with the reason, which says in ``accepted`` what became of the request.

    ``on_state`` is told ``connected``; then ``draining``, ``reconnecting`` and ``resumed`` as
    often as it happens; at last ``closed``, ``lost`` or ``detached``.

    Raises ``LoginFailed``, ``SessionGone``, ``HistoryLost`` or ``ConnectionLost``.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        username: str | None = None,
        password: str | None = None,
        auth: Auth | None = None,
        register: bool = False,
        resume: State | None = None,
        window: int = 256,
        on_state: Callable[[str], object] | None = None,
        client: str | None = None,
        open_timeout: float = 30.0,
        keep_trying: bool = False,
        give_up_after: float | None = 60.0,
        backoff: Backoff = retry.backoff,
        **options: Any,
    ) -> None:
        given = None
        if auth is None:
            given = Credentials(token, username, password, register)
        elif token is not None or username is not None or password is not None:
            raise ValueError("either auth or a token or a username with a password")
        self._login = Login(given, auth, register)
        self._dialer = Dialer(url, options)
        self._resume = resume
        self._window = window
        self._on_state = on_state
        self._client = client
        self._open_timeout = open_timeout
        self._keep_trying = keep_trying
        self._give_up_after = give_up_after
        self._backoff = backoff
        self._session: Session | None = None

    def __await__(self) -> Generator[Any, None, Session]:
        return self._open().__await__()

    async def __aenter__(self) -> Session:
        self._session = await self._open()
        return self._session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None
        if kind is not None or self._session._core.phase is Phase.DETACHED:
            await self._session.detach()
        else:
            await self._session.close()

    async def _open(self) -> Session:
        core = Core(
            self._window,
            self._resume,
            give_up_after=self._give_up_after,
            backoff=self._backoff,
        )
        session = Session(
            core,
            self._dialer,
            self._login,
            client=self._client,
            open_timeout=self._open_timeout,
            on_state=self._on_state,
        )
        await session._open(self._open_timeout if self._keep_trying else 0.0)
        return session


__all__ = ["Job", "Session", "connect"]
