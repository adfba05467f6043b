"""The connection to MongoDB: one client, made inside the loop, whose writes can't be cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError
from pymongo.operations import DeleteMany, UpdateMany, UpdateOne
from pymongo.read_preferences import ReadPreference
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from . import mongo_documents as documents
from .mongo_documents import Document, Found
from .mongo_errors import duplicates, plain, translated
from .port import StoreError

_T = TypeVar("_T")
Collection = AsyncCollection[Document]
Change = UpdateOne | UpdateMany | DeleteMany

# Commits come one after the other; beside them go reads of resumes, claims and the nodes' own.
POOL = 32
# The servers in use compare an `$in` with every element; so many ids at a time cost little.
_IDS_AT_A_TIME = 250
_READS_AT_A_TIME = 8


class MongoLink:
    """The collections of one database, and what is done to them.

    ``timeout`` is seconds that an operation may take, with all its waiting: the driver has no
    other bound on the wait for a connection of its pool.
    """

    def __init__(self, uri: str, timeout: float) -> None:
        self._uri = uri
        self._milliseconds = max(round(timeout * 1000), 1)
        self._client: AsyncMongoClient[Document] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.name = "MongoDB"
        self.sessions: Collection
        self.requests: Collection
        self.users: Collection
        self.nodes: Collection
        self.commands: Collection

    async def open(self) -> None:
        """Connects, makes the indexes, and checks the format. Raises :class:`StoreError`, or
        :class:`StoreUnavailable` where nobody answers."""
        try:
            parsed = parse_uri(self._uri, validate=True)
        except PyMongoError as exc:
            raise StoreError(f"[store] uri: {plain(exc)}") from None
        except ValueError as exc:  # of a port or a percent sign
            raise StoreError(f"[store] uri: {exc}") from None
        database = parsed["database"] or "inorder"
        hosts = ",".join(f"{host}:{port}" for host, port in parsed["nodelist"])
        self.name = f"MongoDB {hosts}/{database}"
        try:
            self._client = AsyncMongoClient(
                self._uri,
                appname="inorder",
                maxPoolSize=POOL,
                timeoutMS=self._milliseconds,
                connectTimeoutMS=self._milliseconds,
                # Whether a write is to be made again is ours to say.
                retryWrites=False,
                retryReads=False,
            )
            db = self._client.get_database(
                database,
                write_concern=WriteConcern(w="majority", j=True),
                read_preference=ReadPreference.PRIMARY,
            )
            self.sessions = db[documents.SESSIONS]
            self.requests = db[documents.REQUESTS]
            self.users = db[documents.USERS]
            self.nodes = db[documents.NODES]
            self.commands = db[documents.COMMANDS]
            await self._check(db[documents.FORMATS])
            for collection, name, keys in documents.INDEXES:
                await db[collection].create_index(keys, name=name)
        except PyMongoError as exc:
            await self.close()
            raise translated(self.name, exc, opening=True) from None
        except BaseException:
            await self.close()
            raise

    async def _check(self, formats: Collection) -> None:
        there = await formats.find_one({"_id": "inorder"})
        if there is None:
            try:
                await formats.insert_one({"_id": "inorder", "version": documents.FORMAT})
            except DuplicateKeyError:
                there = await formats.find_one({"_id": "inorder"})
        if there is not None and there["version"] > documents.FORMAT:
            raise StoreError(
                f"{self.name} is of a newer inorder (format {there['version']}; this one knows "
                f"{documents.FORMAT})"
            )

    async def close(self) -> None:
        """Waits for what is under way (bounded by the timeout), then lets the client go."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Does ``work`` to its end, whoever is cancelled meanwhile: a write that was cut short
        may have been applied."""
        if self._client is None:
            work.close()
            raise StoreError(f"{self.name} is not open")
        task = asyncio.ensure_future(self._translated(work))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    async def _translated(self, work: Coroutine[Any, Any, _T]) -> _T:
        try:
            return await work
        except PyMongoError as exc:
            raise translated(self.name, exc) from exc

    # ---- what a group of writes is made of

    async def insert(self, collection: Collection, docs: Sequence[Document]) -> list[int]:
        """Inserts them all; the positions of those whose ``_id`` was there already."""
        if not docs:
            return []
        try:
            await collection.insert_many(docs, ordered=False)
        except BulkWriteError as exc:
            there = duplicates(exc)
            if there is None:
                raise
            return there
        return []

    async def change(
        self, collection: Collection, changes: Sequence[Change], *, ordered: bool = True
    ) -> int:
        """Makes the changes in this order; how many documents they found, all told."""
        if not changes:
            return 0
        done = await collection.bulk_write(changes, ordered=ordered)
        return int(done.matched_count)

    async def find(
        self, collection: Collection, ids: Sequence[str], fields: Document | None = None
    ) -> dict[str, Found]:
        """The documents with these ids."""
        found: dict[str, Found] = {}
        parts = [ids[i : i + _IDS_AT_A_TIME] for i in range(0, len(ids), _IDS_AT_A_TIME)]

        async def part(wanted: Sequence[str]) -> list[Document]:
            filter = {"_id": {"$in": list(wanted)}}
            return await collection.find(filter, fields).to_list()

        for i in range(0, len(parts), _READS_AT_A_TIME):
            for docs in await asyncio.gather(*map(part, parts[i : i + _READS_AT_A_TIME])):
                found.update((doc["_id"], doc) for doc in docs)
        return found
