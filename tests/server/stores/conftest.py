"""A database of each kind for the contract suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import memory_store
import pytest

from inorder_server.stores.mongo import MongoStore
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


class MongoDatabase:
    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._stores: list[MongoStore] = []

    async def open(self, node: str) -> Store:
        # A group of thousands of writes may take a stand-in seconds.
        store = MongoStore(self._uri, lease=60)
        await store.open(node)
        self._stores.append(store)
        return store

    async def die(self, store: Store) -> None:
        # A node that stops says so itself.
        await store.close()

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


class MemoryDatabase:
    """The stand-in that other tests use: it must do as the real ones."""

    def __init__(self, folder: Path) -> None:
        self._database = memory_store.Database()

    async def open(self, node: str) -> Store:
        store = memory_store.MemoryStore(self._database)
        # What another node owned is not freed: the contract's nodes live side by side.
        store.node = node
        return store

    async def die(self, store: Store) -> None:
        assert isinstance(store, memory_store.MemoryStore)
        for row in self._database.sessions.values():
            if row.node == store.node:
                row.node = None

    async def close(self) -> None:
        return None


@pytest.fixture(params=["sqlite", "mongodb", "memory"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    made: Database
    if request.param == "mongodb":
        made = MongoDatabase(request.getfixturevalue("mongo_uri"))
    else:
        made = {"sqlite": SqliteDatabase, "memory": MemoryDatabase}[request.param](tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def store(database: Database) -> Store:
    return await database.open("n1")
