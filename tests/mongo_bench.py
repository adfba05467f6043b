"""What tests of the MongoDB adapter do to it: answers that are lost, commands that are counted."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import AutoReconnect
from pymongo.monitoring import CommandListener
from sqlite_makers import ended

from inorder_server.stores import mongo_link
from inorder_server.stores.mongo import MongoStore
from inorder_server.stores.mongo_link import MongoLink
from inorder_server.stores.port import Insert, RequestRow, Settle

WRITES = frozenset({"insert", "update", "delete", "findAndModify", "bulkWrite"})


def row(seq: int, **changes: Any) -> RequestRow:
    fields = {"id": f"id-{seq}", "digest": b"digest", "method": "echo", "params": b"1"}
    return RequestRow(seq, **{**fields, "accepted_ms": 5, **changes})


def insert(seq: int, session: str = "s", epoch: int = 1, **changes: Any) -> Insert:
    return Insert(session, epoch, [row(seq, **changes)])


def settle(seq: int, session: str = "s", epoch: int = 1, body: bytes = b"1") -> Settle:
    return ended(session, epoch, seq, "done", body, 6)


class Commands(CommandListener):
    """The commands that a client sends, counted by name and collection."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def started(self, event: Any) -> None:
        self.sent.append((event.command_name, event.command))

    def succeeded(self, event: Any) -> None:
        return None

    def failed(self, event: Any) -> None:
        return None

    @property
    def writes(self) -> Counter[str]:
        """Write commands by collection."""
        return Counter(str(command[name]) for name, command in self.sent if name in WRITES)


def counted(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Of the clients that are made from now on."""
    commands = Commands()
    client = functools.partial(AsyncMongoClient, event_listeners=[commands])
    monkeypatch.setattr(mongo_link, "AsyncMongoClient", client)
    return commands


class Faults:
    """The ``n``-th of a store's bulks fails: before it takes effect, or after (its answer is
    lost)."""

    def __init__(self, store: MongoStore) -> None:
        self._link: MongoLink = store._link
        self._insert, self._change = self._link.insert, self._link.change
        self._left = 0
        self._applied = True
        self._link.insert = self._inserted  # type: ignore[method-assign]
        self._link.change = self._changed  # type: ignore[method-assign]

    def fail(self, n: int, *, applied: bool) -> None:
        self._left, self._applied = n, applied

    @property
    def failed(self) -> bool:
        """Whether it came so far."""
        return self._left <= 0

    async def _inserted(self, collection: Any, docs: Sequence[Any]) -> list[int]:
        return await self._call(bool(docs), self._insert, collection, docs)

    async def _changed(self, collection: Any, changes: Sequence[Any], **how: Any) -> int:
        return await self._call(bool(changes), self._change, collection, changes, **how)

    async def _call(self, counts: bool, call: Any, *arguments: Any, **how: Any) -> Any:
        self._left -= counts
        fails = counts and self._left == 0
        if fails and not self._applied:
            raise AutoReconnect("cut before")
        done = await call(*arguments, **how)
        if fails:
            raise AutoReconnect("cut after")
        return done
