"""Errors are one line and an exit status; help is help."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import click
import pytest

from inorder_server.cli import config as config_command
from inorder_server.refusal import Refusal
from inorder_server.stores.port import StoreError, StoreUnavailable

Failed = Callable[..., str]


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Has ``inorder config`` raise this."""

    def arrange(exc: BaseException) -> None:
        def masked(config: object) -> Any:
            raise exc

        monkeypatch.setattr(config_command, "masked", masked)

    return arrange


@pytest.mark.parametrize(
    ("line", "start", "end"),
    [
        ("frob", "No such command 'frob'.", " Try 'inorder --help'."),
        ("--frob", "No such option '--frob'.", " Try 'inorder --help'."),
        ("user frob", "user: No such command 'frob'.", " Try 'inorder user --help'."),
        ("config --jsn", "config: No such option '--jsn'", " Try 'inorder config --help'."),
        ("token", "token: Missing argument 'NAME'.", " Try 'inorder token --help'."),
        (
            "serve --log-level x",
            "serve: Invalid value for '--log-level': 'x' is not one of ",
            "'. Try 'inorder serve --help'.",
        ),
    ],
)
def test_wrong_use(line: str, start: str, end: str, failed: Failed) -> None:
    found = failed(line, status=2)
    assert found.startswith(start)
    assert found.endswith(end)


@pytest.mark.parametrize("line", ["", "user", "requests"])
def test_a_group_without_a_command_shows_its_help(line: str, cli: Any) -> None:
    result = cli(*line.split()) if line else cli("", stdin=None)
    assert result.exit_code == 2
    assert "Usage: inorder" in result.stderr
    assert "Commands:" in result.stderr


def test_help_and_version(cli: Any) -> None:
    for line in ("--help", "-h", "serve --help", "user add -h"):
        result = cli(line)
        assert result.exit_code == 0
        assert result.stdout.startswith("Usage: inorder")
    assert cli("--version").stdout.startswith("inorder ")


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (StoreError("no\ndatabase"), "no database"),
        (StoreUnavailable(), "StoreUnavailable"),
        (Refusal("overloaded", "too many"), "overloaded: too many"),
        (OSError(errno.EADDRINUSE, "in use"), f"[Errno {errno.EADDRINUSE}] in use"),
        (
            ValueError("a\x1bb"),
            "internal error (--log-level DEBUG says more): ValueError('a\\x1bb')",
        ),
    ],
)
def test_failures(exc: Exception, text: str, failed: Failed, fails: Any) -> None:
    fails(exc)
    assert failed("config") == text


def test_stopped_by_hand(cli: Any, fails: Any) -> None:
    fails(KeyboardInterrupt())
    result = cli("config")
    assert (result.exit_code, result.stderr.strip()) == (130, "inorder: stopped")
    fails(click.Abort())
    assert cli("config").exit_code == 130


@pytest.mark.parametrize("exc", [ValueError("why"), StoreError("why")])
def test_debug_shows_the_traceback(exc: Exception, cli: Any, fails: Any) -> None:
    fails(exc)
    result = cli("config --log-level debug")
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback")
    assert "inorder: " in result.stderr.splitlines()[-1]
    assert "Traceback" not in cli("config").stderr
