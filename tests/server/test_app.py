"""A node in this process: what a start that fails leaves behind, its words, its stop."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from frames import RawClient, request
from loguru import logger
from node_bench import tasks

from inorder_server import app as module
from inorder_server import config
from inorder_server.app import App, make_store
from inorder_server.config import Config, ConfigError
from inorder_server.handlers.api import HandlerError
from inorder_server.housekeeping import Housekeeping
from inorder_server.registry import Registry
from inorder_server.stores.mongo import MongoStore
from inorder_server.stores.port import StoreError, StoreUnavailable, User
from inorder_server.stores.sqlite import SqliteStore

PASSWORD = "correct horse"


def conf(folder: Path, **sections: Any) -> Config:
    """With a port that the system chooses, and cheap passwords."""
    return Config(
        server=sections.pop("server", None) or config.Server(port=0, drain_timeout=1),
        auth=sections.pop("auth", None) or config.Auth(bcrypt_cost=4),
        folder=folder,
        **sections,
    )


def handlers(folder: Path, name: str, text: str) -> config.Handlers:
    """A module of handlers, with a name of its own."""
    (folder / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
    return config.Handlers(modules=[name])


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What was logged."""
    found: list[str] = []
    sink = logger.add(lambda m: found.append(m.record["message"]), level="DEBUG")
    yield found
    logger.remove(sink)


def threads() -> set[str]:
    """The names of the threads that a node makes."""
    return {t.name for t in threading.enumerate() if t.name.startswith("inorder")}


async def gone(wanted: Callable[[], bool]) -> None:
    """Threads end in their own time, but they do."""
    async with asyncio.timeout(5):
        while not wanted():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    before = threads()
    yield
    await gone(lambda: threads() <= before)
    assert tasks() == []


# ---- the main job


async def test_from_login_to_receipt(tmp_path: Path) -> None:
    async with nothing_left(), App(conf(tmp_path)) as app:
        assert app.ready()
        async with RawClient(app.url) as client:
            await client.register("ann", PASSWORD)
            await client.send(request("echo", 1, seq=1))
            assert (await client.until_outcome(1))["result"] == 1
            receipt = await client.bye()
            assert (receipt["done"], receipt["verified"]) == (1, True)
            assert await client.until_closed() == (1000, "done")
        async with RawClient(app.url, hand=True) as client:
            await client.until("hint")
            assert len(app.edge.connections) == 1
    assert not app.ready()
    assert not app.edge.connections


async def test_ping_and_limits_reach_the_socket(tmp_path: Path) -> None:
    async with nothing_left(), App(conf(tmp_path)) as app, RawClient(app.url) as client:
        await client.send("x" * 5000)
        assert (await client.until_closed())[0] == 1009


# ---- announcements


@pytest.mark.parametrize(
    ("host", "registration", "words"),
    [
        ("127.0.0.1", "auto", "open to this machine only"),
        ("0.0.0.0", "auto", "closed to others than this machine"),
        ("127.0.0.1", "open", "open to everybody"),
        ("127.0.0.1", "closed", "closed"),
    ],
)
async def test_what_is_printed(tmp_path: Path, host: str, registration: Any, words: str) -> None:
    settings = conf(
        tmp_path,
        server=config.Server(host=host, port=0),
        auth=config.Auth(bcrypt_cost=4, registration=registration),
    )
    async with App(settings) as app:
        assert app.port
        assert app.announcement() == [
            f"inorder listens on ws://{host}:{app.port}/ws",
            f"store: SQLite {tmp_path / 'inorder.db'}",
            f"registration: {words}",
            f"try it:  wscat -c ws://{host}:{app.port}/ws",
        ]


def test_an_address_of_the_sixth_version(tmp_path: Path) -> None:
    app = App(conf(tmp_path, server=config.Server(host="::1")))
    app.port = 3000
    assert app.url == "ws://[::1]:3000/ws"


# ---- the store


def test_the_store_that_is_named(tmp_path: Path) -> None:
    store = make_store(conf(tmp_path, store=config.Store(uri="sqlite:///x.db")), serving=False)
    assert isinstance(store, SqliteStore)
    assert store.name == f"SQLite {tmp_path / 'x.db'}"
    store = make_store(conf(tmp_path, store=config.Store(uri="mongodb://x/y")), serving=False)
    assert isinstance(store, MongoStore)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"limits": config.Limits(message_bytes=8 << 20)},
            r"\[limits\] message_bytes: MongoDB takes",
        ),
        (
            {"limits": config.Limits(outcome_bytes=8 << 20)},
            r"\[limits\] outcome_bytes: MongoDB takes",
        ),
        ({"store": config.Store(uri="mongodb://x/y", lease=0.4)}, "lease: expected at least 0.5"),
    ],
)
def test_what_mongodb_can_not_do(tmp_path: Path, sections: dict[str, Any], words: str) -> None:
    sections = {"store": config.Store(uri="mongodb://x/y"), **sections}
    with pytest.raises(StoreError, match=words):
        make_store(conf(tmp_path, **sections), serving=True)


# ---- a start that fails


def free_again(folder: Path) -> None:
    """The lock, the file and its log are free: another process may serve."""

    async def once() -> None:
        store = SqliteStore(folder / "inorder.db")
        await store.open("another")
        await store.close()

    asyncio.run(once())


async def fails(settings: Config, kind: type[BaseException], match: str | None = None) -> None:
    """A start that raises this, and leaves nothing."""
    app = App(settings)
    async with nothing_left():
        with pytest.raises(kind, match=match):
            await app.start()
    await asyncio.to_thread(free_again, settings.folder)


async def test_a_busy_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = conf(tmp_path, server=config.Server(port=port))
        await fails(settings, OSError, rf"^can't listen on 127\.0\.0\.1:{port}: Address already")


async def test_a_name_that_nobody_knows(tmp_path: Path) -> None:
    settings = conf(tmp_path, server=config.Server(host="nobody.invalid", port=0))
    await fails(settings, OSError, r"^can't listen on nobody\.invalid:0: ")


async def test_a_secret_that_is_too_short(tmp_path: Path) -> None:
    await fails(conf(tmp_path, secrets=config.Secrets(session="short")), ConfigError)


async def test_a_lifespan_that_fails(tmp_path: Path) -> None:
    modules = handlers(
        tmp_path,
        "app_lifespan_fails",
        """
        from inorder_server import lifespan

        @lifespan
        async def database():
            raise RuntimeError("no database")
            yield
        """,
    )
    await fails(conf(tmp_path, handlers=modules), HandlerError, "no database")


async def test_a_database_that_does_not_come_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STORE_COMES_WITHIN", 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        name = f"127.0.0.1:{taken.getsockname()[1]}/x"
        store = config.Store(uri=f"mongodb://{name}", lease=0.6)
        settings = conf(tmp_path, store=store, secrets=config.Secrets(session="x" * 20))
        await fails(settings, StoreUnavailable, f"^MongoDB {name}: ")


async def test_commands_that_can_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(self: Housekeeping) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(Housekeeping, "start", away)
    await fails(conf(tmp_path), StoreUnavailable)


async def test_an_adoption_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(self: Registry) -> int:
        raise StoreUnavailable("away")

    monkeypatch.setattr(Registry, "adopt", away)
    left = handlers(
        tmp_path,
        "app_lifespan_left",
        """
        from pathlib import Path
        from inorder_server import lifespan

        @lifespan
        async def note():
            here = Path(__file__)
            here.with_suffix(".in").touch()
            yield
            here.with_suffix(".out").touch()
        """,
    )
    await fails(conf(tmp_path, handlers=left), StoreUnavailable)
    assert (tmp_path / "app_lifespan_left.in").exists()
    assert (tmp_path / "app_lifespan_left.out").exists(), "what was entered is left"


async def test_a_listener_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from websockets.asyncio.server import Server

    async def broken(self: Server) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(Server, "start_serving", broken)
    await fails(conf(tmp_path), OSError, "too many open files")


async def test_a_start_that_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adopting = asyncio.Event()

    async def endless(self: Registry) -> int:
        adopting.set()
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(Registry, "adopt", endless)
    async with nothing_left():
        starts = asyncio.create_task(App(conf(tmp_path)).start())
        await adopting.wait()
        starts.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starts
    await asyncio.to_thread(free_again, tmp_path)


# ---- adoption


async def test_what_was_left_unfinished_is_finished_without_its_client(
    tmp_path: Path, lines: list[str]
) -> None:
    settings = conf(
        tmp_path,
        server=config.Server(port=0, drain_timeout=0.05),
    )
    async with App(settings) as app, RawClient(app.url) as client:
        session = (await client.register("ann", PASSWORD))["session"]
        await client.send([request("sleep", 0.3, seq=1), request("echo", 7, seq=2)])
        await client.until("accepted")
    async with App(settings) as app:
        assert "adopted 1 sessions with unfinished requests" in lines
        await gone(lambda: not app.registry.queues)
        async with RawClient(app.url) as client:
            welcome = await client.hello(
                username="ann", password=PASSWORD, session=session, seq=0, accepted=2
            )
            assert (welcome["resumed"], welcome["settled"]) == (True, 2)
            assert [(await client.until_outcome(n))["seq"] for n in (1, 2)] == [1, 2]


# ---- the stop


async def test_a_stop_tells_everybody(tmp_path: Path) -> None:
    async with nothing_left():
        app = App(conf(tmp_path))
        await app.start()
        async with RawClient(app.url) as client, RawClient(app.url, hand=True) as guest:
            await client.register("ann", PASSWORD)
            await client.send(request("sleep", 0.1, seq=1))
            await client.until("accepted")
            assert await app.stop(5) == []
            assert (await client.until("draining"))["deadline"] <= 5
            assert (await client.until_outcome(1))["result"] == {"slept": 0.1}
            assert await client.until_closed() == (1012, "draining")
            assert await guest.until_closed() == (1012, "draining")
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", app.port)


async def test_a_stop_does_not_wait_for_a_handshake_that_never_comes(tmp_path: Path) -> None:
    async with nothing_left():
        app = App(conf(tmp_path))
        await app.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        await gone(lambda: len(app._sockets) == 1)
        began = time.monotonic()
        assert await app.stop(30) == []
        assert time.monotonic() - began < 2
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


async def test_a_stop_cuts_off_who_does_not_answer(tmp_path: Path) -> None:
    async with nothing_left():
        app = App(conf(tmp_path))
        await app.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        began = time.monotonic()
        assert await app.stop(0.1) == []
        assert time.monotonic() - began < 2.1
        writer.close()


async def test_a_stop_has_its_bound(tmp_path: Path, lines: list[str]) -> None:
    """A thread that is stuck, a peer that reads nothing, one that never shakes hands, a disk that
    hangs: all at once."""
    modules = handlers(
        tmp_path,
        "app_stuck",
        """
        import threading
        from inorder_server import handler

        stuck = threading.Event()

        @handler
        def forever(request):
            stuck.wait()

        @handler
        async def big(request) -> str:
            return "x" * 200_000
        """,
    )
    app = App(conf(tmp_path, handlers=modules))
    await app.start()
    hangs = threading.Event()
    async with RawClient(app.url) as client, RawClient(app.url) as deaf:
        await deaf.register("bob", PASSWORD)
        deaf.socket.transport.pause_reading()
        await deaf.send(*[request("big", seq=n) for n in range(1, 101)])
        await gone(lambda: any(c.outbox.full for c in app.edge.connections))
        _, writer = await asyncio.open_connection("127.0.0.1", app.port)
        await client.register("ann", PASSWORD)
        await client.send(request("forever", seq=1))
        await client.until("accepted")
        store: Any = app.node.store
        store._writer._jobs.put((lambda _: hangs.wait(), (), asyncio.get_running_loop(), None))
        await client.send(request("echo", seq=2))
        began = time.monotonic()
        left = await app.stop(0.2)
        took = time.monotonic() - began
        assert took < 2.2
        assert any("forever" in name for name in left), left
        assert any("commits" in name for name in left), left
        assert store.name in left
        assert any(line.startswith("stopped; left behind: ") for line in lines)
        deaf.socket.transport.resume_reading()
        writer.close()
    hangs.set()
    sys.modules["app_stuck"].stuck.set()
    await store.close()
    await gone(lambda: not threads())


async def test_a_peer_that_reads_nothing_is_closed_and_comes_back(
    tmp_path: Path, lines: list[str]
) -> None:
    modules = handlers(
        tmp_path,
        "app_big",
        """
        from inorder_server import handler

        @handler
        async def big(request, size: int) -> str:
            return "x" * size
        """,
    )
    settings = conf(
        tmp_path, handlers=modules, session=config.Session(slow_client_timeout=0.3, queue=500)
    )
    count = 200
    async with nothing_left(), App(settings) as app:
        async with RawClient(app.url) as client:
            session = (await client.register("ann", PASSWORD))["session"]
            client.socket.transport.pause_reading()
            for first in range(1, count + 1, 50):
                frames = [request("big", 100_000, seq=n) for n in range(first, first + 50)]
                await client.send(*frames)
            async with asyncio.timeout(20):
                while not any("slow client" in line for line in lines):
                    await asyncio.sleep(0.02)
            most = max(c.outbox._bytes for c in app.edge.connections)
            assert most < 2_000_000, "what it does not read is not kept in memory"
            client.socket.transport.resume_reading()
            closed = await client.until_closed()
            assert closed in ((4510, "slow_client"), (1006, ""))
            held = len(client.outcomes)
            assert held < count
        async with RawClient(app.url) as client:
            await client.hello(
                username="ann", password=PASSWORD, session=session, seq=held, accepted=held
            )
            await client.until_outcome(count)
            assert [o["seq"] for o in client.outcomes] == list(range(held + 1, count + 1))


async def test_a_revoke_by_a_row_in_the_store(tmp_path: Path) -> None:
    async with App(conf(tmp_path)) as app, RawClient(app.url) as client:
        token = (await client.register("ann", PASSWORD))["token"]
        tools = make_store(app.config, serving=False)
        await tools.open("a tool")
        assert await tools.revoke("ann")
        await tools.post("revoke", "ann", "", 0)
        await tools.close()
        assert await client.until_closed() == (4403, "forbidden")
        async with RawClient(app.url) as again:
            await again.send({"type": "hello", "token": token})
            assert (await again.until("error"))["code"] == "unauthenticated"


async def test_readiness_while_the_store_is_away(tmp_path: Path) -> None:
    async with App(conf(tmp_path)) as app:
        assert app.ready()
        app.node.journal.available = False
        assert not app.ready()
        app.node.journal.available = True
        app.node.draining = True
        assert not app.ready()


async def test_an_admin_is_one(tmp_path: Path) -> None:
    async with App(conf(tmp_path)) as app, RawClient(app.url) as client:
        await client.register("ann", PASSWORD)
        found = await app.node.store.user("ann")
        assert isinstance(found, User)
        assert found.admin is False


# ---- as a process


class Signals:
    """A loop that only keeps what is to be done at a signal."""

    def __init__(self) -> None:
        self.handlers: dict[int, Callable[[], None]] = {}

    def add_signal_handler(self, number: int, call: Any, *args: Any) -> None:
        self.handlers[number] = lambda: call(*args)


async def test_a_first_signal_drains_and_a_second_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, ends, stop = Signals(), [], asyncio.Event()
    monkeypatch.setattr(module.asyncio, "get_running_loop", lambda: loop)
    monkeypatch.setattr(os, "_exit", ends.append)
    module._on_signals(stop)
    monkeypatch.undo()
    assert set(loop.handlers) == {signal.SIGTERM, signal.SIGINT}
    monkeypatch.setattr(os, "_exit", ends.append)
    loop.handlers[signal.SIGTERM]()
    assert (stop.is_set(), ends) == (True, [])
    loop.handlers[signal.SIGINT]()
    assert ends == [1]


def test_a_run_from_start_to_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def at_once(stop: asyncio.Event) -> None:
        stop.set()

    settings: list[str] = []
    monkeypatch.setattr(module, "_on_signals", at_once)
    monkeypatch.setattr(module, "_collect_seldom", lambda: settings.append("collector"))
    assert module.run(conf(tmp_path)) == 0
    assert settings == ["collector"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("inorder listens on ws://127.0.0.1:")
    assert len(printed) == 4


def test_a_run_that_leaves_something_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[int] = []

    async def stuck(self: App, drain_timeout: float) -> list[str]:
        await stop(self, drain_timeout)
        return ["a thread"]

    stop = App.stop
    monkeypatch.setattr(App, "stop", stuck)
    monkeypatch.setattr(module, "_on_signals", lambda event: event.set())
    monkeypatch.setattr(module, "_collect_seldom", lambda: None)
    monkeypatch.setattr(os, "_exit", ends.append)
    assert module.run(conf(tmp_path)) == 0
    assert ends == [0]


def test_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert module._loop_factory() is None


def test_with_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    assert module._loop_factory() is uvloop.Loop
