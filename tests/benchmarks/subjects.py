"""The servers that are measured, each a process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Protocol

from frames import RawClient
from machine import on_servers_processor
from vector_server import ServerProcess

_HERE = Path(__file__).parent
_NAME, _PASSWORD = "bench", "a long word"
_PATIENCE = 15.0


class Subject(Protocol):
    """``bare``: it sends back every frame as it came. ``pids``: of the processes that are it."""

    bare: bool
    url: str
    token: str

    @property
    def pids(self) -> list[int]: ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...


class Inorder:
    """This server: durable, SQLite, everything on. Only the number of connections is raised."""

    bare = False

    def __init__(self, disk: Path) -> None:
        self.url = self.token = ""
        self._folder = tempfile.TemporaryDirectory(dir=disk, prefix="inorder-")
        limits = {"connections_per_user": 10_000, "connections": 20_000}
        config = {"limits": limits, "log": {"level": "WARNING"}}
        self._server = ServerProcess(Path(self._folder.name), config)

    @property
    def pids(self) -> list[int]:
        return [self._server.process.pid]

    async def start(self) -> None:
        with on_servers_processor():
            await self._server.start()
        self.url = self._server.url
        async with RawClient(self.url) as client:
            self.token = (await client.register(_NAME, _PASSWORD))["token"]

    async def close(self) -> None:
        # What is queued need not end: the files go with it.
        await self._server.kill()
        self._folder.cleanup()


class Program:
    """A peer in a file of its own, which prints its address and ends when it is told to."""

    bare = True
    token = ""

    def __init__(self, *command: str) -> None:
        self.url = ""
        self._command = command
        self._process: subprocess.Popen[str] | None = None

    @property
    def pids(self) -> list[int]:
        assert self._process is not None
        return [self._process.pid]

    async def start(self) -> None:
        with on_servers_processor():
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        async with asyncio.timeout(_PATIENCE):
            self.url = (await asyncio.to_thread(self._process.stdout.readline)).strip()
        if not self.url:
            raise RuntimeError(f"{' '.join(self._command)}: it did not start")

    async def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, _PATIENCE)
            assert self._process.stdout is not None
            self._process.stdout.close()


def bare_echo() -> Program:
    """The bare library's echo."""
    return Program(sys.executable, str(_HERE / "bare_echo.py"))


def params(size: int) -> str:
    """An object that is so many bytes of JSON."""
    empty = json.dumps({"text": "", "number": 42}, separators=(",", ":"))
    text = ("inorder " * (size // 8 + 1))[: size - len(empty)]
    return json.dumps({"text": text, "number": 42}, separators=(",", ":"))
