"""A server under test, as a process: ``python -m inorder_server serve``, in a folder of its own.

Imports nothing of the server. Its address is read from what it prints.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from shutil import copy
from typing import Any, Protocol

_ADDRESS = re.compile(rb"ws://[\w.\[\]:]+:\d+/ws")
_PATIENCE = 15.0
_HANDLERS = Path(__file__).with_name("vector_handlers.py")


class Databases(Protocol):
    """Where servers keep everything, if not in files. ``owned``: by the tests alone."""

    owned: bool

    def of(self, folder: Path) -> str:
        """The URI of the database for the servers in this folder."""
        ...

    def still(self) -> AbstractContextManager[None]:
        """None of them is answered meanwhile."""
        ...


databases: Databases | None = None
"""With ``--store mongodb``."""


class ServerProcess:
    """``config`` is what differs from the defaults of the tests; ``url`` is there once started.

    ``prefix`` is a command that runs it (such as strace), ``env`` joins the environment. Its
    output is appended to one file over restarts.

    Satisfies :class:`vector_runner.Server`.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, dict[str, Any]],
        *,
        prefix: Sequence[str] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        self.url = ""
        self.folder = folder
        self.database = folder / "inorder.db"
        self._prefix = prefix
        self._env = {**os.environ, **(env or {})}
        self._output = folder / "output"
        self._process: subprocess.Popen[bytes] | None = None
        copy(_HANDLERS, folder)
        (folder / "config.toml").write_text(_toml(config), encoding="utf-8")
        if databases is not None:
            # Where the command line finds it, too.
            settings = {"MONGODB_URI": databases.of(folder), "SESSION_SECRET": "a secret of tests"}
            lines = "".join(f"{name}='{value}'\n" for name, value in settings.items())
            (folder / ".env").write_text(lines, encoding="utf-8")

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "inorder_server", *arguments]

    def add_user(self, name: str, password: str, *, admin: bool) -> None:
        """Makes an account by the command line."""
        arguments = ["user", "add", name, "--config", "config.toml", "--password-stdin"]
        subprocess.run(
            self._command(*arguments, *(["--admin"] if admin else [])),
            cwd=self.folder,
            input=f"{password}\n".encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=True,
            timeout=_PATIENCE,
        )

    async def start(self) -> None:
        """Waits for the end of the one before, starts, and reads the address."""
        await self._gone()
        before = self._output.stat().st_size if self._output.exists() else 0
        self._process = self._launch("serve", "--config", "config.toml", "--port", "0")
        async with asyncio.timeout(_PATIENCE):
            while (found := _ADDRESS.search(self._output.read_bytes(), before)) is None:
                if self._process.poll() is not None:
                    raise RuntimeError(f"it ended: {self.output()}")
                await asyncio.sleep(0.02)
        self.url = found[0].decode()

    def _launch(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self._output.open("ab") as output:
            return subprocess.Popen(
                [*self._prefix, *self._command(*arguments)],
                cwd=self.folder,
                env=self._env,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    async def stop(self) -> None:
        """SIGTERM, without waiting."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
        await self._gone()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that runs (the prefix's, where there is one)."""
        assert self._process is not None
        return self._process

    async def ended(self) -> int:
        """Waits for its end; the exit status."""
        process = self.process
        await self._gone()
        return process.returncode

    async def close(self) -> None:
        """Ends it, gently where that works."""
        await self.stop()
        try:
            await self._gone()
        except TimeoutError:
            await self.kill()
            raise

    async def _gone(self) -> None:
        if self._process is None:
            return
        async with asyncio.timeout(_PATIENCE):
            while self._process.poll() is None:
                await asyncio.sleep(0.02)
        self._process = None

    def output(self) -> str:
        """What it printed."""
        return self._output.read_text(encoding="utf-8", errors="replace")


def _toml(config: dict[str, dict[str, Any]]) -> str:
    merged: dict[str, dict[str, Any]] = {
        "server": {"drain_timeout": 5},
        "auth": {"registration": "open", "bcrypt_cost": 4},
        "handlers": {"modules": ["vector_handlers"]},
        "log": {"format": "json"},
    }
    if databases is not None:
        # Where a server was killed, the next one waits for its lease to end.
        merged["store"] = {"lease": 3}
    for section, values in config.items():
        merged.setdefault(section, {}).update(values)
    lines = []
    for section, values in merged.items():
        lines.append(f"[{section}]")
        # Strings, numbers, booleans and lists of strings look alike in JSON and TOML.
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"
