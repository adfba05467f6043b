"""Leases and asking for sessions, operation by operation: P0, P12 and P14 on documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from mongo_bench import counted, insert, settle

from inorder.messages import Receipt
from inorder_server.stores import mongo, mongo_claim
from inorder_server.stores.mongo import MongoStore
from inorder_server.stores.mongo_link import MongoLink
from inorder_server.stores.port import Acknowledge, Attach, Create, Release, StoreError
from inorder_server.stores.shared import Neighbour, Want

Opens = Callable[[str], Any]


@pytest.fixture
async def opened(mongo_uri: str) -> AsyncIterator[Opens]:
    stores: list[MongoStore] = []

    async def open(node: str) -> MongoStore:
        store = MongoStore(mongo_uri)
        await store.open(node)
        stores.append(store)
        return store

    yield open
    for store in stores:
        await store.close()


async def owned(store: MongoStore, node: str, session: str = "s") -> None:
    created = Create(session, "ann", 1, 1, node, 1)
    assert await store.commit([created, insert(1, session)]) == set()


def release(session: str = "s", epoch: int = 1, *, open: bool = True) -> Release:
    receipt = Receipt(session, 0, 0, 0, 0, 0, verified=True)
    return Release(session, epoch, 1, None, True, open, receipt, 7)


async def test_a_lease_is_raised_one_by_one(opened: Opens) -> None:
    one, two = await opened("n1"), await opened("n2")
    assert await one.raise_lease(0)
    assert await one.raise_lease(1)
    # The same again: its answer was lost, and it counts for nothing.
    assert not await one.raise_lease(1)
    assert sorted(await two.neighbours(), key=lambda n: n.name) == [
        Neighbour("n1", 2, dead=False),
        Neighbour("n2", 0, dead=False),
    ]


async def test_only_a_counter_that_stands_still_is_declared_dead(opened: Opens) -> None:
    one, two, three = await opened("n1"), await opened("n2"), await opened("n3")
    assert await one.raise_lease(0)
    assert not await two.declare_dead("n1", seen=0)
    assert await one.raise_lease(1)
    assert await two.declare_dead("n1", seen=2)
    # Whoever else saw the same is right, too.
    assert await three.declare_dead("n1", seen=2)
    assert await three.declare_dead("n1", seen=1)
    assert not await one.raise_lease(2)
    assert Neighbour("n1", 2, dead=True) in await two.neighbours()


async def test_a_name_is_used_once(opened: Opens, mongo_uri: str) -> None:
    await opened("n1")
    with pytest.raises(StoreError, match="n1"):
        await MongoStore(mongo_uri).open("n1")


async def test_a_living_owners_session_is_not_to_be_had(opened: Opens) -> None:
    one, two = await opened("n1"), await opened("n2")
    await owned(one, "n1")
    assert await two.claim("s") is None
    assert await two.unfinished() == []
    assert await two.abandoned() == []
    assert await two.declare_dead("n1", seen=0)
    assert await two.unfinished() == await two.abandoned() == ["s"]
    claimed = await two.claim("s")
    assert claimed is not None
    assert (claimed.session.node, claimed.session.epoch, claimed.was_clean) == ("n2", 2, False)
    assert await one.commit([settle(1)]) == {"s"}
    assert await two.abandoned() == []


async def test_a_dead_owners_session_without_work_is_given_up_too(opened: Opens) -> None:
    one, two = await opened("n1"), await opened("n2")
    await owned(one, "n1")
    assert await one.commit([settle(1)]) == set()
    assert await two.declare_dead("n1", seen=0)
    assert await two.unfinished() == ["s"]


@pytest.mark.parametrize("when", ["before the stamp", "before the bodies are read"])
async def test_a_claim_is_overtaken_by_one_that_finishes_the_work(
    opened: Opens, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The slower one finds rows that were acknowledged since it claimed them."""
    zero, one, two = await opened("n0"), await opened("n1"), await opened("n2")
    await owned(zero, "n0")
    assert await one.declare_dead("n0", seen=0)
    load = mongo_claim._stamped

    async def overtaken(link: MongoLink, doc: Any) -> Any:
        if link is not one._link:
            return await load(link, doc)
        rows = await load(link, doc) if when == "before the bodies are read" else None
        assert await two.declare_dead("n1", seen=0)
        assert await two.claim("s") is not None
        assert await two.commit([settle(1, epoch=3)]) == set()
        assert await two.commit([Acknowledge("s", 3, 1, 10)]) == set()
        return rows or await load(link, doc)

    monkeypatch.setattr(mongo_claim, "_stamped", overtaken)
    assert await one.claim("s") is None
    row = await two.session("s")
    assert row is not None
    assert (row.node, row.epoch, row.acked) == ("n2", 3, 1)


async def test_much_that_is_unsettled_is_stamped_in_parts(
    opened: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has the timeout to itself, where all at once may never be done in time. Still from the
    highest number down."""
    one = await opened("n1")
    created = Create("s", "ann", 1, 1, "n1", 1)
    assert await one.commit([created, *(insert(n) for n in range(1, 251))]) == set()
    await one.close()
    commands = counted(monkeypatch)
    other = await opened("n2")
    commands.sent.clear()
    claimed = await other.claim("s")
    assert claimed is not None
    assert [row.seq for row in claimed.rows] == list(range(1, 251))
    stamps = [c["updates"] for name, c in commands.sent if name == "update"][1:]
    assert max(map(len, stamps)) <= 100
    ids = [update["q"]["_id"] for part in stamps for update in part]
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == 250


async def test_claims_leave_connections_for_all_else(
    opened: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those that wait for their turn are not told that the store is away for it."""
    one, other = await opened("n1"), await opened("n2")
    sessions = [f"s{n}" for n in range(50)]
    for session in sessions:
        await owned(one, "n1", session)
    await one.close()
    under_way = most = 0

    async def watched(link: MongoLink, owned: Any, session: str) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await mongo_claim.claim(link, owned, session)
        finally:
            under_way -= 1

    monkeypatch.setattr(mongo, "claim", watched)
    claimed = await asyncio.gather(*map(other.claim, sessions))
    assert [c.session.id for c in claimed] == sessions
    assert most == mongo.CLAIMS_AT_A_TIME


async def test_who_was_declared_dead_begins_again_as_somebody_else(opened: Opens) -> None:
    one, two = await opened("n1"), await opened("n2")
    await owned(one, "n1")
    await one.rejoin("n1b")
    assert await one.raise_lease(0)
    assert await one.mine() == {}
    assert await two.abandoned() == ["s"]
    assert await one.commit([insert(2)]) == {"s"}
    await owned(one, "n1b", "t")
    assert await one.mine() == {"t": 1}
    assert await two.claim("t") is None
    names = {n.name: n.dead for n in await two.neighbours()}
    assert names == {"n1": True, "n1b": False, "n2": False}


async def test_the_dead_are_buried_once_they_own_nothing(opened: Opens) -> None:
    one, two = await opened("n1"), await opened("n2")
    await owned(one, "n1")
    assert await two.declare_dead("n1", seen=0)
    assert not await two.bury("n1")
    assert await two.claim("s") is not None
    assert await two.bury("n1")
    await two.bury("n2")
    assert [n.name for n in await two.neighbours()] == ["n2"], "the living stay"


async def test_one_asks_and_the_owner_hears_it(opened: Opens) -> None:
    one, two = await opened("n1"), await opened("n2")
    await owned(one, "n1")
    assert await one.wanted() == []
    assert not await one.want("s"), "it is its own"
    assert await two.want("s")
    assert await two.want("s")
    assert await one.wanted() == [Want("s", 1, "n2")]
    assert await two.wanted() == []
    assert await one.commit([release()]) == set()
    assert await one.wanted() == []
    assert not await two.want("s"), "it may be claimed"
    assert await two.claim("s") is not None
    assert not await two.want("nobody")


async def test_a_resume_at_the_owner_takes_the_wish_back(opened: Opens) -> None:
    one, two = await opened("n1"), await opened("n2")
    await owned(one, "n1")
    assert await two.want("s")
    assert await one.commit([Attach("s", 1, 2)]) == set()
    assert await one.wanted() == []


async def test_nobody_asks_the_dead(opened: Opens) -> None:
    one, two = await opened("n1"), await opened("n2")
    await owned(one, "n1")
    assert await two.declare_dead("n1", seen=0)
    assert not await two.want("s")


async def test_a_node_that_closes_leaves(opened: Opens) -> None:
    one, two = await opened("n1"), await opened("n2")
    await owned(one, "n1")
    await one.close()
    assert await two.abandoned() == ["s"]
    assert await two.claim("s") is not None
