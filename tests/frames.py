"""A client of raw frames, for tests that look at the server from outside.

Imports nothing of the server or the client library: what it counts is its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

Json = dict[str, Any]
PATIENCE = 30.0
"""Seconds to wait for a message that must come."""


class RawClient:
    """One connection. ``seen`` holds every message that came, in order.

    ``hand``: no subprotocol is offered. ``async with`` connects and, on leaving, closes the
    socket without saying ``bye``.
    """

    def __init__(self, url: str, *, hand: bool = False, headers: dict[str, str] | None = None):
        self.seen: list[Json] = []
        self.closed: tuple[int, str] | None = None
        self._url = url
        self._hand = hand
        self._headers = headers or {}
        self._read = 0
        self.socket: ClientConnection

    async def __aenter__(self) -> Self:
        self.socket = await connect(
            self._url,
            subprotocols=None if self._hand else [Subprotocol("inorder.v1")],
            additional_headers=self._headers,
            compression=None,
            max_size=None,
            open_timeout=PATIENCE,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.socket.close()

    async def send(self, *messages: Json | str) -> None:
        """One frame: a line of text, an object, or an array where there are several."""
        if len(messages) == 1 and isinstance(messages[0], str):
            await self.socket.send(messages[0])
        else:
            await self.socket.send(json.dumps(messages[0] if len(messages) == 1 else messages))

    async def next(self, patience: float = PATIENCE) -> Json | None:
        """The next message; None once the connection is closed (see ``closed``)."""
        while self._read >= len(self.seen):
            try:
                async with asyncio.timeout(patience):
                    frame = json.loads(await self.socket.recv())
            except ConnectionClosed:
                self.closed = (self.socket.close_code or 1006, self.socket.close_reason or "")
                return None
            self.seen.extend(frame if isinstance(frame, list) else [frame])
        self._read += 1
        return self.seen[self._read - 1]

    async def until(self, wanted: str | Callable[[Json], bool]) -> Json:
        """Reads on to a message of this type, or one that the predicate likes."""
        matches = wanted if callable(wanted) else lambda message: message["type"] == wanted
        while (message := await self.next()) is not None:
            if matches(message):
                return message
        raise AssertionError(f"closed with {self.closed} before {wanted}: {self.seen[-5:]}")

    async def until_outcome(self, seq: int) -> Json:
        """Reads on to the outcome of this seq."""
        return await self.until(lambda message: is_outcome(message) and message["seq"] >= seq)

    async def until_closed(self) -> tuple[int, str]:
        """Reads on to the close; its code and reason."""
        while await self.next() is not None:
            pass
        assert self.closed is not None
        return self.closed

    async def hello(self, **fields: Any) -> Json:
        """Logs in; the ``welcome``."""
        await self.send({"type": "hello", **fields})
        return await self.until("welcome")

    async def register(self, username: str, password: str) -> Json:
        """Makes an account; the ``welcome``."""
        await self.send({"type": "register", "username": username, "password": password})
        return await self.until("welcome")

    async def bye(self, mode: str = "finish") -> Json:
        """Ends the session; the receipt."""
        await self.send({"type": "bye", "mode": mode})
        receipt: Json = (await self.until("bye"))["receipt"]
        return receipt

    @property
    def outcomes(self) -> list[Json]:
        """Every outcome that came, in order."""
        return [message for message in self.seen if is_outcome(message)]


def is_outcome(message: Json) -> bool:
    """Whether a message is the outcome of a request."""
    return message["type"] == "result" or (message["type"] == "error" and "seq" in message)


def request(method: str, params: Any = None, **fields: Any) -> Json:
    """A ``request`` message."""
    message = {"type": "request", "method": method, **fields}
    return message if params is None else {**message, "params": params}
