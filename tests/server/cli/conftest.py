"""The command line in this process, in a folder of its own."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from loguru import logger

from inorder_server.cli.commands import inorder

Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a config.toml that makes bcrypt quick."""
    for name in list(os.environ):
        if name in ("MONGODB_URI", "SESSION_SECRET", "PORT", "HOST") or name.startswith("INORDER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text("[server]\nport = 0\n[auth]\nbcrypt_cost = 4\n")
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield tmp_path
    logging.captureWarnings(False)
    root.handlers[:], level = before
    root.setLevel(level)
    logger.remove()


@pytest.fixture
def cli() -> Cli:
    """``cli("user list --json")``: a line, or arguments; ``stdin`` what it reads."""

    def run(*args: str, stdin: str | None = None) -> Result:
        words = args[0].split() if len(args) == 1 else list(args)
        return CliRunner().invoke(inorder, words, prog_name="inorder", input=stdin)

    return run


@pytest.fixture
def failed(cli: Cli) -> Callable[..., str]:
    """Runs what is to fail with ``status``, and returns its one line without the name."""

    def run(*args: str, status: int = 1, stdin: str | None = None) -> str:
        result = cli(*args, stdin=stdin)
        assert result.exit_code == status, result.output
        assert result.stdout == ""
        assert result.stderr.startswith("inorder: ")
        assert result.stderr.count("\n") == 1, result.stderr
        return result.stderr.removeprefix("inorder: ").rstrip("\n")

    return run


@pytest.fixture
def answer(cli: Cli) -> Callable[..., Any]:
    """Runs what is to succeed, and returns its JSON."""

    def run(*args: str, stdin: str | None = None) -> Any:
        words = args[0].split() if len(args) == 1 else list(args)
        result = cli(*words, "--json", stdin=stdin)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run
