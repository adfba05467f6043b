"""What MongoDB alone has to show: documents, group commit, lost answers, late writes, errors."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pymongo
import pytest
from mongo_bench import Faults, counted, insert, settle
from msgspec import structs
from pymongo.errors import BulkWriteError, WriteConcernError

from inorder.messages import Receipt
from inorder_server.stores.mongo import MongoStore
from inorder_server.stores.mongo_errors import duplicates, translated
from inorder_server.stores.port import (
    Acknowledge,
    Attach,
    Create,
    End,
    MarkCancel,
    MarkStart,
    Release,
    StoreError,
    StoreUnavailable,
    Tally,
    User,
    Write,
)

Opens = Callable[..., Any]


@pytest.fixture
async def opened(mongo_uri: str) -> AsyncIterator[Opens]:
    """``await opened("n1")``: a store that this node has opened."""
    stores: list[MongoStore] = []

    async def open(node: str, **how: Any) -> MongoStore:
        store = MongoStore(mongo_uri, **how)
        await store.open(node)
        stores.append(store)
        return store

    yield open
    for store in stores:
        await store.close()


@pytest.fixture
async def store(opened: Opens) -> MongoStore:
    return await opened("n1")


def create(session: str = "s", node: str = "n1") -> Create:
    return Create(session, "ann", 1, 1, node, 1)


def receipt(session: str = "s") -> Receipt:
    return Receipt(session, 0, 0, 0, 0, 0, verified=True)


def release(session: str = "s", epoch: int = 1, attach: int = 1) -> Release:
    return Release(session, epoch, attach, None, True, True, receipt(session), 7)


async def done(store: MongoStore, *writes: Write) -> None:
    assert await store.commit(writes) == set()


async def documents(store: MongoStore, collection: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (
        await getattr(store._link, collection).find().sort("_id").to_list()
    )
    return found


# ---- documents


async def test_it_keeps_to_what_every_server_knows(
    opened: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = counted(monkeypatch)
    store = await opened("n1")
    await done(store, create(), insert(1), insert(2), settle(1), Acknowledge("s", 1, 1, 5))
    await store.claim("s")
    await done(store, settle(2, epoch=2), release(epoch=2))
    await store.expire(99, 99)
    await store.add_user(User("ann", b"hash", 1, False, 5))
    await store.post("drain", "n1", "", 5)
    await store.tally("s")
    names = {name for name, _ in commands.sent}
    usual = {"insert", "update", "delete", "find", "aggregate", "getMore"}
    assert names <= usual | {"createIndexes", "endSessions", "hello", "ismaster"}
    for name, command in commands.sent:
        if name in ("insert", "update", "delete"):
            concern = dict(command["writeConcern"])
            assert (concern["w"], concern["j"]) == ("majority", True)
            assert "txnNumber" not in command
        if name == "update":
            for change in command["updates"]:
                assert isinstance(change["u"], dict)
                assert set(change["u"]) <= {"$set", "$unset", "$inc", "$max"}


async def test_times_and_bodies_are_stored_in_one_form(store: MongoStore, mongo_uri: str) -> None:
    await done(store, create(), insert(1), settle(1))
    with pymongo.MongoClient[dict[str, Any]](mongo_uri) as client:
        db = client.get_default_database()
        longs = {"created_ms": {"$type": "long"}, "left_ms": {"$type": "long"}}
        assert db["sessions"].count_documents(longs) == 1
        longs = {"accepted_ms": {"$type": "long"}, "settled_ms": {"$type": "long"}}
        bodies = {"params": {"$type": "binData"}, "outcome": {"$type": "binData"}}
        assert db["requests"].count_documents({**longs, **bodies}) == 1
        names = {index["name"] for index in db["sessions"].list_indexes()}
    assert {"by_node_and_work", "by_node_and_want", "by_state_and_age", "by_creation"} <= names


# ---- group commit


async def test_a_group_is_one_bulk_a_collection(
    opened: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = counted(monkeypatch)
    store = await opened("n1")
    names = [f"s{n}" for n in range(20)]
    await done(store, *[w for s in names for w in (create(s), insert(1, s), insert(2, s))])
    commands.sent.clear()
    await done(
        store,
        *[w for s in names for w in (settle(1, s), insert(3, s), Acknowledge(s, 1, 1, 9))],
        *[settle(2, s) for s in names],
    )
    # Rows inserted and rows settled; sessions confirmed and acknowledged; rows stripped.
    assert commands.writes == {"requests": 3, "sessions": 1}


# ---- answers that are lost


LOST: list[Sequence[Write]] = [
    [create("t"), insert(1, "t"), insert(2, "t"), insert(5), settle(2)],
    [MarkStart("s", 1, 3, 2), settle(2), settle(3), MarkCancel("s", 1, 4), Attach("s", 1, 2)],
    [settle(2), insert(5), Acknowledge("s", 1, 2, 1), release()],
    [settle(2), settle(3), settle(4), Acknowledge("s", 1, 3, 0), End("s", 1, 4, receipt(), 9)],
    [insert(5), settle(2), settle(5), Acknowledge("s", 1, 2, 9), insert(6)],
]


@pytest.mark.parametrize("applied", [False, True], ids=["not sent", "answer lost"])
@pytest.mark.parametrize("group", range(len(LOST)))
async def test_a_group_that_failed_on_its_way_is_committed_again(
    store: MongoStore, opened: Opens, group: int, applied: bool
) -> None:
    """Wherever it fails: what the second call leaves is what one call would have."""

    async def after(session: str, fail: int) -> tuple[bool, object]:
        named = [_of(w, session) for w in LOST[group]]
        await done(store, _of(create(), session))
        await done(store, *(_of(insert(n), session) for n in range(1, 5)), _of(settle(1), session))
        faults.fail(fail, applied=applied)
        failed = False
        try:
            fenced = await store.commit(named)
        except StoreUnavailable:
            failed = True
            fenced = await store.commit(named)
        assert fenced == set()
        seen = []
        for name in (session, f"t{session}"):
            doc = await store._link.sessions.find_one({"_id": name}) or {}
            doc = {k: v for k, v in doc.items() if k not in ("_id", "again", "receipt")}
            rows = [r async for r in store.requests(name)]
            seen.append((doc, rows, await store.tally(name)))
        return failed, seen

    faults = Faults(store)
    failed, expected = await after("plain", 0)
    assert not failed
    n = 1
    while True:
        failed, seen = await after(f"s{n}", n)
        assert seen == expected, n
        if not failed:
            break
        n += 1
    assert n > 2


def _of(w: Write, session: str) -> Write:
    """The same write to a session of another name."""
    name = session if w.session == "s" else f"t{session}"
    if isinstance(w, Release | End):
        return structs.replace(w, session=name, receipt=structs.replace(w.receipt, session="x"))
    return structs.replace(w, session=name)


async def test_who_stops_waiting_stops_no_write(store: MongoStore) -> None:
    await done(store, create())
    for n in range(1, 21):
        waiting = asyncio.create_task(store.commit([insert(n)]))
        for _ in range(n % 7):
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await done(store, insert(n))
    assert [r.seq async for r in store.requests("s")] == list(range(1, 21))


# ---- what a crash leaves between two writes


async def test_a_row_that_was_not_confirmed_is_nobodys(store: MongoStore, opened: Opens) -> None:
    faults = Faults(store)
    await done(store, create(), insert(1))
    faults.fail(1, applied=True)
    with pytest.raises(StoreUnavailable):
        await store.commit([insert(2, id="lost")])
    assert len(await documents(store, "requests")) == 2
    assert [r.id async for r in store.requests("s")] == ["id-1"]
    assert await store.tally("s") == Tally(0, 0, 0, 1)
    await store.close()
    other = await opened("n2")
    claimed = await other.claim("s")
    assert claimed is not None
    assert [r.id for r in claimed.rows] == ["id-1"]
    # P6: of a lower epoch, so the whole row is replaced.
    await done(other, insert(2, epoch=2, id="mine", params=b"2"))
    assert [(r.id, r.params) async for r in other.requests("s")] == [("id-1", b"1"), ("mine", b"2")]


async def test_a_row_of_a_higher_epoch_fences(store: MongoStore, opened: Opens) -> None:
    await done(store, create(), insert(1))
    await done(store, release())
    other = await opened("n2")
    assert await other.claim("s") is not None
    await done(other, insert(2, epoch=2, id="theirs"))
    assert await store.commit([insert(2)]) == {"s"}
    # Also for one that does not know yet.
    store._owned.sessions["s"] = other._owned.sessions["s"].__class__(1, 1)
    assert await store.commit([insert(2)]) == {"s"}
    assert [r.id async for r in store.requests("s")] == ["id-1", "theirs"]


async def test_acknowledged_but_not_stripped(store: MongoStore, opened: Opens) -> None:
    faults = Faults(store)
    await done(store, create(), insert(1), insert(2), settle(1), settle(2))
    faults.fail(2, applied=False)
    with pytest.raises(StoreUnavailable):
        await store.commit([Acknowledge("s", 1, 1, 9)])
    assert (await documents(store, "requests"))[0]["ending"] == "done"
    rows = [r async for r in store.requests("s")]
    assert [(r.stripped, r.params) for r in rows] == [(True, None), (False, b"1")]
    assert await store.tally("s") == Tally(2, 0, 0, 0)
    await done(store, Acknowledge("s", 1, 1, 9))
    assert set((await documents(store, "requests"))[0]) == {"_id", "id", "digest", "accepted_ms"}


# ---- late writes


async def test_a_late_outcome_finds_nothing(store: MongoStore, opened: Opens) -> None:
    """Whether the row was stamped, settled by another, or stripped since."""
    await done(store, create(), *(insert(n) for n in range(1, 4)))
    late = store._owned.sessions["s"]
    await done(store, release())
    other = await opened("n2")
    assert await other.claim("s") is not None
    await done(other, settle(1, epoch=2, body=b"a"), settle(2, epoch=2, body=b"b"))
    await done(other, Acknowledge("s", 2, 1, 9))
    before = await documents(other, "requests")
    for n in range(1, 4):
        store._owned.sessions["s"] = late
        assert await store.commit([settle(n, body=b"late")]) == {"s"}
    assert await documents(other, "requests") == before


async def test_a_late_outcome_finds_nothing_after_two_claims(opened: Opens) -> None:
    """The rows bear the same try then: only the epoch tells them apart."""
    one, two, three = [await opened(f"n{n}") for n in (1, 2, 3)]
    await done(one, create(), insert(1), release())
    assert await two.claim("s") is not None
    late = two._owned.sessions["s"]
    await done(two, release(epoch=2))
    assert await three.claim("s") is not None
    before = await documents(three, "requests")
    two._owned.sessions["s"] = late
    assert await two.commit([settle(1, epoch=2, body=b"late")]) == {"s"}
    assert await documents(three, "requests") == before
    await done(three, settle(1, epoch=3))


async def test_a_late_confirmation_finds_nothing(store: MongoStore, opened: Opens) -> None:
    await done(store, create(), insert(1))
    late = store._owned.sessions["s"]
    await done(store, release())
    other = await opened("n2")
    assert await other.claim("s") is not None
    store._owned.sessions["s"] = late
    assert await store.commit([insert(2), Attach("s", 1, 9)]) == {"s"}
    found = await store.session("s")
    assert found is not None
    assert (found.accepted, found.attach, found.node) == (1, 1, "n2")


async def test_outcomes_of_a_stale_owner_leave_no_gap(store: MongoStore, opened: Opens) -> None:
    """The stamp goes from the highest down while they come from the lowest up."""
    await done(store, create(), *(insert(n) for n in range(1, 31)))
    late = store._owned.sessions["s"]
    await done(store, release())
    store._owned.sessions["s"] = late
    other = await opened("n2")
    claimed, _ = await asyncio.gather(
        other.claim("s"), store.commit([settle(n) for n in range(1, 31)])
    )
    assert claimed is not None
    endings = [r.ending for r in claimed.rows]
    assert endings == sorted(endings, key=lambda ending: ending is None)


async def test_many_claim_and_one_gets_it(opened: Opens) -> None:
    stores = [await opened(f"n{n}") for n in range(1, 5)]
    for round in range(5):
        s = f"s{round}"
        await done(stores[0], create(s), insert(1, s), release(s))
        claims = await asyncio.gather(*(store.claim(s) for store in stores))
        (winner,) = [n for n, claimed in enumerate(claims) if claimed is not None]
        await done(stores[winner], settle(1, s, epoch=2))


# ---- other tools, and errors


async def test_a_tool_joins_no_cluster_and_owns_nothing(store: MongoStore, opened: Opens) -> None:
    tool = await opened("cli", serving=False)
    assert [n.name for n in await store.neighbours()] == ["n1"]
    for call in (tool.commit([create()]), tool.claim("s"), tool.expire(1, 1)):
        with pytest.raises(StoreError, match="not open for serving"):
            await call


async def test_before_it_is_opened_it_says_so(mongo_uri: str) -> None:
    store = MongoStore(mongo_uri, serving=False)
    with pytest.raises(StoreError, match="not open"):
        await store.user("ann")


async def test_a_newer_format_is_left_alone(store: MongoStore, opened: Opens) -> None:
    formats = store._link.sessions.database["format"]
    await formats.update_one({"_id": "inorder"}, {"$set": {"version": 99}})
    with pytest.raises(StoreError, match=r"newer inorder \(format 99; this one knows 1\)"):
        await opened("n2")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("mongodb://host:port/x", "uri"),
        ("mongodb://us%er@host/x", "uri"),
        ("mongodb://", "uri"),
        ("mongodb://127.0.0.1/x?retryWrites=perhaps", "uri"),
    ],
)
async def test_a_wrong_uri_is_the_operators(uri: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as raised:
        await MongoStore(uri, lease=0.6).open("n1")
    assert "\n" not in str(raised.value)


# A client that is closed while it connects leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        store = MongoStore(f"mongodb://127.0.0.1:{port}/x", lease=0.6)
        with pytest.raises(StoreUnavailable, match=f"MongoDB 127.0.0.1:{port}/x: ") as raised:
            await store.open("n1")
    assert "\n" not in str(raised.value)
    await store.close()
    gc.collect()


def test_a_write_concern_error_says_nothing_of_duplicates() -> None:
    there = {"index": 1, "code": 11000, "errmsg": "E11000 duplicate"}
    late = {"code": 64, "errmsg": "waiting for replication timed out"}
    only = BulkWriteError({"writeErrors": [there], "writeConcernErrors": []})
    assert duplicates(only) == [1]
    both = BulkWriteError({"writeErrors": [there], "writeConcernErrors": [late]})
    assert duplicates(both) is None
    other = {"index": 0, "code": 10334, "errmsg": "too large"}
    assert duplicates(BulkWriteError({"writeErrors": [other], "writeConcernErrors": []})) is None
    assert isinstance(translated("MongoDB x", WriteConcernError("late", 64)), StoreUnavailable)


def test_who_is_not_let_in_reads_why() -> None:
    refused = pymongo.errors.OperationFailure("Authentication failed.", 18)
    opening = translated("MongoDB x", refused, opening=True)
    assert isinstance(opening, StoreError)
    assert "does not let this user in" in str(opening)
    # What ran before may run again: a password is set back, and no write is given up.
    assert isinstance(translated("MongoDB x", refused), StoreUnavailable)


async def test_users_and_commands_whose_answers_were_lost(
    store: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try takes effect, its answer does not come; it is made again."""
    for collection in (store._link.users, store._link.commands):
        _lose_first_answer(collection, monkeypatch)
    assert await store.add_user(User("ann", b"hash", 1, False, 5))
    assert not await store.add_user(User("ann", b"other", 1, False, 5))
    n = await store.post("drain", "n1", "", 5)
    assert [c.n for c in await store.commands(0)] == [n]


def _lose_first_answer(collection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    insert_one = collection.insert_one
    lost: list[bool] = []

    async def once(doc: Any) -> Any:
        answer = await insert_one(doc)
        if not lost:
            lost.append(True)
            raise pymongo.errors.AutoReconnect("cut")
        return answer

    # A collection makes attributes of all names up; this one is set.
    monkeypatch.setitem(collection.__dict__, "insert_one", once)
