"""``inorder serve``: flags to a configuration, and a status to the shell."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from inorder_server import app
from inorder_server.config import Config
from inorder_server.handlers.api import HandlerError


class Run:
    """Stands for the server."""

    def __init__(self) -> None:
        self.config: Config
        self.status = 0
        self.raises: Exception | None = None

    def __call__(self, config: Config) -> int:
        self.config = config
        logger.info("runs")
        if self.raises is not None:
            raise self.raises
        return self.status


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    run = Run()
    monkeypatch.setattr(app, "run", run)
    return run


def test_flags(run: Run, cli: Any, folder: Path) -> None:
    result = cli(
        "serve --host ::1 --port 1 --store sqlite:///x.db --handlers a --handlers b.c "
        "--log-level error --log-format json"
    )
    assert result.exit_code == 0, result.output
    config = run.config
    assert (config.server.host, config.server.port) == ("::1", 1)
    assert config.store.uri == "sqlite:///x.db"
    assert config.handlers.modules == ["a", "b.c"]
    assert (config.log.level, config.log.format) == ("ERROR", "json")
    assert config.auth.bcrypt_cost == 4
    assert "runs" not in result.stderr


def test_logs_are_as_configured(run: Run, cli: Any) -> None:
    assert json.loads(cli("serve").stderr)["message"] == "runs"


def test_another_configuration(run: Run, cli: Any, folder: Path) -> None:
    (folder / "etc").mkdir()
    (folder / "etc" / "x.toml").write_text("[server]\nport = 7\n")
    assert cli("serve --config etc/x.toml").exit_code == 0
    assert run.config.server.port == 7
    assert run.config.folder == folder / "etc"


def test_its_status_is_the_shells(run: Run, cli: Any) -> None:
    run.status = 3
    assert cli("serve").exit_code == 3


@pytest.mark.parametrize("exc", [HandlerError("no module x"), OSError("address in use")])
def test_failures_are_one_line(exc: Exception, run: Run, failed: Any) -> None:
    run.raises = exc
    assert failed("serve --log-level error") == str(exc)


def test_a_misspelt_key(run: Run, failed: Any, folder: Path) -> None:
    (folder / "config.toml").write_text("[sesion]\nqueue = 1")
    assert failed("serve") == "config.toml: [sesion]: unknown section, did you mean [session]?"
    assert os.listdir(folder) == ["config.toml"]
