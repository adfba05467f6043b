"""A connection without a network: what websockets' ``ServerConnection`` is to the server.

A test says what the peer sends, whether it reads, whether it answers a close, and when it is gone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from websockets.exceptions import ConnectionClosedError
from websockets.protocol import State

Json = dict[str, Any]


class FakeSocket:
    """``frames`` is what was written, ``closed`` the code and reason that were sent with the
    close. ``abort`` is the transport's."""

    def __init__(self, subprotocol: str | None = "inorder.v1") -> None:
        self.subprotocol = subprotocol
        self.protocol = SimpleNamespace(max_message_size=0)
        self.transport = self
        self.frames: list[bytes] = []
        self.closed: tuple[int, str] | None = None
        self.aborted = False
        self.answers_close = True
        self.take: Callable[[bytes], bool] | None = None
        # After so many frames the peer has stopped to read.
        self.full_after: int | None = None
        self._gone = asyncio.Event()
        self._reads = asyncio.Event()
        self._reads.set()
        self._coming = 0
        self._incoming: asyncio.Queue[str | bytes | Exception] = asyncio.Queue()

    # ---- what the peer does

    def say(self, *messages: Json | list[Json] | str | bytes) -> None:
        """A frame each."""
        for message in messages:
            frame = message if isinstance(message, str | bytes) else json.dumps(message)
            if not (isinstance(frame, str) and self._takes(frame)):
                self._put(frame)

    def break_with(self, error: Exception) -> None:
        """The next ``recv`` raises it."""
        self._put(error)

    def _takes(self, frame: str) -> bool:
        return self.take is not None and not self._coming and self.take(frame.encode())

    def _put(self, frame: str | bytes | Exception) -> None:
        self._coming += 1
        self._incoming.put_nowait(frame)

    def stop_reading(self) -> None:
        self._reads.clear()

    def read_on(self) -> None:
        self._reads.set()

    def go(self) -> None:
        """The connection is lost."""
        self._gone.set()
        self._reads.set()

    @property
    def gone(self) -> bool:
        return self._gone.is_set()

    @property
    def seen(self) -> list[Json]:
        """Every message that was written, in order."""
        found: list[Json] = []
        for frame in self.frames:
            message = json.loads(frame)
            found += message if isinstance(message, list) else [message]
        return found

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.seen]

    def of(self, kind: str) -> list[Json]:
        return [message for message in self.seen if message["type"] == kind]

    # ---- what the server does

    @property
    def close_code(self) -> int | None:
        return 1006 if self.gone else None

    @property
    def state(self) -> State:
        if self.gone:
            return State.CLOSED
        return State.OPEN if self.closed is None else State.CLOSING

    def _check(self) -> None:
        if self.gone:
            raise ConnectionClosedError(None, None)

    @property
    def behind(self) -> bool:
        return not self._reads.is_set()

    async def caught_up(self) -> None:
        await self._reads.wait()

    def send_now(self, frame: bytes) -> bool:
        if self.gone or self.closed is not None or self.behind:
            return False
        self.frames.append(frame)
        if self.full_after == len(self.frames):
            self.stop_reading()
        return True

    async def send(self, frame: bytes, text: bool) -> None:
        assert text
        self._check()
        if self.closed is not None:
            await self._gone.wait()
            self._check()
        self.frames.append(frame)
        await self._reads.wait()
        self._check()

    async def recv(self) -> str | bytes:
        while self._incoming.empty():
            self._check()
            waits = asyncio.ensure_future(self._incoming.get())
            gone = asyncio.ensure_future(self._gone.wait())
            try:
                await asyncio.wait({waits, gone}, return_when=asyncio.FIRST_COMPLETED)
                if waits.done():
                    return self._taken(waits.result())
            finally:
                waits.cancel()
                gone.cancel()
        return self._taken(self._incoming.get_nowait())

    def _taken(self, frame: str | bytes | Exception) -> str | bytes:
        self._coming -= 1
        if isinstance(frame, Exception):
            raise frame
        return frame

    async def close(self, code: int, reason: str) -> None:
        if self.gone:
            return
        if self.closed is None:
            self.closed = (int(code), reason)
        await self._reads.wait()
        if self.answers_close:
            self.go()
        await self._gone.wait()

    def abort(self) -> None:
        self.aborted = True
        self.go()
