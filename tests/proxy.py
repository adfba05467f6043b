"""A TCP proxy between a client and a server, for tests that break what is between them.

Imports nothing of the project and knows no protocol: it moves bytes, and stops doing so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_CHUNK = 65536


class Proxy:
    """``async with Proxy(url) as proxy`` and connect to ``proxy.url``.

    :meth:`drop` breaks all connections with a reset, :meth:`close` gently; :meth:`freeze`
    leaves them open and passes nothing on (a half-open connection, a black hole) until
    :meth:`thaw`; :meth:`refuse` makes it accept and break at once until :meth:`admit`.
    ``delay`` are seconds that every byte takes, in both directions. ``target`` may be changed
    while it runs, for a server that comes back on another port.

    ``cut_up`` and ``cut_down`` (client to server, server to client) are asked before each
    chunk of a connection is passed on: they get the bytes passed on so far in that direction
    of that connection, and the chunk, and return how many bytes of it still go through before
    the connection is dropped; None: all, and go on. So a frame can be cut in the middle.
    """

    def __init__(self, url: str) -> None:
        self.target = url
        self.delay = 0.0
        self.cut_up: Cut | None = None
        self.cut_down: Cut | None = None
        self.opened = 0
        """Connections taken since the start."""
        self.bytes_up = 0
        self.bytes_down = 0
        """Passed on since the start, over all connections."""
        self._flows: set[_Flow] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._refusing = False
        self._server: asyncio.Server
        self._port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        self.drop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """The target's address, through here."""
        return urlsplit(self.target)._replace(netloc=f"127.0.0.1:{self._port}").geturl()

    @property
    def live(self) -> int:
        """How many connections there are now."""
        return len(self._flows)

    def drop(self) -> int:
        """Breaks every connection; returns how many there were."""
        flows = list(self._flows)
        for flow in flows:
            flow.drop()
        return len(flows)

    def close(self) -> None:
        """Closes every connection as an orderly peer does at TCP, without a WebSocket close."""
        for flow in list(self._flows):
            flow.close()

    def freeze(self) -> None:
        """Passes nothing on and answers nothing from now on; what comes is kept."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Goes on, with what was kept."""
        self._thawed.set()

    def refuse(self) -> None:
        """Breaks every new connection at once."""
        self._refusing = True

    def admit(self) -> None:
        """Takes connections again."""
        self._refusing = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        flow = _Flow(self, reader, writer)
        self._flows.add(flow)
        try:
            if not self._refusing:
                await self._thawed.wait()
                await flow.run()
        except asyncio.CancelledError:
            # Only from `__aexit__`. Python 3.11's streams take a cancelled task for an error.
            pass
        finally:
            flow.drop()
            self._flows.discard(flow)
            self._tasks.discard(task)


Cut = Callable[[int, bytes], int | None]


class _Flow:
    """One connection through the proxy."""

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writers = [writer]

    async def run(self) -> None:
        target = urlsplit(self._proxy.target)
        try:
            far_reader, far_writer = await asyncio.open_connection(target.hostname, target.port)
        except OSError:
            return
        self._writers.append(far_writer)
        ways = [
            asyncio.ensure_future(self._pass(self._reader, far_writer, up=True)),
            asyncio.ensure_future(self._pass(far_reader, self._writers[0], up=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    def drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        proxy, passed = self._proxy, 0
        try:
            while chunk := await reader.read(_CHUNK):
                if proxy.delay:
                    await asyncio.sleep(proxy.delay)
                await proxy._thawed.wait()
                cut = proxy.cut_up if up else proxy.cut_down
                most = cut(passed, chunk) if cut is not None else None
                writer.write(chunk if most is None else chunk[:most])
                await writer.drain()
                passed += len(chunk)
                if up:
                    proxy.bytes_up += len(chunk)
                else:
                    proxy.bytes_down += len(chunk)
                if most is not None:
                    # What was written must leave before the reset overtakes it.
                    await asyncio.sleep(0)
                    return
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, OSError):
            pass
