"""``inorder config``."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from inorder_server.config import load, masked


def test_what_is_printed_is_a_configuration(folder: Path, cli: Any) -> None:
    (folder / "config.toml").write_text(
        "[limits]\nrate = 0.5\n"
        '[server]\nallowed_origins = ["https://é.org"]\nhost = "a\\u007f\\"b"\n'
    )
    result = cli("config")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"# {folder / 'config.toml'}\n")
    assert "rate = 0.5\n" in result.stdout
    assert "token_ttl = 604800\n" in result.stdout
    assert tomllib.loads(result.stdout) == masked(load(None, {}, {}))
    again = folder / "again.toml"
    again.write_text(result.stdout, encoding="utf-8")
    assert masked(load(again, {}, {})) == masked(load(None, {}, {}))
    assert not (folder / "inorder.db.secret").exists()


def test_without_a_file(folder: Path, cli: Any, answer: Any) -> None:
    (folder / "config.toml").unlink()
    assert cli("config").stdout.startswith("# no config.toml: the defaults\n")
    shown = answer("config")
    assert shown["file"] is None
    assert shown["secrets"] == {
        "SESSION_SECRET": f"kept in {folder / 'inorder.db.secret'}",
        "INORDER_METRICS_TOKEN": "not set",
    }


def test_secrets_are_masked(cli: Any, answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URI", "mongodb://u:hunter2@h/x")
    monkeypatch.setenv("SESSION_SECRET", "hunter2hunter2hunter2")
    monkeypatch.setenv("INORDER_METRICS_TOKEN", "hunter2")
    assert "hunter2" not in cli("config").output
    shown = answer("config")
    assert "hunter2" not in str(shown)
    assert shown["config"]["store"]["uri"] == "mongodb://u:***@h/x"
    assert set(shown["secrets"].values()) == {"given"}


def test_what_is_wrong_is_said(folder: Path, failed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "other.toml").write_text("[server]\nprt = 1")
    assert failed("config --config other.toml") == (
        "other.toml: [server] prt: unknown key, did you mean port?"
    )
    monkeypatch.setenv("SESSION_SECRET", "short")
    assert failed("config") == "SESSION_SECRET: expected at least 16 characters"
    monkeypatch.delenv("SESSION_SECRET")
    assert failed("config --store mongodb://h/x").startswith("SESSION_SECRET: expected in")
    assert os.listdir(folder) != []
