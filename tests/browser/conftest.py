"""Node and a Chromium, and a server with a proxy before it that a script in Node may lead."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from cutting import cutting
from desk import QUIET, Desk
from playwright.async_api import Browser, async_playwright
from proxy import Proxy
from tools import npm_packages, tool
from vector_server import ServerProcess

HERE = Path(__file__).parent
NODE_TIMEOUT = 60.0
"""Seconds until a script in Node has hung."""

Script = Callable[..., Awaitable[str]]


@pytest.fixture(scope="session")
def packages() -> Path:
    """A folder with ``ws`` and ``typescript`` in its ``node_modules``."""
    return npm_packages("ws@8", "typescript@5", "@types/ws@8")


@pytest.fixture
async def node(
    packages: Path, tmp_path_factory: pytest.TempPathFactory, on_mongodb: bool
) -> Script:
    """``await node("core.test.js", INORDER_URL=…)``: runs a file of this folder by Node's test
    runner, with these variables in its environment. Returns what it printed."""

    async def run(file: str, **env: str) -> str:
        printed = tmp_path_factory.mktemp("node") / "output"
        with printed.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                tool("node"),
                str(HERE / file),
                env={
                    **os.environ,
                    "INORDER_NPM": f"{packages}/",
                    "INORDER_PATIENCE": "50" if on_mongodb else "10",
                    **env,
                },
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            async with asyncio.timeout(NODE_TIMEOUT):
                status = await process.wait()
        except TimeoutError:
            status = None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = printed.read_text(encoding="utf-8", errors="replace")
        if status != 0 or "\n# pass 0\n" in text:
            pytest.fail(f"{file} ended with {status}:\n{text}", pytrace=False)
        return text

    return run


class Stage:
    """A server, the proxy before it, and a socket on which a script gives orders, a line each:
    ``drop``, ``close``, ``freeze``, ``thaw``, ``refuse``, ``admit`` (the proxy's),
    ``delay SECONDS``, ``cut SEED`` (twenty times), ``cut-down BYTES`` (once, so many bytes into
    what comes next), ``stop``, ``kill``, ``restart`` (the server), ``revoke NAME``. Each is
    answered by a line."""

    def __init__(self, server: ServerProcess, proxy: Proxy) -> None:
        self.server = server
        self.proxy = proxy
        self.port = 0

    @property
    def env(self) -> dict[str, str]:
        return {
            "INORDER_DIRECT": self.server.url,
            "INORDER_URL": self.proxy.url,
            "INORDER_STAGE": str(self.port),
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := (await reader.readline()).decode().split():
                answer = await self.order(*line)
                writer.write(f"{answer}\n".encode())
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def order(self, word: str, *rest: str) -> object:
        proxy = self.proxy
        if word in ("drop", "close", "freeze", "thaw", "refuse", "admit"):
            getattr(proxy, word)()
        elif word == "delay":
            proxy.delay = float(rest[0])
        elif word == "cut":
            cutting(random.Random(int(rest[0])), proxy)
        elif word == "cut-down":
            most = int(rest[0])

            def cut(at: int, chunk: bytes) -> int:
                proxy.cut_down = None
                return most

            proxy.cut_down = cut
        elif word in ("stop", "kill", "restart"):
            await (self.server.start() if word == "restart" else getattr(self.server, word)())
            if word == "restart":
                proxy.target = self.server.url
        elif word == "revoke":
            command = [sys.executable, "-m", "inorder_server", "user", "revoke", *rest]
            process = await asyncio.create_subprocess_exec(*command, cwd=self.server.folder)
            assert await process.wait() == 0
        elif word != "opened":
            return f"no such order: {word}"
        return proxy.opened


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Stage]]]:
    """``await stage({"handlers": …})``: a server with this configuration, and what leads it."""
    servers: list[ServerProcess] = []
    opened: list[Proxy] = []
    orders: list[asyncio.Server] = []

    async def start(config: dict[str, dict[str, object]] | None = None) -> Stage:
        server = ServerProcess(tmp_path, config or {})
        servers.append(server)
        await server.start()
        proxy = await Proxy(server.url).__aenter__()
        opened.append(proxy)
        led = Stage(server, proxy)
        listener = await asyncio.start_server(led.serve, "127.0.0.1", 0)
        orders.append(listener)
        led.port = listener.sockets[0].getsockname()[1]
        return led

    yield start
    for listener in orders:
        listener.close()
    for proxy in opened:
        await proxy.__aexit__(None, None, None)
    for server in servers:
        await server.close()


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=tool("chromium"), args=QUIET)
        yield browser
        await browser.close()


@pytest.fixture
async def desk(chromium: Browser, stage) -> AsyncIterator[Desk]:
    led = await stage()
    url = led.proxy.url.replace("ws://", "http://").removesuffix("/ws")
    context = await chromium.new_context(reduced_motion="reduce")
    desk = Desk(await context.new_page(), url, led)
    yield desk
    assert desk.trouble == []
    await context.close()
    # What still runs is not waited for.
    await led.server.kill()
