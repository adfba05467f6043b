"""What is built and installed, as somebody has it who never saw this checkout."""

from __future__ import annotations

import asyncio
import http.client
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from vector_server import ServerProcess

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
MODULE = ROOT / "protocol" / "inorder" / "browser"
CONSOLE = ROOT / "server" / "inorder_server" / "console"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


class Installed(ServerProcess):
    """The server of another environment, by the command that it has there."""

    environment: Path

    def _command(self, *arguments: str) -> list[str]:
        return [str(self.environment / "bin" / "inorder"), *arguments]


async def test_a_server_from_the_wheel_serves_every_file(tmp_path: Path) -> None:
    paths = {f"/{file.relative_to(MODULE)}": file for file in MODULE.rglob("*.js")}
    paths |= {f"/console/{file.name}": file for file in CONSOLE.iterdir()}
    page = paths.pop("/console/index.html")
    assert "/inorder.js" in paths

    wheel = await asyncio.to_thread(built, tmp_path)
    names = zipfile.ZipFile(wheel).namelist()
    for top, folder in (("inorder/browser", MODULE), ("inorder_server/console", CONSOLE)):
        files = {f"{top}/{file.relative_to(folder)}" for file in folder.rglob("*.*")}
        assert {name for name in names if name.startswith(f"{top}/")} == files
    assert not [name for name in names if "test" in name or "screenshot" in name]

    environment = await asyncio.to_thread(fresh, tmp_path, wheel)
    folder = tmp_path / "there"
    folder.mkdir()
    server = Installed(folder, {}, env={"PYTHONPATH": ""})
    server.environment = environment
    await server.start()
    try:
        for path, file in paths.items():
            assert await asyncio.to_thread(get, server.url, path) == file.read_bytes(), path
        body = await asyncio.to_thread(get, server.url, "/")
        host = urlsplit(server.url).netloc.encode()
        assert body == page.read_bytes().replace(b"{host}", host)
    finally:
        await server.close()


def built(folder: Path) -> Path:
    """The wheel, by pip, with the build tools that pyproject.toml names."""
    run([*PIP, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)])
    (wheel,) = folder.glob("*.whl")
    return wheel


def fresh(folder: Path, wheel: Path) -> Path:
    """An environment that has the wheel, what it needs for a server, and nothing else."""
    environment = folder / "environment"
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    python = str(environment / "bin" / "python")
    run([*PIP, "--python", python, "install", f"inorder[server] @ {wheel.as_uri()}"])
    return environment


def run(command: list[str]) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=env)
    if "(from versions: none)" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"pip reaches no package index: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr


def get(url: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=15)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == 200, path
    return body
