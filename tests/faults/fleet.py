"""Several nodes and their MongoDB, all of them processes, with what lies between them.

Each node reaches the store through a proxy of its own, and clients reach each node through one;
a further one sends every connection to the next node, as a balancer does.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pymongo
from mongo_server import MongoServer, own_mongo_server
from network import Door, Network
from nursery import Nursery, NurseryServer
from proxy import Proxy
from vault import SOCKET

LEASE = 1.0
_DATABASE = "inorder"
_MODULES = ("fault_handlers.py", "vault_handlers.py")
_STARTS_WITHIN = 20.0


class Balancer(Proxy):
    """``targets`` by turns, one connection after the other."""

    targets: Iterable[str] = ()

    @property
    def target(self) -> str:
        return next(self._turns)

    @target.setter
    def target(self, url: str) -> None:
        self._turns = cycle([url])

    def point(self, urls: list[str]) -> None:
        """Where the nodes' own proxies are."""
        self._turns = cycle(urls)


class Fleet:
    """``links`` are the nodes' ways to the store, ``network`` is the clients' way to the nodes
    (a door for each), ``front`` the one with the balancer.

    ``folder`` holds the pipe and the vault's socket before it starts.
    """

    def __init__(
        self,
        nursery: Nursery,
        folder: Path,
        store: MongoServer,
        links: list[Proxy],
        network: Network,
        balancer: Balancer,
        config: dict[str, dict[str, Any]],
    ) -> None:
        self.folder = folder
        self.store = store
        self.links = links
        self.network = network
        self.front = Network([Door(balancer)], random.Random(0))
        self.nodes = [_node(nursery, folder, n, link, config) for n, link in enumerate(links)]
        balancer.point([network.door(n).proxy.url for n in range(len(links))])

    async def start(self, n: int) -> None:
        """The n-th node, again and again while the store is away."""
        node = self.nodes[n]
        async with asyncio.timeout(_STARTS_WITHIN):
            while True:
                try:
                    await node.start()
                except RuntimeError:
                    await asyncio.sleep(0.05)
                else:
                    break
        self.network.door(n).proxy.target = node.url

    def documents(self, collection: str, *fields: str) -> list[dict[str, Any]]:
        """What the store has, asked past all proxies; of each document these fields."""
        uri = f"{self.store.uri}{'&' if '?' in self.store.uri else '?'}timeoutMS=10000"
        with pymongo.MongoClient[dict[str, Any]](uri) as client:
            found = client[_DATABASE][collection].find({}, list(fields) or None).sort("_id")
            return list(found)

    async def verify(self) -> list[str]:
        """The findings of `inorder verify`, which has more time than nodes have."""
        node = self.nodes[0]
        settings = node.folder / "config.toml"
        settings.write_text(settings.read_text().replace(f"lease = {LEASE}", "lease = 60"))
        return await node.verify()

    def output(self) -> list[str]:
        """What each node printed."""
        return [node.output() for node in self.nodes]

    async def close(self) -> None:
        for node in self.nodes:
            await node.kill()


def _node(
    nursery: Nursery, folder: Path, n: int, link: Proxy, config: dict[str, dict[str, Any]]
) -> NurseryServer:
    """In a folder of its own, with what all of them share."""
    home = folder / f"node-{n}"
    home.mkdir()
    for name in _MODULES:
        shutil.copy(Path(__file__).with_name(name), home)
    for shared in ("runs", SOCKET):
        os.symlink(folder / shared, home / shared)
    host = link.url.partition("://")[2].strip("/")
    # Told of another address, the driver would go round the proxy.
    uri = f"mongodb://{host}/{_DATABASE}?directConnection=true"
    server = NurseryServer(nursery, home, {**config, "store": {"uri": uri, "lease": LEASE}})
    # Last: whatever else the tests are run on, this is a node of this store.
    (home / ".env").write_text("SESSION_SECRET='a secret of all the nodes'\n")
    return server


@asynccontextmanager
async def fleet(
    nursery: Nursery,
    folder: Path,
    count: int,
    config: dict[str, dict[str, Any]],
    rng: random.Random,
) -> AsyncIterator[Fleet]:
    """So many nodes, started, on a store with nothing in it; all of it ends with the block."""
    (folder / "mongodb").mkdir()
    store = await asyncio.to_thread(own_mongo_server, folder / "mongodb")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, store.stop)
        direct = f"mongodb://127.0.0.1:{store.port}/"
        links = [await stack.enter_async_context(Proxy(direct)) for _ in range(count)]
        doors = [
            await stack.enter_async_context(Proxy("ws://127.0.0.1:0/ws")) for _ in range(count)
        ]
        balancer = await stack.enter_async_context(Balancer("ws://127.0.0.1:0/ws"))
        network = Network([Door(proxy) for proxy in doors], rng)
        made = Fleet(nursery, folder, store, links, network, balancer, config)
        stack.push_async_callback(made.close)
        await asyncio.gather(*map(made.start, range(count)))
        yield made
        for proxy in (*links, *doors):
            proxy.thaw()
