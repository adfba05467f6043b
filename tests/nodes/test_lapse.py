"""A node that can't reach the database stops by itself, before others may take over."""

from __future__ import annotations

import asyncio
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from frames import RawClient, request
from gates import gated
from mongo_server import MongoServer, with_database
from node_processes import LEASE, Nodes

import inorder

pytestmark = pytest.mark.slow


@pytest.fixture
async def nodes(tmp_path: Path, own_mongodb: MongoServer) -> AsyncIterator[Nodes]:
    made = Nodes(tmp_path, with_database(own_mongodb.uri, "inorder"))
    yield made
    await made.close()


def ready(url: str) -> int:
    try:
        with urllib.request.urlopen(url.replace("ws:", "http:").replace("/ws", "/readyz")) as told:
            return int(told.status)
    except urllib.error.HTTPError as exc:
        return exc.code


async def test_it_drops_its_sessions_within_the_lease(
    nodes: Nodes, own_mongodb: MongoServer
) -> None:
    node = await nodes.start()
    async with RawClient(node.url) as client:
        welcome = await client.register("ann", "a password")
        await client.send(request("echo", 1, seq=1), gated("g", 2), request("echo", 3, seq=3))
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == 3)
        await nodes.gates.reached(1)
        own_mongodb.signal(signal.SIGSTOP)
        closing = asyncio.create_task(client.until_closed())
        await asyncio.wait([closing], timeout=LEASE)
        assert closing.done(), "it goes on, though others may take over"
        assert closing.result() == (4509, "moved")
        assert [o["seq"] for o in client.outcomes] == [1]
    assert await asyncio.to_thread(ready, node.url) == 503
    async with RawClient(node.url) as client:
        await client.send({"type": "hello", "token": welcome["token"]})
        refused = await client.until("error")
        assert refused["code"] == "store_unavailable"
    own_mongodb.signal(signal.SIGCONT)
    nodes.gates.open("g")
    async with asyncio.timeout(20):
        while await asyncio.to_thread(ready, node.url) != 200:
            await asyncio.sleep(0.05)
    async with RawClient(node.url) as client:
        again = {"token": welcome["token"], "session": welcome["session"]}
        back = await client.hello(**again, seq=1, accepted=3)
        assert (back["accepted"], back["epoch"]) == (3, 2)
        await client.until_outcome(3)
        receipt = await client.bye()
    assert (receipt["done"], receipt["verified"]) == (3, True)
    # The head that was running then has run again, and nothing else.
    begun = [(step.seq, step.attempt) for step in nodes.gates.steps if step.word == "begin"]
    assert [seq for seq, _ in begun] == [2, 2]


async def test_a_node_that_starts_before_its_database(
    nodes: Nodes, own_mongodb: MongoServer
) -> None:
    own_mongodb.kill()
    starting = asyncio.create_task(nodes.start())
    async with asyncio.timeout(20):
        while not any("trying again" in o.read_text() for o in nodes.folder.glob("output-*")):
            await asyncio.sleep(0.01)
    await asyncio.to_thread(own_mongodb.start)
    node = await starting
    async with RawClient(node.url) as client:
        await client.register("ann", "a password")
        await client.send(request("echo", 1))
        assert (await client.until("result"))["result"] == 1


async def test_the_database_is_away_under_load(nodes: Nodes, own_mongodb: MongoServer) -> None:
    """Longer than the lease, killed in the middle: nothing is lost, and all goes on by itself."""
    node, other = await nodes.start(), await nodes.start()
    assert other.url
    told: list[int] = []

    async def work(n: int) -> None:
        login = {"username": f"user-{n}", "password": "a password", "register": True}
        async with inorder.connect(node.url, **login, window=8) as session:
            for value in range(10):
                assert await session.submit("echo", value) == value
                told.append(value)

    async with asyncio.TaskGroup() as clients:
        for n in range(10):
            clients.create_task(work(n))
        while len(told) < 20:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(own_mongodb.kill)
        await asyncio.sleep(LEASE * 2)
        before = len(told)
        await asyncio.to_thread(own_mongodb.start)
    assert len(told) == 100 > before
    sessions = nodes.documents("sessions")
    assert [(doc["state"], doc["done"], doc["accepted"]) for doc in sessions] == [
        ("ended", 10, 10)
    ] * 10
