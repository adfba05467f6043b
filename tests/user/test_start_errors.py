"""A server that can't start says why in one clear line, with an exit status that is not 0."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from frames import RawClient, request
from tools import tool

SERVE = [sys.executable, "-m", "inorder_server", "serve"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose configuration is good."""
    configure(tmp_path)
    return tmp_path


def configure(folder: Path, text: str = "") -> None:
    (folder / "config.toml").write_text(text or "[server]\nport = 0\n", encoding="utf-8")


def complaint(folder: Path, *options: str, prefix: Sequence[str] = ()) -> str:
    """Starts a server that must not come up; what it says, without its name."""
    process = subprocess.run(
        [*prefix, *SERVE, *options],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert process.returncode == 1, process
    assert process.stdout == "", "nothing but the complaint"
    line, end = process.stderr[:-1], process.stderr[-1:]
    assert end == "\n"
    assert "\n" not in line
    assert "Traceback" not in line
    assert line.startswith("inorder: ")
    return line.removeprefix("inorder: ")


def test_a_misspelt_key(folder: Path) -> None:
    configure(folder, "[server]\nport = 0\ndrain_timout = 5\n")
    assert complaint(folder) == (
        "config.toml: [server] drain_timout: unknown key, did you mean drain_timeout?"
    )
    assert not (folder / "inorder.db").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[sever]\nport = 0\n", ("[sever]", "[server]")),
        ('[server]\nport = "0"\n', ("[server] port", "0 to 65535", '"0"')),
        ("[server\n", ("not TOML", "line 1")),
        ('[store]\nuri = "postgres://me:hunter2@db/x"\n', ("[store] uri", "sqlite:///FILE")),
    ],
    ids=["section", "type", "toml", "uri"],
)
def test_a_configuration_that_is_wrong(folder: Path, text: str, words: tuple[str, ...]) -> None:
    configure(folder, text)
    said = complaint(folder)
    assert said.startswith("config.toml: ")
    assert all(word in said for word in words), said
    assert "hunter2" not in said


def test_no_configuration(folder: Path) -> None:
    assert complaint(folder, "--config", "other.toml") == "other.toml: No such file or directory"


def test_a_busy_port(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = complaint(folder, "--port", str(port))
    assert said == f"can't listen on 127.0.0.1:{port}: Address already in use"


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours(folder: Path, host: str) -> None:
    assert complaint(folder, "--host", host).startswith(f"can't listen on {host}:0: ")


def test_a_file_that_is_no_database(folder: Path) -> None:
    text = "Dear diary, " * 100
    (folder / "inorder.db").write_text(text)
    said = complaint(folder)
    assert "inorder.db is not an SQLite database" in said
    assert (folder / "inorder.db").read_text() == text, "nothing is written to it"


def test_the_database_of_another_program(folder: Path) -> None:
    file = folder / "inorder.db"
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE recipes (name)")
    before = file.read_bytes()
    assert "another program" in complaint(folder)
    assert file.read_bytes() == before


def test_a_database_cut_short(folder: Path) -> None:
    (folder / "inorder.db").write_bytes(b"SQLite format 3\0" + bytes(range(84)))
    assert "inorder.db" in complaint(folder)


def test_a_folder_in_its_place(folder: Path) -> None:
    (folder / "inorder.db").mkdir()
    assert "inorder.db is a folder" in complaint(folder)


def test_no_folder_for_it(folder: Path) -> None:
    assert "no folder" in complaint(folder, "--store", "sqlite:///data/inorder.db")


@pytest.fixture
def unprivileged() -> list[str]:
    """A prefix with which read-only means read-only, for root too."""
    if os.geteuid():
        return []
    return [tool("setpriv"), "--bounding-set", "-dac_override"]


@pytest.fixture
def read_only(folder: Path) -> Iterator[Path]:
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_read_only_folder(read_only: Path, unprivileged: list[str]) -> None:
    said = complaint(read_only, prefix=unprivileged)
    assert "inorder.db can't be" in said
    assert str(read_only) in said


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux has such a folder")
def test_a_folder_that_nobody_can_write_to(folder: Path) -> None:
    assert "/proc/inorder.db can't be" in complaint(folder, "--store", "sqlite:////proc/inorder.db")


@pytest.mark.sqlite("it is about SQLite's file")
async def test_a_read_only_folder_with_a_database(
    serve, tmp_path: Path, unprivileged: list[str]
) -> None:
    server = await serve()
    await server.stop()
    await server.ended()
    tmp_path.chmod(0o555)
    try:
        assert "inorder.db" in complaint(tmp_path, "--port", "0", prefix=unprivileged)
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.sqlite("on MongoDB a second one is a second node")
async def test_a_second_server_on_one_database(serve, tmp_path: Path) -> None:
    server = await serve()
    said = complaint(tmp_path, "--port", "0")
    assert said == f"another inorder process (pid {server.process.pid}) is serving inorder.db"
    (tmp_path / "other").symlink_to("inorder.db")
    assert "another inorder process" in complaint(
        tmp_path, "--port", "0", "--store", "sqlite:///other"
    )
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        await client.send(request("echo", "unharmed", seq=1))
        assert (await client.until_outcome(1))["result"] == "unharmed"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, ("mine", "No module named 'mine'")),
        ("def (\n", ("mine", "SyntaxError", "line 1")),
        (
            "from inorder_server import handler\n\n@handler\nasync def work(request, n): ...\n",
            ("mine.work", "n"),
        ),
    ],
    ids=["absent", "syntax", "annotation"],
)
def test_handlers_that_can_not_be_served(
    folder: Path, source: str | None, words: tuple[str, ...]
) -> None:
    if source is not None:
        (folder / "mine.py").write_text(source)
    said = complaint(folder, "--handlers", "mine")
    assert all(word in said for word in words), said


def test_a_secret_that_is_too_short(folder: Path) -> None:
    (folder / ".env").write_text("SESSION_SECRET=hunter2\n")
    said = complaint(folder)
    assert "SESSION_SECRET" in said
    assert "hunter2" not in said
