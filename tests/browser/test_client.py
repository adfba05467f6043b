"""The browser's client under Node: its core alone, and the whole of it against real servers."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from bank import LEDGER
from cutting import booked_once
from outside import verify
from tools import tool

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "protocol" / "inorder" / "browser" / "inorder.js"
CONSOLE = ROOT / "server" / "inorder_server" / "console" / "main.js"


@pytest.mark.parametrize(
    "file",
    ["core", "heartbeat", "late_hello", "vectors", "walk", "keeper", "session", "tabs", "console"],
)
async def test_without_a_server(node, file: str) -> None:
    await node(f"{file}.test.js")


async def test_types(packages: Path, tmp_path: Path) -> None:
    """Of the module and the console, as an editor sees them: strictly."""
    options = {
        "allowJs": True,
        "checkJs": True,
        "strict": True,
        "noEmit": True,
        "noUnusedLocals": True,
        "noImplicitReturns": True,
        "target": "ES2022",
        "module": "ES2022",
        "moduleResolution": "bundler",
        "lib": ["ES2022", "DOM", "DOM.Iterable"],
        "types": [],
        "paths": {"/inorder.js": [str(MODULE)]},
    }
    project = {"compilerOptions": options, "files": [str(MODULE), str(CONSOLE)]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(project), encoding="utf-8")
    compiler = packages / "node_modules" / "typescript" / "bin" / "tsc"
    process = await asyncio.create_subprocess_exec(
        tool("node"), str(compiler), "-p", str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@pytest.mark.slow
async def test_against_a_server(node, stage) -> None:
    led = await stage()
    await node("behaviour.test.js", **led.env)


@pytest.mark.slow
async def test_pages_of_the_documents(node, stage) -> None:
    led = await stage()
    await node("pages.test.js", **led.env)


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
async def test_cut_off_twenty_times_in_a_pipeline(node, stage, tmp_path: Path, seed: str) -> None:
    led = await stage({"handlers": {"modules": [LEDGER]}})
    output = await node("pipeline.test.js", **led.env, INORDER_SEED=seed)
    session = re.search(r"session ([0-9a-f]{32})", output)
    assert session is not None
    booked_once(tmp_path, session[1], 1000)
    assert await asyncio.to_thread(verify, tmp_path) == []
