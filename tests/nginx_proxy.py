"""README's nginx, as a process of its own before nodes under test."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

_README = Path(__file__).parents[1] / "README.md"
_STARTS_WITHIN = 10.0
_TRIES = 5
# Where a package puts it that an ordinary user's PATH lacks.
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))


def snippet() -> str:
    """README's configuration as it stands."""
    (found,) = re.findall(r"```nginx\n(.*?)```", _README.read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


def nginx_program() -> str:
    """The binary. Skips where there is none; in CI that is a failure."""
    program = shutil.which("nginx", path=_PATH)
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("there is no nginx: .ci/run installs it")
        pytest.skip("no nginx on the PATH (Debian: apt-get install nginx-light)")
    return program


class Nginx:
    """README's configuration with these two nodes' addresses, on a free port of 127.0.0.1; all
    that it writes is in ``folder``. ``url`` is there once it is started."""

    def __init__(self, folder: Path, nodes: Sequence[str]) -> None:
        self.url = ""
        self._program = nginx_program()
        self._folder = folder
        self._nodes = [urlsplit(url).netloc for url in nodes]
        self._process: subprocess.Popen[bytes] | None = None

    def _configuration(self, port: int) -> str:
        text = snippet()
        for given, node in zip(("10.0.0.1:3000", "10.0.0.2:3000"), self._nodes, strict=True):
            text = _replaced(text, f"server {given} ", f"server {node} ")
        text = _replaced(text, "listen 80;", f"listen 127.0.0.1:{port};")
        # Nothing of the system's: no root is needed, and nothing is left behind.
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        own = [f"{kind}_temp_path {self._folder}/{kind};" for kind in kinds]
        own.append(f"access_log {self._folder}/access.log;")
        return _replaced(text, "http {\n", "http {\n" + "\n".join(own) + "\n")

    async def start(self) -> None:
        """Returns when it listens. Somebody else may take the port first: then on another."""
        self._folder.mkdir()
        for _ in range(_TRIES):
            port = _free_port()
            file = self._folder / "nginx.conf"
            file.write_text(self._configuration(port), encoding="utf-8")
            with (self._folder / "output").open("ab") as output:
                self._process = subprocess.Popen(
                    [
                        *(self._program, "-p", f"{self._folder}/", "-c", str(file), "-e", "stderr"),
                        *("-g", f"daemon off; master_process off; pid {self._folder}/pid;"),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            if await self._listens(port):
                self.url = f"ws://127.0.0.1:{port}/ws"
                return
        raise RuntimeError(f"nginx did not start: {self.output()}")

    async def _listens(self, port: int) -> bool:
        """False where it ended: only it could have bound the port that it was given."""
        assert self._process is not None
        async with asyncio.timeout(_STARTS_WITHIN):
            while self._process.poll() is None:
                if (self._folder / "pid").exists():
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return True
                await asyncio.sleep(0.02)
        return False

    def output(self) -> str:
        """What it complained of."""
        return (self._folder / "output").read_text(errors="replace")

    async def close(self) -> None:
        """SIGTERM, and its end."""
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, _STARTS_WITHIN)


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"README's nginx has no {old!r}"
    return text.replace(old, new)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
