"""Every conversation of protocol/vectors, against the real server as a process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from vector_format import Conversation, Words, load
from vector_runner import Broken, Run, register
from vector_server import ServerProcess

CONVERSATIONS = load()
_suffixes = count(1)


class Servers:
    """The servers of this module: one a configuration, made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shared: dict[str, ServerProcess] = {}
        self._started: list[ServerProcess] = []

    async def for_(self, conversation: Conversation, words: Words) -> ServerProcess:
        """A server that runs, with the conversation's users."""
        config: dict[str, dict[str, Any]] = conversation.get("config", {})
        key = json.dumps(config, sort_keys=True)
        server = None if conversation.get("alone") else self._shared.get(key)
        if server is None:
            folder = self._folder / str(len(self._started))
            folder.mkdir()
            server = ServerProcess(folder, config)
            self._started.append(server)
            if not conversation.get("alone"):
                self._shared[key] = server
            await server.start()
        closed = config.get("auth", {}).get("registration") == "closed"
        for user in conversation.get("users", ["ann"]):
            name, admin = (user["name"], user["admin"]) if isinstance(user, dict) else (user, False)
            real, password = words.user(name), words.password(name)
            if admin or closed:
                server.add_user(real, password, admin=admin)
            else:
                await register(server.url, real, password)
        return server

    async def close(self) -> None:
        """Ends all that were started."""
        for server in self._started:
            await server.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    made = Servers(tmp_path_factory.mktemp("vectors"))
    yield made
    await made.close()


@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_conversation(name: str, servers: Servers) -> None:
    words = Words(f"-{next(_suffixes)}")
    server = await servers.for_(CONVERSATIONS[name], words)
    trouble = None
    try:
        await Run(CONVERSATIONS[name], server, words).play()
    except Broken as exc:
        trouble = f"{CONVERSATIONS[name]['file']}, {name}, {exc}"
    if trouble:
        pytest.fail(trouble, pytrace=False)
