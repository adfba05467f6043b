"""A database for the nodes of each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from node_processes import Nodes


@pytest.fixture
async def nodes(tmp_path: Path, mongo_uri: str) -> AsyncIterator[Nodes]:
    """``await nodes.start()``: one more."""
    made = Nodes(tmp_path, mongo_uri)
    yield made
    await made.close()
