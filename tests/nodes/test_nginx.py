"""Several nodes behind nginx, as README describes it: its snippet, as it stands there."""

from __future__ import annotations

import asyncio
import re
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import repeat
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from frames import Json, RawClient, request
from gates import gated
from nginx_proxy import Nginx, nginx_program, snippet
from node_processes import NodeProcess, Nodes
from websockets.asyncio.client import connect

import inorder
from inorder_server.config import Server

pytestmark = pytest.mark.slow

ANN = {"username": "ann", "password": "a password", "register": True}
Before = Callable[..., Awaitable[Nginx]]


@pytest.fixture(autouse=True)
def _nginx_is_there() -> None:
    nginx_program()


@pytest.fixture
async def before(tmp_path: Path) -> AsyncIterator[Before]:
    """``await before(first, second)``: nginx before these two."""
    made: list[Nginx] = []

    async def start(*nodes: NodeProcess) -> Nginx:
        nginx = Nginx(tmp_path / f"nginx-{len(made)}", [node.url for node in nodes])
        made.append(nginx)
        await nginx.start()
        return nginx

    yield start
    for nginx in made:
        await nginx.close()


def http(url: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{urlsplit(url).netloc}{path}", timeout=10) as answer:
        return str(answer.read().decode())


async def connections(node: NodeProcess) -> int:
    """How many a node has, by its own metrics."""
    text = await asyncio.to_thread(http, node.url, "/metrics")
    found = re.search(r"^inorder_connections (\d+)", text, re.MULTILINE)
    assert found is not None, text
    return int(found[1])


async def test_a_client_works_through_it_and_loses_its_node(nodes: Nodes, before: Before) -> None:
    both = [await nodes.start(), await nodes.start()]
    nginx = await before(*both)
    states: list[str] = []
    options = {**ANN, "on_state": states.append, "backoff": lambda: repeat(0.05)}
    async with inorder.connect(nginx.url, **options) as session:
        assert await session.request("echo", "through") == ["through"]
        (its,) = [node for node in both if await connections(node)]
        (other,) = [node for node in both if node is not its]
        jobs = [session.submit("gated", {"gate": "g"}) for _ in range(5)]
        await asyncio.gather(*(job.accepted for job in jobs))
        await nodes.gates.reached(1)
        owner = nodes.session(session.id)["node"]
        await its.kill()
        nodes.gates.open("g")
        results = await asyncio.gather(*jobs)
        assert await connections(other) == 1
        document = nodes.session(session.id)
        assert (document["epoch"], document["accepted"]) == (2, 6)
        assert document["node"] != owner
    # No other run returned the same: nothing is lost, nothing is twice.
    assert len(set(results)) == 5
    ends = [step.seq for step in nodes.gates.steps if step.word == "end"]
    assert ends == [2, 3, 4, 5, 6]
    assert "reconnecting" in states
    assert session.receipt == inorder.Receipt(session.id, 6, 6, 0, 0, 0, True)


async def test_a_draining_node_gets_nobody_new(nodes: Nodes, before: Before) -> None:
    both = [await nodes.start(server={"drain_timeout": 30}) for _ in range(2)]
    nginx = await before(*both)
    async with RawClient(nginx.url) as older:
        await older.register("ann", "a password")
        (its,) = [node for node in both if await connections(node)]
        (other,) = [node for node in both if node is not its]
        await older.send(gated("g", 1))
        await nodes.gates.reached(1)
        # A balancer that had connected before.
        address = urlsplit(its.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        await its.stop()
        await older.until("draining")
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: balancer\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"503"
        writer.close()
        for n in range(6):
            async with RawClient(nginx.url) as newer:
                await newer.register(f"bob-{n}", "a password")
                await newer.send(request("echo", n, seq=1))
                assert (await newer.until_outcome(1))["result"] == n
                assert await connections(other) == 1
        assert await asyncio.to_thread(http, nginx.url, "/readyz") == "ready\n"
        nodes.gates.open("g")
        await older.until_outcome(1)
        assert await older.until_closed() == (1012, "draining")
    assert await its.ended() == 0


async def log_in(url: str, name: str, password: str, come_from: str, forged: str) -> Json:
    """One login from this address of the machine, by a client that says it is another's."""
    client = RawClient(url)
    client.socket = await connect(
        url,
        subprotocols=["inorder.v1"],
        local_addr=(come_from, 0),
        additional_headers={"X-Forwarded-For": forged},
        proxy=None,
    )
    try:
        await client.send({"type": "hello", "username": name, "password": password})
        return await client.until(lambda m: m["type"] in ("welcome", "error"))
    finally:
        await client.socket.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a loopback of one address")
@pytest.mark.parametrize("trusted", [["127.0.0.1"], []], ids=["configured", "not configured"])
async def test_whose_address_counts(nodes: Nodes, before: Before, trusted: list[str]) -> None:
    node = await nodes.start(server={"trusted_proxies": trusted})
    # Failed logins are counted by each node: it stands in both places.
    nginx = await before(node, node)
    nodes.command("user", "add", "ann", "--password-stdin", typed="a password\n")
    for n in range(20):
        guess = await log_in(nginx.url, f"name-{n}", "x", "127.0.0.2", f"192.0.2.{n}")
        assert guess["code"] == "unauthenticated"
    ann = ("ann", "a password")
    again = await log_in(nginx.url, *ann, "127.0.0.2", "192.0.2.99")
    assert again["code"] == "rate_limited", "what a client forges is not believed"
    other = await log_in(nginx.url, *ann, "127.0.0.3", "127.0.0.2")
    assert other.get("code") == (None if trusted else "rate_limited")
    past = await log_in(node.url, *ann, "127.0.0.4", "127.0.0.2")
    assert past["type"] == "welcome", "who comes past the proxy is no proxy"


def test_quiet_connections_are_not_cut() -> None:
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", snippet())
    assert int(seconds) >= 2 * Server().ping_interval
