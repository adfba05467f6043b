"""A database of each kind for the contract suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from inorder_server.stores.port import Store
from inorder_server.stores.sqlite import SqliteStore


class Database(Protocol):
    """An empty database, and the nodes that serve from it."""

    async def open(self, node: str) -> Store:
        """A store that ``node`` has opened."""
        ...

    async def die(self, store: Store) -> None:
        """The store's process is gone, and every other node has noticed."""
        ...

    async def close(self) -> None: ...


class SqliteDatabase:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "inorder.db"
        self._stores: list[SqliteStore] = []

    async def open(self, node: str) -> Store:
        store = SqliteStore(self._path, busy_ms=200)
        await store.open(node)
        self._stores.append(store)
        return store

    async def die(self, store: Store) -> None:
        # Closing gives up no session: for the database it is a death.
        await store.close()

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


@pytest.fixture(params=["sqlite"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    made: Database = {"sqlite": SqliteDatabase}[request.param](tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def store(database: Database) -> Store:
    return await database.open("n1")
