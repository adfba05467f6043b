"""Several nodes: a session goes on at another one, and only one of them can write to it."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from frames import RawClient, request
from gates import gated
from node_processes import LEASE

pytestmark = pytest.mark.slow


async def test_a_session_goes_on_where_its_node_was_killed(nodes) -> None:
    first, second = await nodes.start(), await nodes.start()
    async with RawClient(first.url) as client:
        welcome = await client.register("ann", "a password")
        await client.send(*(gated("g", seq) for seq in range(1, 6)))
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == 5)
        await nodes.gates.reached(1)
        await first.kill()
    nodes.gates.open("g")
    killed = time.monotonic()
    async with RawClient(second.url) as client:
        again = {"token": welcome["token"], "session": welcome["session"]}
        back = await client.hello(**again, seq=0, accepted=5)
        assert (back["resumed"], back["accepted"], back["epoch"]) == (True, 5, 2)
        await client.until_outcome(1)
        assert time.monotonic() - killed < LEASE + 2
        await client.until_outcome(5)
        receipt = await client.bye()
    assert (receipt["accepted"], receipt["done"], receipt["verified"]) == (5, 5, True)
    ends = [step.seq for step in nodes.gates.steps if step.word == "end"]
    assert ends == [1, 2, 3, 4, 5]


async def test_a_dead_nodes_work_is_finished_without_its_clients(nodes) -> None:
    first, _, _ = [await nodes.start() for _ in range(3)]
    sessions = []
    for n in range(12):
        async with RawClient(first.url) as client:
            welcome = await client.register(f"user-{n}", "a password")
            sessions.append(welcome["session"])
            await client.send(gated("g", 1), gated("g", 2))
            await client.until(lambda m: m["type"] == "accepted" and m["seq"] == 2)
    await first.kill()
    nodes.gates.open("g")
    async with asyncio.timeout(LEASE * 3 + 10):
        while any(doc["node"] or doc["open"] for doc in nodes.documents("sessions")):
            await asyncio.sleep(0.05)
    rows = nodes.documents("requests")
    assert [row["ending"] for row in rows] == ["done"] * 24
    ends = [step.seq for step in nodes.gates.steps if step.word == "end"]
    assert sorted(ends) == [1] * 12 + [2] * 12


async def test_a_session_goes_on_where_its_node_was_stopped(nodes) -> None:
    first, second = await nodes.start(), await nodes.start()
    async with RawClient(first.url) as client:
        welcome = await client.register("ann", "a password")
        await client.send(request("echo", 1, seq=1))
        await client.until_outcome(1)
        await first.stop()
        assert await client.until_closed() == (1012, "draining")
    stopped = time.monotonic()
    async with RawClient(second.url) as client:
        again = {"token": welcome["token"], "session": welcome["session"]}
        assert (await client.hello(**again, seq=1, accepted=1))["resumed"]
        await client.send(request("echo", 2, seq=2))
        await client.until_outcome(2)
        assert time.monotonic() - stopped < 1
        assert (await client.bye())["done"] == 2


async def test_a_session_is_handed_over_to_where_its_client_goes(nodes) -> None:
    first, second = await nodes.start(), await nodes.start()
    async with RawClient(first.url) as older:
        welcome = await older.register("ann", "a password")
        await older.send(*(gated("g", seq) for seq in range(1, 4)))
        await older.until(lambda m: m["type"] == "accepted" and m["seq"] == 3)
        await nodes.gates.reached(1)
        async with RawClient(second.url) as newer:
            again = {"token": welcome["token"], "session": welcome["session"]}
            await newer.send({"type": "hello", **again, "seq": 0, "accepted": 3})
            assert await older.until_closed() == (4509, "moved")
            # The head that runs is finished where it runs.
            nodes.gates.open("g")
            assert (await newer.until("welcome"))["epoch"] == 2
            await newer.until_outcome(3)
            assert (await newer.bye())["done"] == 3
    runs = [(step.word, step.seq, step.attempt) for step in nodes.gates.steps]
    assert runs == [(word, seq, 1) for seq in (1, 2, 3) for word in ("begin", "end")]


async def test_two_clients_that_fight_over_a_session(nodes) -> None:
    """They alternate between the nodes; each request is run once, in order."""
    first, second = await nodes.start(), await nodes.start()
    async with RawClient(first.url) as client:
        welcome = await client.register("ann", "a password")
        await client.send(request("record", {"n": 1}, seq=1))
        await client.until_outcome(1)
    again = {"token": welcome["token"], "session": welcome["session"]}
    for n in range(2, 12):
        async with RawClient((second, first)[n % 2].url) as client:
            back = await client.hello(**again, seq=n - 1, accepted=n - 1)
            assert (back["accepted"], back["settled"]) == (n - 1, n - 1)
            await client.send(request("record", {"n": n}, seq=n))
            await client.until_outcome(n)
    runs = [line.split()[1] for line in (nodes.folder / "runs").read_text().splitlines()]
    assert runs == [str(n) for n in range(1, 12)]


async def test_a_stopped_owner_that_wakes_records_and_announces_nothing(nodes) -> None:
    first, second = await nodes.start(), await nodes.start()
    async with RawClient(first.url) as older:
        welcome = await older.register("ann", "a password")
        await older.send(gated("g", 1), request("echo", 2, seq=2, id="r2"))
        await older.until(lambda m: m["type"] == "accepted" and m["seq"] == 2)
        await nodes.gates.reached(1)
        first.process.send_signal(signal.SIGSTOP)
        async with RawClient(second.url) as newer:
            again = {"token": welcome["token"], "session": welcome["session"]}
            assert (await newer.hello(**again, seq=0, accepted=2))["epoch"] == 2
            await nodes.gates.reached(2)
            seen = len(older.seen)
            # What it has still to read is a request, and the end of the one it runs.
            await older.send(request("echo", 3, seq=3, id="r3"))
            nodes.gates.open("g")
            await newer.until_outcome(2)
            before = nodes.accepted(welcome["session"])
            first.process.send_signal(signal.SIGCONT)
            assert await older.until_closed() == (4509, "moved")
            assert older.seen[seen:] == []
            assert nodes.accepted(welcome["session"]) == before
            # It may have inserted a row, but could not confirm it; the number is given anew.
            await newer.send(request("echo", "three", seq=3, id="s3"))
            assert (await newer.until_outcome(3))["result"] == "three"
            receipt = await newer.bye()
    assert (receipt["accepted"], receipt["done"], receipt["verified"]) == (3, 3, True)
    # It comes back as somebody else, with nothing.
    async with RawClient(first.url) as client:
        await client.register("bob", "a password")
        await client.send(request("echo", 1, seq=1))
        await client.until_outcome(1)
