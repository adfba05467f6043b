"""An insert that was sent twice, of which one comes late: when its row is gone, and its sender has
lost the session without knowing.

The late one finds its place free. Still no outcome of that sender's is recorded: the row bears
the try of a sending that was never answered (P6 and P8 of ownership.md). It does not matter by
what the row went: an end, an expiry, acknowledgements, or the session after ``session_ttl``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from mongo_bench import insert, settle
from pymongo.errors import AutoReconnect

from inorder.messages import Receipt
from inorder_server.stores import mongo_reads
from inorder_server.stores.mongo import MongoStore
from inorder_server.stores.port import (
    Acknowledge,
    Create,
    End,
    MarkCancel,
    MarkStart,
    Release,
    StoreUnavailable,
    Tally,
    Write,
)
from inorder_server.verify import audit

RECEIPT = Receipt("s", 1, 1, 0, 0, 0, verified=True)
NEVER, ALWAYS = 0, 1 << 40


class Late:
    """Inserts of requests that are sent, not answered, and come when they are let go."""

    def __init__(self, store: MongoStore) -> None:
        self.left = 0
        self._link = store._link
        self._insert = self._link.insert
        self._sent: list[Callable[[], Awaitable[list[int]]]] = []
        self._link.insert = self._inserted  # type: ignore[method-assign]

    async def _inserted(self, collection: Any, docs: Sequence[Any]) -> list[int]:
        if collection.name == "requests" and docs and self.left:
            self.left -= 1
            self._sent.append(lambda: self._insert(collection, docs))
            raise AutoReconnect("not answered")
        return await self._insert(collection, docs)

    async def come(self) -> list[int]:
        """The oldest of them; the places that were taken."""
        return await self._sent.pop(0)()


@pytest.fixture
async def stores(mongo_uri: str) -> AsyncIterator[list[MongoStore]]:
    """Those of two nodes; the first has a session, the second has declared the first dead."""
    one, two = MongoStore(mongo_uri), MongoStore(mongo_uri)
    await one.open("n1")
    await two.open("n2")
    assert await one.commit([Create("s", "ann", 1, 1, "n1", 1)]) == set()
    yield [one, two]
    await one.close()
    await two.close()


async def ended(store: MongoStore) -> None:
    assert await store.commit([End("s", 2, 1, RECEIPT, 9)]) == set()


async def ended_and_forgotten(store: MongoStore) -> None:
    await ended(store)
    assert await store.expire(NEVER, ALWAYS) == []


async def expired(store: MongoStore) -> None:
    given = Release("s", 2, 1, None, clean=True, open=False, receipt=RECEIPT, at_ms=9)
    assert await store.commit([given]) == set()
    assert await store.expire(ALWAYS, NEVER) == ["s"]


async def expired_and_forgotten(store: MongoStore) -> None:
    await expired(store)
    await store.expire(ALWAYS, ALWAYS)


async def acknowledged(store: MongoStore) -> None:
    """And as many requests later as are remembered, so that its id is forgotten too."""
    assert await store.commit([Acknowledge("s", 2, 1, keep=0)]) == set()


GONE = [ended, ended_and_forgotten, expired, expired_and_forgotten, acknowledged]


@pytest.mark.parametrize("go", GONE)
@pytest.mark.parametrize("before", [0, 1], ids=["the first comes late", "the second comes late"])
async def test_a_stale_owner_records_nothing_where_its_insert_comes_late(
    stores: list[MongoStore], go: Callable[[MongoStore], Awaitable[None]], before: int
) -> None:
    one, two = stores
    late = Late(one)
    late.left = 1 + before
    for _ in range(1 + before):
        with pytest.raises(StoreUnavailable):
            await one.commit([insert(1)])
    if before:
        # Whichever came is the one that is known from then on: its try is taken over.
        assert await late.come() == []
    assert await one.commit([insert(1)]) == set()
    assert await two.declare_dead("n1", seen=0)
    assert await two.claim("s") is not None
    assert await two.commit([settle(1, epoch=2, body=b"its outcome")]) == set()
    await go(two)
    assert await two._link.requests.find({}).to_list() == []

    assert await late.come() == [], "its place should be free"
    there = await two._link.requests.find({}).to_list()
    assert [doc["epoch"] for doc in there] == [1]
    own = one._owned.sessions["s"]
    stale: list[Write] = [
        MarkStart("s", 1, 1, 1),
        MarkCancel("s", 1, 1),
        settle(1, body=b"a stale owner's"),
    ]
    for write in stale:
        one._owned.sessions["s"] = own
        assert await one.commit([write]) == {"s"}, write
    assert await two._link.requests.find({}).to_list() == there
    # What is said of the session is what was so before.
    if await two.session("s") is not None:
        assert await two.tally("s") == Tally(1, 0, 0, 0)
        assert [r async for r in two.requests("s")] == []
        assert (await audit(two)).findings == []


async def test_what_a_blocked_session_left_undone_is_counted_once(
    stores: list[MongoStore],
) -> None:
    """Only the receipt tells of it, whatever comes late."""
    one, two = stores
    late = Late(one)
    late.left = 1
    with pytest.raises(StoreUnavailable):
        await one.commit([insert(1)])
    assert await one.commit([insert(1)]) == set()
    assert await two.declare_dead("n1", seen=0)
    assert await two.claim("s") is not None
    blocked = Receipt("s", 1, 0, 0, 0, 1, verified=True)
    assert await two.commit([End("s", 2, 1, blocked, 9)]) == set()
    assert await late.come() == []
    assert await one.commit([settle(1)]) == {"s"}
    assert await two.tally("s") == Tally(0, 0, 0, 0)
    assert (await audit(two)).findings == []


async def test_late_rows_of_a_session_that_ended_go_with_it(stores: list[MongoStore]) -> None:
    one, two = stores
    late = Late(one)
    late.left = 1
    with pytest.raises(StoreUnavailable):
        await one.commit([insert(1)])
    assert await one.commit([insert(1)]) == set()
    assert await two.declare_dead("n1", seen=0)
    assert await two.claim("s") is not None
    assert await two.commit([settle(1, epoch=2)]) == set()
    await ended(two)
    assert await late.come() == []
    assert await two.expire(NEVER, ALWAYS) == []
    assert await two._link.requests.find({}).to_list() == []
    assert await two._link.sessions.find({}).to_list() == []


async def test_a_late_row_is_no_request(stores: list[MongoStore], monkeypatch: Any) -> None:
    """Its id, which another number has by now, was not accepted as this one."""
    monkeypatch.setattr(mongo_reads, "_PORTION_ROWS", 2)
    one, two = stores
    late = Late(one)
    late.left = 1
    with pytest.raises(StoreUnavailable):
        await one.commit([insert(n, id=f"late-{n}") for n in range(1, 6)])
    assert await two.declare_dead("n1", seen=0)
    assert await two.claim("s") is not None
    group: list[Write] = []
    for n in range(1, 6):
        group += [insert(n, epoch=2), settle(n, epoch=2)]
    again = insert(6, epoch=2, id="late-1")
    assert await two.commit([*group, Acknowledge("s", 2, 5, keep=0), again]) == set()
    assert await late.come() == []
    assert [(r.seq, r.id) async for r in two.requests("s")] == [(6, "late-1")]
    assert (await audit(two)).findings == []
    claimed = await two.claim("s")
    assert claimed is not None
    assert [(r.seq, r.id, r.stripped) for r in claimed.rows] == [(6, "late-1", False)]
