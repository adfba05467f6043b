"""A node's edge without a network: real connections over sockets that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fake_socket import FakeSocket, Json
from node_bench import Bench, serving, settled

from inorder_server import config, gateway
from inorder_server.auth import Auth, Identity
from inorder_server.edge import Edge, Peer
from inorder_server.stores.port import User

HERE = Peer("127.0.0.1", forwarded=False)
THERE = Peer("192.0.2.7", forwarded=False)
PASSWORD = "correct horse"


class PlainPasswords:
    """Instead of bcrypt. While ``gate`` is closed nobody gets an answer."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()

    async def hash(self, password: str) -> bytes:
        await self.gate.wait()
        return password.encode()

    async def check(self, password: str, hashed: bytes | None) -> bool:
        await self.gate.wait()
        return hashed == password.encode()


class GatedAuth(Auth):
    """While ``gate`` is closed nobody is confirmed."""

    gate: asyncio.Event
    broken: Exception | None = None

    async def confirm(self, identity: Identity) -> Identity:
        await self.gate.wait()
        if self.broken is not None:
            raise self.broken
        return await super().confirm(identity)


class Client:
    """One connection: ``socket`` is its peer's end, ``task`` the server's."""

    def __init__(self, door: Door, *, hand: bool, identity: Identity | None, peer: Peer) -> None:
        self.socket = FakeSocket(None if hand else "inorder.v1")
        self.task = asyncio.create_task(
            gateway.serve(door.edge, self.socket, identity, peer),  # type: ignore[arg-type]
            name="connection",
        )

    async def say(self, *messages: Json | list[Json] | str | bytes) -> list[Json]:
        """A frame each; returns what was said in answer, as far as that needs no time."""
        before = len(self.socket.seen)
        self.socket.say(*messages)
        await settled()
        return self.socket.seen[before:]

    async def hello(self, name: str = "ann", **fields: Any) -> Json:
        """Logs in; the last thing that was said, which should be ``welcome``."""
        return (await self.say(hello(name, **fields)))[-1]

    async def go(self) -> None:
        """The connection is lost."""
        self.socket.go()
        await settled()

    @property
    def closed(self) -> tuple[int, str] | None:
        return self.socket.closed


class Door:
    """The edge of ``bench``."""

    def __init__(self, bench: Bench, sections: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        self.bench = bench
        self.store = bench.store
        self.passwords = PlainPasswords()
        bench.node.config = config.Config(
            session=bench.node.config.session, folder=Path(), **sections
        )
        settings = bench.node.config.auth
        self.auth = GatedAuth(
            bench.store,
            secret=b"0123456789abcdef",
            token_ttl=settings.token_ttl,
            registration=settings.registration,
            passwords=self.passwords,
            clock=lambda: loop.time() + 1e6,
            now=loop.time,
        )
        self.auth.gate = asyncio.Event()
        self.auth.gate.set()
        self.edge = Edge(bench.node, bench.registry, self.auth)
        self.clients: list[Client] = []
        for name in ("ann", "bob"):
            self.user(name)

    def user(self, name: str, *, admin: bool = False) -> Identity:
        self.bench.database.users[name] = User(name, PASSWORD.encode(), 1, admin, 0)
        return Identity(name, admin, 1)

    def database_state(self, session: str) -> str:
        """What the store has of a session: live, ended or gone."""
        return str(self.bench.database.sessions[session].state)

    async def connect(
        self, *, hand: bool = False, identity: Identity | None = None, peer: Peer = HERE
    ) -> Client:
        client = Client(self, hand=hand, identity=identity, peer=peer)
        self.clients.append(client)
        await settled()
        return client

    async def welcome(self, name: str = "ann", *, hand: bool = False, **fields: Any) -> Client:
        """One that is logged in."""
        client = await self.connect(hand=hand)
        if hand:
            await client.say(f".login {name} {PASSWORD}")
        else:
            await client.hello(name, **fields)
        assert "welcome" in client.socket.types
        return client


@asynccontextmanager
async def door(*functions: Callable[..., Any], **options: Any) -> AsyncIterator[Door]:
    """``limits``, ``auth`` and ``server`` are sections of the configuration, the rest goes to the
    bench. Afterwards nothing may be left: no task, nobody counted."""
    sections = {name: options.pop(name) for name in ("limits", "auth", "server") if name in options}
    async with serving(*functions, **options) as bench:
        made = Door(bench, sections)
        yield made
        for client in made.clients:
            client.socket.go()
        if made.clients:
            await asyncio.wait([client.task for client in made.clients])
        for client in made.clients:
            client.task.result()
        assert not made.edge.connections
        assert not made.edge.per_user
        assert bench.metrics.connections == 0


def hello(name: str = "ann", password: str = PASSWORD, **fields: Any) -> Json:
    return {"type": "hello", "username": name, "password": password, **fields}


def request(method: str = "echo", params: Any = None, **fields: Any) -> Json:
    return {"type": "request", "method": method, "params": params, **fields}
