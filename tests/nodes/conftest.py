"""A database for the nodes of each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from mongo_server import MongoServer, own_mongo_server
from node_processes import Nodes


@pytest.fixture
async def nodes(tmp_path: Path, mongo_uri: str) -> AsyncIterator[Nodes]:
    """``await nodes.start()``: one more."""
    made = Nodes(tmp_path, mongo_uri)
    yield made
    await made.close()


@pytest.fixture
def own_mongodb(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MongoServer]:
    """One that the test may kill."""
    folder = tmp_path / "mongodb"
    folder.mkdir()
    server = own_mongo_server(folder)
    request.node.user_properties.append(("mongodb", server.name))
    yield server
    server.stop()
