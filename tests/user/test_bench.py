"""``inorder bench`` as somebody runs it, against a server that runs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pexpect
import pytest
from frames import RawClient
from outside import metrics_of, verify
from vector_server import ServerProcess

Serve = Callable[..., Awaitable[ServerProcess]]
SHORT = ["--connections", "4", "--in-flight", "8", "--duration", "0.3", "--warmup", "0.1"]


class Bench:
    """``await bench("--rate", "100")``: a finished process."""

    def __init__(self, url: str) -> None:
        self.env = {**os.environ, "INORDER_URL": url}
        self.url = url

    async def log_in(self) -> None:
        async with RawClient(self.url) as client:
            welcome = await client.register("ann", "long word")
        self.env["INORDER_TOKEN"] = welcome["token"]

    async def __call__(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "inorder_server", "bench", *SHORT, *args]
        return await asyncio.to_thread(
            subprocess.run,
            command,
            input=stdin,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
        )

    async def answer(self, *args: str) -> dict[str, Any]:
        done = await self(*args, "--json")
        assert done.returncode == 0, done.stderr + done.stdout
        told: dict[str, Any] = json.loads(done.stdout)
        return told


@pytest.fixture
async def bench(serve: Serve) -> Bench:
    bench = Bench((await serve()).url)
    await bench.log_in()
    return bench


async def test_every_outcome_once_and_in_order(bench: Bench, tmp_path: Path) -> None:
    told = await bench.answer("--processes", "2", "--idle", "3")
    check = told["check"]
    assert check["holds"]
    assert (check["sessions"], check["receipts"], check["wrong"]) == (7, 7, {})
    assert 0 < told["requests"] <= check["outcomes"]
    assert told["errors"] == {}
    latency = told["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"]
    assert latency["p99.9"] <= latency["max"]
    assert told["generator"]["processes"] == 2
    assert await asyncio.to_thread(verify, tmp_path) == []


async def test_single_frames_at_a_fixed_rate(bench: Bench) -> None:
    told = await bench.answer("--single-frames", "--rate", "200", "--warmup", "0.2")
    assert told["check"]["holds"]
    assert told["check"]["outcomes"] == 100
    assert (told["rate"], told["single_frames"]) == (200, True)


async def test_errors_are_counted_by_their_code_and_break_no_promise(bench: Bench) -> None:
    told = await bench.answer("--method", "fail")
    assert set(told["errors"]) == {"handler_failed"}
    assert told["errors"]["handler_failed"] == told["check"]["outcomes"]
    assert told["check"]["holds"]


async def test_a_name_and_a_password(bench: Bench) -> None:
    done = await bench("--user", "ann", "--password-stdin", stdin="long word\n")
    assert done.returncode == 0, done.stderr
    assert "every outcome came once and in order" in done.stdout
    assert done.stderr == ""  # no progress line where there is no terminal


async def test_more_connections_than_a_user_may_have(bench: Bench) -> None:
    done = await bench("--connections", "30")
    assert done.returncode == 1
    assert done.stderr == "inorder: refused: 4529 too_many_connections\n"


async def test_a_method_that_is_not_there(bench: Bench) -> None:
    done = await bench("--method", "nonesuch")
    assert (done.returncode, done.stdout) == (1, "")
    assert "unknown_method" in done.stderr


async def test_a_server_that_is_killed_meanwhile(serve: Serve) -> None:
    server = await serve()
    bench = Bench(server.url)
    await bench.log_in()
    running = asyncio.create_task(bench("--duration", "60"))
    while not (await asyncio.to_thread(metrics_of, server))["inorder_accepted_total"]:
        await asyncio.sleep(0.02)
    await server.kill()
    done = await running
    assert (done.returncode, done.stdout) == (1, "")
    assert "every connection was lost" in done.stderr


def on_a_terminal(bench: Bench, *args: str) -> pexpect.spawn[str]:
    command = ["-m", "inorder_server", "bench", *SHORT, *args]
    size = (24, 120)
    return pexpect.spawn(
        sys.executable, command, env=bench.env, encoding="utf-8", dimensions=size, timeout=30
    )


async def test_a_progress_line_on_a_terminal(bench: Bench) -> None:
    child = on_a_terminal(bench, "--duration", "2")
    await asyncio.to_thread(child.expect, r"running.*[1-9][\d,]* requests/s")
    await asyncio.to_thread(child.expect, "every outcome came once and in order")
    await asyncio.to_thread(child.expect, pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


async def test_ctrl_c_ends_it_with_all_its_processes(bench: Bench) -> None:
    child = on_a_terminal(bench, "--duration", "60", "--processes", "2")
    await asyncio.to_thread(child.expect, r"[1-9][\d,]* requests/s")
    child.sendintr()
    await asyncio.to_thread(child.expect, "inorder: stopped")
    # The end of the terminal: nobody holds it open any more.
    await asyncio.to_thread(child.expect, pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
