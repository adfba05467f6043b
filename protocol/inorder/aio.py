"""The asyncio client's entry: from a URL and credentials to a session."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from . import errors
from .core import Core
from .credentials import Auth, Credentials, State
from .errors import ConnectionLost
from .job import Job
from .messages import SUBPROTOCOL
from .phases import Phase
from .session import Session

MAX_FRAME = 2**27
"""Bytes of a frame that is taken from a server: its batch of its largest outcomes."""


class connect:
    """Opens a session: ``async with connect(url, token=…) as session``.

    Leaving the block normally is :meth:`Session.close`; leaving it by an exception is
    :meth:`Session.detach`. ``session = await connect(…)`` leaves both to the program.

    ``token``, or ``username`` with ``password``, or ``auth``, a callable (also ``async``) that
    returns a token or a (name, password); or none of them, where ``additional_headers`` hold
    the credentials. ``register``: make the account first. ``resume``: go on with an older
    session. ``window``: the most requests on their way at once. ``on_state``: is told
    ``connected``, ``draining``, ``closed``, ``lost``, ``detached``. ``client``: a name for the
    server's log. ``open_timeout``: seconds until ``welcome``. Other options go to
    ``websockets.asyncio.client.connect`` (``ssl``, ``proxy``, ``additional_headers`` …).

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
        open_timeout: float = 10.0,
        **options: Any,
    ) -> None:
        if auth is None:
            self._given = Credentials(token, username, password, register)
        elif token is not None or username is not None or password is not None:
            raise ValueError("either auth or a token or a username with a password")
        self._url = url
        self._auth = auth
        self._register = register
        self._resume = resume
        self._window = window
        self._on_state = on_state
        self._client = client
        self._open_timeout = open_timeout
        self._options = options
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
        core = Core(self._window, self._resume)
        credentials = await self._credentials()
        try:
            async with asyncio.timeout(self._open_timeout):
                socket = await self._open_socket()
                session = Session(core, socket, self._on_state)
                await session._open(credentials, self._client)
        except TimeoutError:
            message = f"no welcome within {self._open_timeout} s"
            raise ConnectionLost("unreachable", message, retry=True) from None
        return session

    async def _credentials(self) -> Credentials:
        if self._auth is None:
            return self._given
        answer = self._auth()
        if inspect.isawaitable(answer):
            answer = await answer
        return Credentials.of(answer, self._register)

    async def _open_socket(self) -> ClientConnection:
        options = {"compression": None, "max_size": MAX_FRAME, **self._options}
        try:
            return await open_websocket(
                self._url, subprotocols=[Subprotocol(SUBPROTOCOL)], open_timeout=None, **options
            )
        except InvalidStatus as exc:
            said = (exc.response.body or b"").decode(errors="replace").strip()
            raise errors.handshake(exc.response.status_code, said) from None
        except InvalidURI as exc:
            raise ValueError(str(exc)) from None
        except InvalidHandshake as exc:
            raise ConnectionLost("unreachable", str(exc)) from exc
        except (OSError, EOFError) as exc:
            raise ConnectionLost("unreachable", str(exc), retry=True) from exc


__all__ = ["Job", "Session", "connect"]
