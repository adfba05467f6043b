"""The entry, and what it says where the server's extra is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest


def start(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["click", "rich.table", "dotenv", "loguru"])
def test_without_the_extra(name: str) -> None:
    ended = start(
        f"import sys; sys.modules[{name!r}] = None\nfrom inorder_server.cli import main; main()",
        "--version",
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == ("inorder: the server needs its extra: pip install 'inorder[server]'\n")


def test_another_missing_module_is_not_blamed_on_the_extra() -> None:
    ended = start(
        "import sys; sys.modules['inorder_server.refusal'] = None\n"
        "from inorder_server.cli import main; main()"
    )
    assert ended.returncode == 1
    assert "inorder_server.refusal" in ended.stderr
    assert "pip install" not in ended.stderr


def test_as_a_module() -> None:
    ended = start(
        "import runpy; runpy.run_module('inorder_server', run_name='__main__')", "--version"
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("inorder ")
