"""Real processes: what a shell sees when something is wrong at the start."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE = 1


def obey_permissions() -> None:
    """Root may write where it must not; without this capability it may not."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)


def inorder(*args: str, stdin: str = "", status: int = 1) -> str:
    """Runs it; returns its one line on standard error."""
    ended = subprocess.run(
        [sys.executable, "-m", "inorder_server", *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=obey_permissions,
    )
    assert ended.returncode == status, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("inorder: ")
    return ended.stderr.removeprefix("inorder: ").rstrip()


def test_a_misspelt_key(folder: Path) -> None:
    (folder / "config.toml").write_text("[server]\nhots = 1")
    assert inorder("serve") == "config.toml: [server] hots: unknown key, did you mean host?"
    assert os.listdir(folder) == ["config.toml"]


def test_a_wrong_flag(folder: Path) -> None:
    assert inorder("serve", "--port", "x", status=2).startswith("serve: Invalid value for '--port'")


def test_a_file_that_is_no_database(folder: Path) -> None:
    (folder / "inorder.db").write_bytes(b"something else, and long enough to look at" * 100)
    before = (folder / "inorder.db").read_bytes()
    for command in (["serve"], ["user", "list"], ["sessions"]):
        assert "inorder.db is not an SQLite database" in inorder(*command)
    assert (folder / "inorder.db").read_bytes() == before


def test_a_missing_folder(folder: Path) -> None:
    store = "sqlite:///no/such/inorder.db"
    assert f"there is no folder {folder / 'no/such'}" in inorder("serve", "--store", store)
    line = inorder("user", "add", "eve", "--password-stdin", "--store", store, stdin="x\n")
    assert "there is no folder" in line


def test_a_read_only_folder(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o555)
    store = "sqlite:///closed/inorder.db"
    assert str(closed) in inorder("serve", "--store", store)
    line = inorder("user", "add", "eve", "--password-stdin", "--store", store, stdin="x\n")
    assert str(closed) in line
    assert os.listdir(closed) == []


def test_a_busy_port(folder: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        line = inorder("serve", "--port", port, "--log-level", "error")
    assert port in line
    assert "in use" in line


def test_nobody_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("INORDER_URL", f"ws://127.0.0.1:{unused.getsockname()[1]}/ws")
        monkeypatch.setenv("INORDER_TOKEN", "x")
        inorder("call", "echo")


def test_a_password_is_asked_for_twice_and_never_shown(folder: Path) -> None:
    with pexpect.spawn(
        sys.executable, ["-m", "inorder_server", "user", "add", "eve"], timeout=30, encoding="utf-8"
    ) as child:
        for prompt, answer in (
            ("Password: ", "hunter2"),
            ("Repeat for confirmation: ", "hunter3"),
            ("Password: ", "hunter2"),
            ("Repeat for confirmation: ", "hunter2"),
        ):
            child.expect_exact(prompt)
            child.sendline(answer)
        child.expect_exact("eve added")
        child.expect(pexpect.EOF)
        assert "hunter" not in (child.before or "")
    assert child.exitstatus == 0


def test_interrupted_at_the_prompt(folder: Path) -> None:
    with pexpect.spawn(
        sys.executable, ["-m", "inorder_server", "user", "add", "eve"], timeout=30, encoding="utf-8"
    ) as child:
        child.expect_exact("Password: ")
        child.sendintr()
        child.expect_exact("inorder: stopped")
        child.expect(pexpect.EOF)
    assert child.exitstatus == 130
    assert not (folder / "inorder.db").exists()


def test_a_reader_that_has_enough_is_no_error_to_speak_of(folder: Path) -> None:
    ended = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m inorder_server config | true"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stderr == ""
