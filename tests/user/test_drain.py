"""SIGTERM and SIGINT: everybody is told, queues finish, the rest stays, the exit is in time."""

from __future__ import annotations

import asyncio
import signal
import time
import urllib.error
import urllib.request

import pytest
from frames import RawClient, request
from kept import journal_counts
from outside import verify

STUCK = '''
import threading
from inorder_server import Request, handler

@handler(timeout=3600)
def stuck(request: Request) -> None:
    """Never returns."""
    threading.Event().wait()
'''


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_queues_finish_and_clients_are_told(serve, number: signal.Signals) -> None:
    server = await serve()
    async with RawClient(server.url) as client, RawClient(server.url) as stranger:
        await client.register("eve", "a password")
        await client.send(*(request("sleep", 0.2, seq=n) for n in range(1, 4)))
        await client.until("accepted")
        server.process.send_signal(number)
        draining = await client.until("draining")
        assert 0 < draining["deadline"] <= 5
        await client.send(request("echo", 1, seq=4, id="late"))
        refused = await client.until(lambda m: m["type"] == "error" and m.get("of") == "request")
        assert (refused["code"], refused["retry"], refused["id"]) == ("draining", True, "late")
        assert await client.until_closed() == (1012, "draining")
        assert [outcome["seq"] for outcome in client.outcomes] == [1, 2, 3]
        assert await stranger.until_closed() == (1012, "draining")
    assert await server.ended() == 0
    assert journal_counts(server)["pending"] == 0
    assert await asyncio.to_thread(verify, server.folder) == []


@pytest.mark.slow
async def test_what_does_not_finish_in_time_stays_and_is_run_at_the_next_start(serve) -> None:
    server = await serve({"server": {"drain_timeout": 0.3}})
    async with RawClient(server.url) as client:
        welcome = await client.register("eve", "a password")
        await client.send(*(request("sleep", 0.5, seq=n) for n in range(1, 5)))
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == 4)
        begun = time.monotonic()
        await server.stop()
        assert await client.until_closed() == (1012, "draining")
        assert await server.ended() == 0
        assert time.monotonic() - begun < 2.3
    counts = journal_counts(server)
    assert counts["accepted"] == 4
    assert counts["done"] + counts["pending"] == 4
    assert counts["pending"] >= 2
    await server.start()
    async with RawClient(server.url) as client:
        await client.hello(token=welcome["token"], session=welcome["session"], seq=0, accepted=4)
        await client.until_outcome(4)
        assert [outcome["seq"] for outcome in client.outcomes] == [1, 2, 3, 4]
        # A clean stop counts for nothing: nobody was interrupted.
        assert all(outcome["type"] == "result" for outcome in client.outcomes)
        assert (await client.bye())["verified"] is True


@pytest.mark.slow
async def test_a_thread_that_is_stuck_for_ever_does_not_hold_the_exit(serve, tmp_path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK, encoding="utf-8")
    server = await serve({"server": {"drain_timeout": 0.3}, "handlers": {"modules": ["stuck"]}})
    async with RawClient(server.url) as client:
        await client.register("eve", "a password")
        await client.send(request("stuck", seq=1), request("echo", 1, seq=2))
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == 2)
        begun = time.monotonic()
        await server.stop()
        assert await client.until_closed() == (1012, "draining")
        assert await server.ended() == 0
        assert time.monotonic() - begun < 2.3
    assert journal_counts(server)["pending"] == 2
    assert "thread of stuck" in server.output()


async def test_a_second_signal_ends_it_at_once_and_loses_nothing(serve) -> None:
    server = await serve({"server": {"drain_timeout": 60}})
    async with RawClient(server.url) as client:
        await client.register("eve", "a password")
        await client.send(request("sleep", 60, seq=1), request("echo", 1, seq=2))
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == 2)
        await server.stop()
        await client.until("draining")
        await server.stop()
        assert await server.ended() == 1
    assert journal_counts(server)["pending"] == 2


async def test_readiness_turns_false_and_nobody_new_is_let_in(serve) -> None:
    server = await serve({"server": {"drain_timeout": 60}})
    http = server.url.replace("ws://", "http://").removesuffix("/ws")
    with urllib.request.urlopen(f"{http}/readyz", timeout=5) as response:
        assert response.status == 200
    async with RawClient(server.url) as client, RawClient(server.url) as greeting:
        await client.register("eve", "a password")
        await client.send(request("sleep", 60, seq=1))
        await server.stop()
        await client.until("draining")
        assert await greeting.until_closed() == (1012, "draining")
        with pytest.raises((urllib.error.URLError, OSError)):
            await asyncio.to_thread(urllib.request.urlopen, f"{http}/readyz", timeout=5)
        await client.send({"type": "cancel", "id": "#1"})
        assert (await client.until_outcome(1))["code"] == "cancelled"
        assert await client.until_closed() == (1012, "draining")
    assert await server.ended() == 0
