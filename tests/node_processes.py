"""Nodes as processes, all on one MongoDB database and in one folder."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pymongo
from frames import RawClient
from gates import Gates
from vector_server import ServerProcess

LEASE = 1.0


@asynccontextmanager
async def coming_back(url: str, **hello: Any) -> AsyncIterator[tuple[RawClient, dict[str, Any]]]:
    """A connection that has resumed, as clients do it: a database that is slow to answer on a busy
    machine (a call has a third of the lease) is away for the moment."""
    async with asyncio.timeout(30):
        while True:
            async with RawClient(url) as client:
                await client.send({"type": "hello", **hello})
                answer = await client.until(lambda message: message["type"] in ("welcome", "error"))
                if answer["type"] == "welcome":
                    yield client, answer
                    return
                assert answer["code"] == "store_unavailable", answer
                await asyncio.sleep(0.1)


class NodeProcess(ServerProcess):
    """One of several in a folder."""

    def __init__(
        self, number: int, folder: Path, config: dict[str, dict[str, Any]], env: dict[str, str]
    ) -> None:
        super().__init__(folder, config, env=env)
        # Where everything is kept, nodes are told by their environment alone.
        (folder / ".env").unlink(missing_ok=True)
        self._output = folder / f"output-{number}"


class Nodes:
    """Starts nodes, and looks at what they share from outside."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder = folder
        self.env = {"MONGODB_URI": uri, "SESSION_SECRET": "a secret of all the nodes"}
        self._uri = uri
        self.gates = Gates(folder)
        self.all: list[NodeProcess] = []

    async def start(self, lease: float = LEASE, **more: dict[str, Any]) -> NodeProcess:
        """One more node."""
        config: dict[str, dict[str, Any]] = {
            "store": {"lease": lease},
            "handlers": {"modules": ["user_handlers"]},
            **more,
        }
        node = NodeProcess(len(self.all), self.folder, config, self.env)
        self.all.append(node)
        await node.start()
        return node

    def command(self, *arguments: str, status: int = 0, typed: str = "") -> str:
        """What a command line prints beside the nodes; of one that fails, what it complains."""
        done = subprocess.run(
            [sys.executable, "-m", "inorder_server", *arguments],
            cwd=self.folder,
            env={**os.environ, **self.env},
            input=typed,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr if status else done.stdout

    def documents(self, collection: str, **filter: Any) -> list[dict[str, Any]]:
        """What the database has."""
        with pymongo.MongoClient[dict[str, Any]](self._uri) as client:
            return list(client.get_default_database()[collection].find(filter).sort("_id"))

    def session(self, id: str) -> dict[str, Any]:
        """A session's document."""
        (found,) = self.documents("sessions", _id=id)
        return found

    def accepted(self, id: str) -> list[dict[str, Any]]:
        """A session's document, and those of the requests that it has accepted."""
        session = self.session(id)
        rows = self.documents("requests", _id={"$gt": f"{id}:"})
        return [session, *(row for row in rows if int(row["_id"][-16:]) <= session["accepted"])]

    async def close(self) -> None:
        for node in self.all:
            await node.close()
