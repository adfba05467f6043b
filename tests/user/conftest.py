"""The server as its users have it: a process of its own, with real sockets and real files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from vector_server import ServerProcess

Serve = Callable[..., Awaitable[ServerProcess]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """``await serve({"session": {"queue": 10}}, prefix=["strace", …])``: a started server.

    Its files are in ``tmp_path``; it is ended after the test.
    """
    servers: list[ServerProcess] = []

    async def start(config: dict[str, dict[str, Any]] | None = None, **more: Any) -> ServerProcess:
        server = ServerProcess(tmp_path, config or {}, **more)
        servers.append(server)
        await server.start()
        return server

    yield start
    for server in servers:
        await server.close()
