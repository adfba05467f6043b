"""What an operator does to a queue that is blocked, running or parked; and held work's end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from frames import RawClient, request
from kept import journal_counts, session_of
from outside import verify

pytestmark = pytest.mark.slow

GATED = """
from pathlib import Path
from inorder_server import Request, handler

@handler(on_exhausted="block")
async def gated(request: Request) -> str:
    \"\"\"Fails until there is a file named gate.\"\"\"
    if not Path("gate").exists():
        raise RuntimeError("the gate is shut")
    return "through"
"""


SAYS = {"retry": "through", "skip": "skipped"}


def operator(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "inorder_server", "requests", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
async def gated(serve, tmp_path: Path):
    (tmp_path / "gated.py").write_text(GATED, encoding="utf-8")
    return await serve({"handlers": {"modules": ["gated"]}})


async def blocked(client: RawClient) -> dict:
    async with asyncio.timeout(10):
        while True:
            await client.send({"type": "status"})
            status = await client.until("status")
            if "blocked" in status:
                return status["blocked"]


@pytest.mark.parametrize("word", ["retry", "skip"])
async def test_a_blocked_queue_goes_on_at_an_operators_word(gated, word: str) -> None:
    async with RawClient(gated.url) as client:
        welcome = await client.register("eve", "a password")
        await client.send(request("gated", seq=1), request("echo", 2, seq=2))
        assert (await blocked(client))["code"] == "handler_failed"
        (gated.folder / "gate").touch()
        said = await asyncio.to_thread(operator, gated.folder, word, welcome["session"])
        assert said.startswith(f"{word} of #1 (seq 1, gated)")
        first = await client.until_outcome(1)
        assert first.get("result", first.get("code")) == SAYS[word]
        assert (await client.until_outcome(2))["result"] == 2
        assert (await client.bye())["verified"] is True


@pytest.mark.parametrize("word", ["retry", "skip"])
async def test_a_parked_queue_goes_on_at_an_operators_word(gated, word: str) -> None:
    async with RawClient(gated.url) as client:
        welcome = await client.register("eve", "a password")
        await client.send(request("gated", seq=1), request("echo", 2, seq=2))
        await blocked(client)
        receipt = await client.bye()
        assert (receipt["pending"], receipt["verified"]) == (2, True)
    # Blocked, it stays so over a restart: only an operator decides.
    await gated.kill()
    await gated.start()
    assert journal_counts(gated)["pending"] == 2
    (gated.folder / "gate").touch()
    await asyncio.to_thread(operator, gated.folder, word, welcome["session"], "#1")
    async with asyncio.timeout(10):
        while journal_counts(gated)["pending"]:
            await asyncio.sleep(0.05)
    async with RawClient(gated.url) as client:
        await client.hello(token=welcome["token"], session=welcome["session"], seq=0)
        await client.until_outcome(2)
        first, second = client.outcomes
        assert first.get("result", first.get("code")) == SAYS[word]
        assert second["result"] == 2
        assert (await client.bye())["verified"] is True
    assert await asyncio.to_thread(verify, gated.folder) == []


async def test_held_work_is_cancelled_when_its_session_expires(serve) -> None:
    server = await serve({"session": {"on_disconnect": "hold", "session_ttl": 0.5}})
    async with RawClient(server.url) as client:
        welcome = await client.register("eve", "a password")
        await client.send(request("sleep", 0.1, seq=1), *(request("echo", n) for n in range(5)))
        await client.until("accepted")
        client.socket.transport.abort()
    async with asyncio.timeout(10):
        while "last one out" not in server.output():
            await asyncio.sleep(0.02)
    # Expiry is looked at once a minute, and first soon after the start.
    await server.kill()
    await asyncio.sleep(0.5)
    await server.start()
    async with asyncio.timeout(10):
        # The last outcomes are kept in one commit, the end in the next.
        while (session := session_of(server, welcome["session"])).state != "ended":
            await asyncio.sleep(0.05)
    assert journal_counts(server)["pending"] == 0
    assert session.receipt is not None
    assert (session.receipt["cancelled"], session.receipt["verified"]) == (5, True)
    async with RawClient(server.url) as client:
        await client.send(
            {"type": "hello", "token": welcome["token"], "session": welcome["session"], "seq": 0}
        )
        receipt = (await client.until("bye"))["receipt"]
        assert (receipt["accepted"], receipt["cancelled"], receipt["verified"]) == (6, 5, True)
        assert await client.until_closed() == (1000, "done")


async def test_a_method_that_a_deploy_took_away_blocks_until_it_is_back(serve, tmp_path) -> None:
    module = tmp_path / "deployed.py"
    other = (
        "from inorder_server import Request, handler\n\n@handler\nasync def {}(request): return 1\n"
    )
    module.write_text(other.format("here"), encoding="utf-8")
    server = await serve({"handlers": {"modules": ["deployed"]}})
    async with RawClient(server.url) as client:
        welcome = await client.register("eve", "a password")
        await client.send(
            request("sleep", 60, seq=1), request("here", seq=2), request("echo", seq=3)
        )
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == 3)
        await server.kill()
    module.write_text(other.format("elsewhere"), encoding="utf-8")
    await server.start()
    async with RawClient(server.url) as client:
        await client.hello(token=welcome["token"], session=welcome["session"], seq=0)
        await client.send({"type": "cancel", "id": "#1"})
        await client.until_outcome(1)
        assert (await blocked(client))["code"] == "unknown_method"
    async with asyncio.timeout(10):
        while "last one out" not in server.output():
            await asyncio.sleep(0.02)
    assert journal_counts(server)["pending"] == 2
    module.write_text(other.format("here"), encoding="utf-8")
    await server.kill()
    await server.start()
    # Nobody has to come for it: with the method back, what was accepted is run.
    async with asyncio.timeout(10):
        while journal_counts(server)["pending"]:
            await asyncio.sleep(0.05)
    assert journal_counts(server)["done"] == 2
    assert await asyncio.to_thread(verify, server.folder) == []
