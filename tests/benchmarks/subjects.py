"""The servers that are measured, each a process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from frames import RawClient
from machine import on_servers_processor
from vector_server import ServerProcess

_HERE = Path(__file__).parent
_NAME, _PASSWORD = "bench", "a long word"
_PATIENCE = 15.0


class Subject(Protocol):
    """``bare``: it sends back every frame as it came. ``pids``: of the processes that are it.
    ``load``: the command of a load generator of its own, to which the load is appended as JSON
    (empty: that of ``inorder bench``), and ``env`` its environment."""

    bare: bool
    url: str
    token: str
    pids: list[int]
    load: Sequence[str]
    env: dict[str, str] | None

    async def start(self) -> None: ...

    async def close(self) -> None: ...


class Inorder:
    """This server: durable, SQLite, everything on. Only the number of connections is raised."""

    bare = False
    load: Sequence[str] = ()
    env = None

    def __init__(self, disk: Path) -> None:
        self.url = self.token = ""
        self.pids: list[int] = []
        self._folder = tempfile.TemporaryDirectory(dir=disk, prefix="inorder-")
        limits = {"connections_per_user": 10_000, "connections": 20_000}
        config = {"limits": limits, "log": {"level": "WARNING"}}
        self._server = ServerProcess(Path(self._folder.name), config)

    @property
    def database(self) -> Path:
        """Where its file is, or will be."""
        return Path(self._server.database)

    async def start(self) -> None:
        with on_servers_processor():
            await self._server.start()
        self.url, self.pids = self._server.url, [self._server.process.pid]
        async with RawClient(self.url) as client:
            self.token = (await client.register(_NAME, _PASSWORD))["token"]

    async def close(self) -> None:
        # What is queued need not end: the files go with it.
        await self._server.kill()
        self._folder.cleanup()


class Program:
    """A peer in a file of its own: it prints its address, and the ids of other processes that
    are part of it, and ends when it is told to. ``disk``: its last argument is a folder there."""

    bare = True
    token = ""

    def __init__(
        self,
        *command: str,
        disk: Path | None = None,
        load: Sequence[str] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        self.url = ""
        self.pids: list[int] = []
        self.load = load
        self.env = env
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None
        self._folder = None
        if disk is not None:
            self._folder = tempfile.TemporaryDirectory(dir=disk, prefix="peer-")
            self._command.append(self._folder.name)

    async def start(self) -> None:
        with on_servers_processor():
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, text=True, env=self.env
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(_PATIENCE):
            line = await asyncio.to_thread(self._process.stdout.readline)
        if not line:
            raise RuntimeError(f"{' '.join(self._command)}: it did not start")
        self.url, *others = line.split()
        self.pids = [self._process.pid, *map(int, others)]

    async def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, _PATIENCE)
            assert self._process.stdout is not None
            self._process.stdout.close()
        if self._folder is not None:
            self._folder.cleanup()


def bare_echo() -> Program:
    """The bare library's echo."""
    return Program(sys.executable, str(_HERE / "bare_echo.py"))


def params(size: int) -> str:
    """An object that is so many bytes of JSON."""
    empty = json.dumps({"text": "", "number": 42}, separators=(",", ":"))
    text = ("inorder " * (size // 8 + 1))[: size - len(empty)]
    return json.dumps({"text": text, "number": 42}, separators=(",", ":"))
