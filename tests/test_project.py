"""The project's own shape: what lies where, and that README tells the truth."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from vector_server import ServerProcess

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOP_LEVEL = {"server", "protocol", "tests", "pyproject.toml", "README.md", "config.toml"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_top_level_holds_what_the_owner_asked_for_and_dot_files() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    top = {name.split("/")[0] for name in listed.split("\0") if name}
    assert {name for name in top if not name.startswith(".")} == TOP_LEVEL


def test_readme_has_exactly_two_set_up_commands() -> None:
    chapter = README.split("## Set up")[1].split("\n## ")[0]
    commands = re.findall(r"```sh\n(.*?)\n```", chapter, re.DOTALL)
    assert len(commands) == 2
    assert all("\n" not in command for command in commands)
    assert commands[0].endswith("inorder serve")
    assert commands[1].endswith("-m pytest")


def test_readme_and_config_toml_list_the_same_keys() -> None:
    config = tomllib.loads((ROOT / "config.toml").read_text(encoding="utf-8"))
    keys = {f"{name}.{key}": value for name, part in config.items() for key, value in part.items()}
    rows = dict(re.findall(r"^\| `(\w+\.\w+)` \| `(.*?)` \|", README, re.MULTILINE))
    assert {key: tomllib.loads(f"x = {value}")["x"] for key, value in rows.items()} == keys


async def test_readme_snippets_run_as_they_stand(tmp_path: Path) -> None:
    handler, client = blocks("python")
    (tmp_path / "tasks.py").write_text(handler, encoding="utf-8")
    server = ServerProcess(tmp_path, {"handlers": {"modules": ["tasks"]}})
    await server.start()
    try:
        script = client.replace("ws://127.0.0.1:3000/ws", server.url)
        assert script != client
        output = await asyncio.to_thread(run, [sys.executable, "-c", script])
        assert output.splitlines()[:3] == [str({"word": "hello"}), "2", str([{"slept": 0.1}] * 3)]
        assert "verified=True" in output.splitlines()[3]
        call = [sys.executable, "-m", "inorder_server", "call", "divide", '{"a": 1, "b": 4}']
        token = run([sys.executable, "-m", "inorder_server", "token", "eve"], cwd=tmp_path).strip()
        env = {**os.environ, "INORDER_URL": server.url, "INORDER_TOKEN": token}
        assert await asyncio.to_thread(run, call, env=env) == "0.25\n"
    finally:
        await server.close()


def run(command: list[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)
