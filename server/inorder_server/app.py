"""The composition root: builds a node from its configuration, runs it, and winds it up.

Source: design.md sections 5 ("SIGTERM/SIGINT", "Start") and 8. The only module that names a store's
adapter.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import sys
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Self
from weakref import WeakSet

from loguru import logger
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.protocol import State

from . import gateway
from .auth import Auth
from .config import Config, secret, sqlite_path
from .edge import Edge
from .handlers.methods import Methods, load
from .handlers.runner import Runner
from .housekeeping import Housekeeping
from .journal import Journal
from .membership import Membership
from .metrics import Metrics
from .node import Node
from .passwords import Passwords
from .proxies import networks
from .registry import Registry
from .stores.mongo import MongoStore
from .stores.port import Store, StoreError, StoreUnavailable
from .stores.sqlite import SqliteStore
from .web import WS_PATH, PlainSocket, Web, identity_of, peer_of, select_subprotocol
from .wire import Wire

# What winding up may take beyond ``drain_timeout``: the bound on the whole is that plus 2 s.
_LAST_SECONDS = 0.25
# What connections have for their last words where the drain was done before its time.
_PARTING_SECONDS = 2
_NO_HEADERS = Headers()
# A document may have 16 MiB, and holds a request's params and its outcome.
_MOST_DOCUMENT_BYTES = 7 << 20
_LEAST_LEASE = 0.5
# Seconds that a node which starts waits for a store on the network, and how often it looks.
_STORE_COMES_WITHIN = 10.0
_LOOKS_AGAIN = 0.25


def make_store(config: Config, serving: bool) -> Store:
    """The store that the configuration names. Raises :class:`StoreError`."""
    if config.store.uri.startswith("sqlite:"):
        return SqliteStore(sqlite_path(config), serving=serving)
    for key in ("message_bytes", "outcome_bytes"):
        if getattr(config.limits, key) > _MOST_DOCUMENT_BYTES:
            raise StoreError(f"[limits] {key}: MongoDB takes at most {_MOST_DOCUMENT_BYTES}")
    if config.store.lease < _LEAST_LEASE:
        raise StoreError(f"[store] lease: expected at least {_LEAST_LEASE:g} seconds")
    return MongoStore(config.store.uri, serving=serving, lease=config.store.lease)


def run(config: Config) -> int:
    """Runs a node until it is told to stop. Returns the exit status.

    Raises ConfigError, StoreError, HandlerError and OSError, each with one line to show.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        status, stuck = runner.run(_main(config))
    if stuck:
        # A thread can't be ended; waiting for it would be waiting for ever.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


async def _main(config: Config) -> tuple[int, list[str]]:
    app = App(config)
    stop = asyncio.Event()
    await app.start()
    _collect_seldom()
    _on_signals(stop)
    for line in app.announcement():
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    await stop.wait()
    return 0, await app.stop(config.server.drain_timeout)


def _collect_seldom() -> None:
    """What a request leaves is freed by counting. Python's collector looks for cycles after
    every 700 new objects. Where 5,000 sessions have a request under way, a hundred thousand
    come and go with each commit, and to look through those took a sixth of all time (measured);
    what connections leave that were closed can wait."""
    gc.freeze()
    gc.set_threshold(400_000, 10, 5)


def _cannot_listen(config: Config, exc: OSError) -> OSError:
    """The same in plain words: what asyncio says of an address does not always name it."""
    number = exc.errno or 0
    # Others than errno's are getaddrinfo's.
    why = os.strerror(number) if number > 0 else exc.strerror or str(exc)
    return OSError(f"can't listen on {config.server.host}:{config.server.port}: {why}")


def _on_signals(stop: asyncio.Event) -> None:
    """The first signal drains, a second ends at once: the journal holds what was accepted."""
    loop = asyncio.get_running_loop()

    def received(name: str) -> None:
        if stop.is_set():
            logger.warning("{} again: ending at once", name)
            os._exit(1)
        logger.info("{}: draining", name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, received, number.name)
        except NotImplementedError:  # pragma: no cover - Windows
            signal.signal(
                number, lambda n, _: loop.call_soon_threadsafe(received, signal.Signals(n).name)
            )


class App:
    """A node and its listener. ``async with`` starts and stops it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._trusted = networks(config.server.trusted_proxies)
        self.node: Node
        self.registry: Registry
        self.edge: Edge
        self.port = 0
        self._auth: Auth
        self._passwords: Passwords
        self._server: Server
        self._sockets: WeakSet[ServerConnection] = WeakSet()
        self._housekeeping: asyncio.Task[None] | None = None
        self._membership: Membership | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop(self.config.server.drain_timeout)

    @property
    def url(self) -> str:
        """Where clients connect."""
        host = self.config.server.host
        return f"ws://{f'[{host}]' if ':' in host else host}:{self.port}{WS_PATH}"

    # ---- start

    async def start(self) -> None:
        """Builds everything, binds, adopts what was left unfinished, then listens. Where one
        of these fails, what was begun is ended again; a store on the network may come up later
        than its servers do, or be busy, so that then all is begun anew for a while."""
        config = self.config
        methods = load(config.handlers.modules, config.folder, config.handlers.builtin)
        clock = asyncio.get_running_loop().time
        deadline = clock() + _STORE_COMES_WITHIN
        told = False
        while True:
            store = make_store(config, serving=True)
            try:
                return await self._start(store, methods)
            except StoreUnavailable as exc:
                if not isinstance(store, MongoStore) or clock() >= deadline:
                    raise
                if not told:
                    logger.warning("{}: trying again", exc)
                    told = True
            await asyncio.sleep(_LOOKS_AGAIN)

    async def _start(self, store: Store, methods: Methods) -> None:
        config, name = self.config, secrets.token_hex(8)
        await store.open(name)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(store.close)
            metrics = Metrics()
            runner = Runner(
                methods,
                threads=config.handlers.threads,
                outcome_bytes=config.limits.outcome_bytes,
            )
            journal = Journal(store, metrics)
            self.node = Node(name, config, store, journal, methods, runner, metrics)
            metrics.ready = self.ready
            self.registry = Registry(self.node)
            if isinstance(store, MongoStore):
                lease = config.store.lease
                self._membership = Membership(self.node, self.registry, store, lease)
                self.node.standing = self._membership
                undo.push_async_callback(self._membership.close)
                await self._membership.start()
            self._passwords = Passwords(config.auth.bcrypt_cost)
            undo.callback(self._passwords.close)
            self._auth = Auth(
                store,
                secret=secret(config),
                token_ttl=config.auth.token_ttl,
                registration=config.auth.registration,
                passwords=self._passwords,
            )
            self.edge = Edge(self.node, self.registry, self._auth)
            self._server = await self._bind()
            undo.push_async_callback(self._unbind)
            await runner.start()
            undo.pop_all()
        journal.start()
        try:
            await self._begin()
        except BaseException:
            await self.stop(0)
            raise

    async def _begin(self) -> None:
        housekeeping = Housekeeping(self.edge, self.registry)
        await housekeeping.start()
        if self._membership is not None:
            self._membership.begin()
        else:
            adopted = await self.registry.adopt()
            if adopted:
                logger.info("adopted {} sessions with unfinished requests", adopted)
        await self._server.start_serving()
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        self._housekeeping = asyncio.create_task(housekeeping.run(), name="housekeeping")

    async def _bind(self) -> Server:
        config, sockets = self.config, self._sockets
        web = Web(config, self._auth, self.node.metrics, self.ready, lambda: self.node.draining)

        class Socket(PlainSocket):
            """Known from its first byte on: also one whose handshake never comes."""

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                sockets.add(self)

        try:
            return await serve(
                self._serve,
                config.server.host,
                config.server.port,
                create_connection=Socket,
                process_request=web.process,
                select_subprotocol=select_subprotocol,
                # Compression costs some 60 KiB and much time a connection for little on short
                # JSON.
                compression=None,
                max_size=config.limits.message_bytes,
                ping_interval=config.server.ping_interval,
                ping_timeout=config.server.ping_interval,
                # A login by header is part of the handshake, and many may log in at once.
                open_timeout=30,
                # The outbox has its own bounds; a peer that reads slowly is not cut short.
                close_timeout=config.session.slow_client_timeout,
                server_header=None,
                start_serving=False,
            )
        except OSError as exc:
            raise _cannot_listen(config, exc) from exc

    async def _unbind(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, socket: ServerConnection) -> None:
        assert isinstance(socket, Wire)
        identity, peer = identity_of(socket), peer_of(socket, self._trusted)
        # The handshake has served its purpose; headers are a seventh of an idle session's memory.
        if socket.request is not None and socket.response is not None:
            socket.request.headers = socket.response.headers = _NO_HEADERS
        await gateway.serve(self.edge, socket, identity, peer)

    def ready(self) -> bool:
        """Whether new work is taken."""
        return not self.node.draining and self.node.journal.available and self.node.alive

    def announcement(self) -> list[str]:
        """What is printed at the start."""
        node, auth = self.node, self.config.auth
        address = self.config.server.host
        opened = self._auth.registration_open(address, forwarded=False)
        words = {
            "open": "open to everybody",
            "closed": "closed",
            "auto": "open to this machine only" if opened else "closed to others than this machine",
        }[auth.registration]
        return [
            f"inorder listens on {self.url}",
            f"store: {node.store.name}",
            f"registration: {words}",
            f"try it:  wscat -c {self.url}",
        ]

    # ---- stop

    async def stop(self, drain_timeout: float) -> list[str]:
        """Drains and closes, within ``drain_timeout`` plus 2 s. Returns the threads and other
        things that could not be ended, by name."""
        node, loop = self.node, asyncio.get_running_loop()
        drained_by = loop.time() + drain_timeout
        node.draining = True
        self._server.close(close_connections=False)
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            await asyncio.wait([self._housekeeping])
        self.edge.dismiss()
        left = await self.registry.drain(drain_timeout)
        await self._part(min(drained_by - loop.time(), _PARTING_SECONDS))
        await self.registry.close()
        if not await node.journal.close(_LAST_SECONDS):
            left.append("commits that the store did not take")
        left += await node.runner.close(_LAST_SECONDS)
        self._passwords.close()
        if self._membership is not None:
            await self._membership.close()
        try:
            await asyncio.wait_for(node.store.close(), _LAST_SECONDS)
        except TimeoutError:
            left.append(node.store.name)
        if left:
            logger.warning("stopped; left behind: {}", ", ".join(left))
        else:
            logger.info("stopped")
        return left

    async def _part(self, seconds: float) -> None:
        """Connections have their close frames; those that don't answer are cut."""
        for socket in list(self._sockets):
            if socket.state is State.CONNECTING:
                socket.transport.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, _LAST_SECONDS)):
                await self._server.wait_closed()
                return
        for socket in list(self._sockets):
            socket.transport.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await self._server.wait_closed()
