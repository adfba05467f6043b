"""One socket of a session, with its reader and its writer.

A session has one link after the other. What comes from one that was left is not looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from .codes import CloseCode
from .core import Core
from .phases import Phase

CLOSE_TIMEOUT = 10.0
"""Seconds for the last frames and the closing handshake, whatever the peer does."""
DROP_TIMEOUT = 1.0
"""The same for a connection that was lost or can't be trusted."""


class Link:
    """``dispatch`` is called after everything that happened to the core."""

    def __init__(self, core: Core, socket: ClientConnection, dispatch: Callable[[], None]) -> None:
        self.wake = asyncio.Event()
        self._core = core
        self._socket = socket
        self._dispatch = dispatch
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._abort: asyncio.TimerHandle | None = None
        self._last: list[bytes] = []
        self._left: CloseCode | None = None
        self.tasks = [
            asyncio.create_task(self._read(), name="inorder-reader"),
            asyncio.create_task(self._write(), name="inorder-writer"),
        ]

    def leave(self, code: CloseCode, timeout: float) -> None:
        """Of no more use: its tasks end, and its socket is closed within ``timeout``
        seconds."""
        if self._left is not None:
            return
        self._left = code
        if self._core.phase is Phase.DETACHED:
            self._last = self._core.frames_to_send(self._loop.time())
        # The writer may hang in its send: a peer that reads nothing can't keep us.
        self._abort = self._loop.call_later(timeout, self._socket.transport.abort)
        self.wake.set()

    async def _read(self) -> None:
        core, socket, now = self._core, self._socket, self._loop.time
        code, reason = int(CloseCode.ABNORMAL), ""
        try:
            while True:
                frame = await socket.recv(decode=False)
                if self._left is not None:
                    continue
                core.receive(frame, now())
                self._dispatch()
                self.wake.set()
        except ConnectionClosed as exc:
            if exc.rcvd is not None:
                code, reason = exc.rcvd.code, exc.rcvd.reason
            elif exc.sent is not None:
                code, reason = exc.sent.code, exc.sent.reason
        finally:
            if self._left is None:
                core.connection_lost(code, reason, now())
                self._dispatch()

    async def _write(self) -> None:
        core, socket, wake = self._core, self._socket, self.wake
        try:
            while self._left is None:
                await wake.wait()
                wake.clear()
                if self._left is None:
                    frames = core.frames_to_send(self._loop.time())
                    self._dispatch()
                    for frame in frames:
                        await socket.send(frame, text=True)
                if self._left is None:
                    self._set_timer()
            for frame in self._last:
                await socket.send(frame, text=True)
        except ConnectionClosed:
            pass  # the reader has seen it, and why
        finally:
            self._clear_timer()
            await socket.close(self._left or CloseCode.DONE)
            if self._abort is not None:
                self._abort.cancel()

    def _set_timer(self) -> None:
        """One timer, and only where there is something to wait for."""
        deadline = self._core.next_deadline()
        if self._timer is not None:
            if self._timer.when() == deadline and not self._timer.cancelled():
                return
            self._clear_timer()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        self.wake.set()
