"""What every store does alike: the port's docstrings and ownership.md, as tests.

Nothing here knows an adapter; the fixtures say which one it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import structs
from sqlite_makers import ended

from inorder.messages import Receipt
from inorder_server.stores.port import (
    Acknowledge,
    Attach,
    Create,
    End,
    Insert,
    MarkCancel,
    MarkStart,
    Outcome,
    Release,
    RequestRow,
    Settle,
    Store,
    Tally,
    User,
    Write,
)


def create(session: str = "s", node: str = "n1", user: str = "ann") -> Create:
    return Create(session, user, epoch=1, attach=1, node=node, at_ms=100)


def row(seq: int, **changes: object) -> RequestRow:
    made = RequestRow(seq, f"id-{seq}", b"digest", "echo", b'{"n":%d}' % seq, accepted_ms=200 + seq)
    return structs.replace(made, **changes)


def insert(seq: int, session: str = "s", epoch: int = 1, **changes: object) -> Insert:
    return Insert(session, epoch, [row(seq, **changes)])


def settle(
    seq: int, session: str = "s", epoch: int = 1, ending: str = "done", body: bytes | None = None
) -> Settle:
    body = b'"%d"' % seq if body is None else body
    return ended(session, epoch, seq, ending, body, 300 + seq)  # type: ignore[arg-type]


def receipt(session: str = "s", **counts: int) -> Receipt:
    numbers = {"accepted": 0, "done": 0, "failed": 0, "cancelled": 0, "pending": 0} | counts
    return Receipt(session, **numbers, verified=True)


def release(session: str = "s", epoch: int = 1, attach: int = 1, **changes: object) -> Release:
    made = Release(session, epoch, attach, None, True, False, receipt(session), at_ms=1000)
    return structs.replace(made, **changes)


def end(accepted: int, session: str = "s", epoch: int = 1) -> End:
    return End(session, epoch, accepted, receipt(session, accepted=accepted), at_ms=2000)


async def everything(store: Store, session: str = "s") -> object:
    """All that can be seen of a session."""
    return (
        await store.session(session),
        [r async for r in store.requests(session)],
        await store.tally(session),
        await store.outcomes(session, 0, 1 << 40, 1 << 40),
        await store.unfinished(),
    )


async def done(store: Store, *writes: Write) -> None:
    """Commits, and nothing is fenced."""
    assert await store.commit(writes) == set()


# ---- from acceptance to outcome


async def test_nothing_is_no_trouble(store: Store) -> None:
    assert await store.commit([]) == set()


async def test_a_session_begins_with_its_first_request(store: Store) -> None:
    assert await store.session("s") is None
    await done(store, create(), insert(1))
    found = await store.session("s")
    assert found is not None
    assert (found.id, found.user, found.epoch, found.attach, found.node) == ("s", "ann", 1, 1, "n1")
    assert (found.accepted, found.acked, found.state, found.open) == (1, 0, "live", True)
    assert (found.created_ms, found.left_ms, found.receipt) == (100, 100, None)
    assert (found.done, found.failed, found.cancelled) == (0, 0, 0)


async def test_a_request_is_kept_as_it_was_sent(store: Store) -> None:
    full = row(1, timeout=1.5, traceparent="00-ab-cd-01")
    bare = row(2, params=None, digest=b"\0\xff")
    await done(store, create(), Insert("s", 1, [full]), Insert("s", 1, [bare]))
    assert [r async for r in store.requests("s")] == [full, bare]


async def test_several_requests_of_a_session_in_one_write(store: Store) -> None:
    rows = [row(seq) for seq in range(1, 8)]
    ends = [settle(seq, ending=e).outcome for seq, e in enumerate(["done", "failed", "done"], 1)]
    group = [create(), Insert("s", 1, rows[:5]), Settle("s", 1, ends, 300)]
    await done(store, *group)
    # The same once more is in effect, whatever comes behind it.
    await done(store, *group, Insert("s", 1, rows[3:6]), Settle("s", 1, [settle(4).outcome], 301))
    assert await store.tally("s") == Tally(3, 1, 0, 2)
    assert await store.outcomes("s", 0, 3, 10_000) == ends
    found = [r async for r in store.requests("s")]
    assert [(r.id, r.settled_ms) for r in found] == [
        (f"id-{n}", at) for n, at in enumerate([300, 300, 300, 301, None, None], 1)
    ]


async def test_a_write_of_several_counts_up_to_the_one_that_does_not_match(store: Store) -> None:
    await done(store, create(), insert(1), insert(2), insert(3))
    outcomes = [settle(seq).outcome for seq in (1, 4)]
    assert await store.commit([Settle("s", 1, outcomes, 300), insert(4)]) == {"s"}
    assert await store.tally("s") == Tally(1, 0, 0, 2)
    assert await store.commit([Insert("s", 1, [row(4), row(6)]), settle(2)]) == {"s"}
    assert await store.tally("s") == Tally(1, 0, 0, 3)


@pytest.mark.parametrize("id", ["#17", "\0", "é\N{GRINNING FACE}", "'; DROP TABLE x", "x" * 64])
async def test_ids_are_any_text(store: Store, id: str) -> None:
    await done(store, create(), insert(1, id=id))
    assert [r.id async for r in store.requests("s")] == [id]


async def test_large_and_empty_bodies_come_back(store: Store) -> None:
    large = b"[" + b"1," * 200_000 + b"1]"
    await done(store, create(), insert(1, params=large), insert(2, params=b""))
    await done(store, settle(1, body=large), settle(2, body=b""))
    assert [(r.params, r.outcome) async for r in store.requests("s")] == [
        (large, large),
        (b"", b""),
    ]


@pytest.mark.parametrize("ending", ["done", "failed", "cancelled"])
async def test_an_outcome_is_recorded(store: Store, ending: str) -> None:
    await done(store, create(), insert(1))
    await done(store, settle(1, ending=ending, body=b"x"))
    (found,) = [r async for r in store.requests("s")]
    assert (found.ending, found.outcome, found.settled_ms) == (ending, b"x", 301)
    assert await store.outcomes("s", 0, 1, 100) == [Outcome(1, "id-1", ending, b"x")]  # type: ignore[arg-type]


async def test_a_group_is_applied_in_its_order(store: Store) -> None:
    await done(
        store,
        create(),
        insert(1),
        settle(1),
        insert(2),
        insert(3),
        settle(2, ending="failed"),
        Acknowledge("s", 1, 2, keep=10),
        settle(3, ending="cancelled"),
        release(),
    )
    assert await store.tally("s") == Tally(1, 1, 1, 0)
    found = await store.session("s")
    assert found is not None
    assert (found.accepted, found.acked, found.node) == (3, 2, None)


async def test_many_sessions_in_one_group(store: Store) -> None:
    names = [f"s{i}" for i in range(60)]
    await done(store, *[create(s) for s in names])
    await done(store, *[insert(n, s) for n in range(1, 21) for s in names])
    await done(
        store,
        *[w for s in names for n in range(1, 21) for w in (settle(n, s), insert(n + 20, s))],
    )
    for s in names:
        assert await store.tally(s) == Tally(20, 0, 0, 20)
        assert [r async for r in store.requests(s)] == [
            row(n, ending="done", outcome=b'"%d"' % n, settled_ms=300 + n) if n <= 20 else row(n)
            for n in range(1, 41)
        ]


# ---- fences


FENCED: list[tuple[str, Sequence[Write]]] = [
    ("an older epoch's insert", [insert(4, epoch=0)]),
    ("a later epoch's insert", [insert(4, epoch=2)]),
    ("an older epoch's settle", [settle(2, epoch=0)]),
    ("two epochs in a group", [insert(4, epoch=0), insert(4)]),
    ("an older epoch's cancel", [MarkCancel("s", 0, 2)]),
    ("an older epoch's start", [MarkStart("s", 0, 2, 5)]),
    ("an older epoch's acknowledgement", [Acknowledge("s", 0, 1, 10)]),
    ("an older epoch's attach", [Attach("s", 0, 7)]),
    ("an older epoch's release", [release(epoch=0)]),
    ("an older epoch's end", [end(3, epoch=0)]),
    ("a number left out", [insert(5)]),
    ("a number that another id has", [insert(2, id="other")]),
    ("a second outcome", [settle(1, body=b"other")]),
    ("a second ending", [settle(1, ending="failed")]),
    ("the outcome of what was not accepted", [settle(4)]),
    ("the cancel of what was not accepted", [MarkCancel("s", 1, 4)]),
    ("the start of what was not accepted", [MarkStart("s", 1, 4, 1)]),
    ("the start of what is settled", [MarkStart("s", 1, 1, 9)]),
    ("an acknowledgement of what is not settled", [Acknowledge("s", 1, 2, 10)]),
    ("an acknowledgement of what was not accepted", [Acknowledge("s", 1, 9, 10)]),
    ("an older connection's release", [release(attach=0)]),
    ("an end that knows not all", [end(2)]),
    ("another's session made again", [create(user="bob")]),
    ("another node's create", [create("t", node="n2")]),
    ("no such session's insert", [insert(1, "nobody")]),
    ("no such session's settle", [settle(1, "nobody")]),
    ("no such session's attach", [Attach("nobody", 1, 1)]),
    ("no such session's end", [end(0, "nobody")]),
]


@pytest.mark.parametrize(("writes"), [w for _, w in FENCED], ids=[name for name, _ in FENCED])
async def test_what_does_not_match_is_fenced_and_changes_nothing(
    store: Store, writes: Sequence[Write]
) -> None:
    await done(store, create(), insert(1), insert(2), insert(3), settle(1))
    await done(store, create("innocent"), insert(1, "innocent"))
    before = await everything(store)
    session = writes[0].session
    for _ in range(2):
        assert await store.commit([*writes, insert(2, "innocent")]) == {session}
        assert await everything(store) == before
        assert await store.tally("innocent") == Tally(0, 0, 0, 2)


async def test_what_came_before_the_mismatch_holds_and_what_came_after_does_not(
    store: Store,
) -> None:
    await done(store, create(), insert(1), insert(2))
    group = [insert(3), settle(1), settle(2), settle(1, body=b"no"), insert(4), settle(3)]
    for _ in range(2):
        assert await store.commit(group) == {"s"}
        assert await store.tally("s") == Tally(2, 0, 0, 1)


async def test_fenced_sessions_fail_alone(store: Store) -> None:
    names = [f"s{i}" for i in range(30)]
    await done(store, *[w for s in names for w in (create(s), insert(1, s))])
    stale = set(names[::3])
    group = [w for s in names for w in (settle(1, s, epoch=0 if s in stale else 1), insert(2, s))]
    assert await store.commit(group) == stale
    for s in names:
        assert await store.tally(s) == (Tally(0, 0, 0, 1) if s in stale else Tally(1, 0, 0, 1))


async def test_a_claim_fences_the_epoch_before(store: Store) -> None:
    await done(store, create(), insert(1))
    claimed = await store.claim("s")
    assert claimed is not None
    assert claimed.session.epoch == 2
    assert await store.commit([settle(1)]) == {"s"}
    await done(store, settle(1, epoch=2))


async def test_a_released_session_takes_no_more(store: Store) -> None:
    await done(store, create(), insert(1), release())
    assert await store.commit([settle(1)]) == {"s"}
    assert await store.commit([insert(2)]) == {"s"}
    assert await store.tally("s") == Tally(0, 0, 0, 1)


async def test_an_ended_session_takes_no_more(store: Store) -> None:
    await done(store, create(), insert(1), settle(1), end(1))
    for late in (insert(2), settle(1), Attach("s", 1, 2), create(), release(), end(2)):
        assert await store.commit([late]) == {"s"}
    assert await store.claim("s") is None


# ---- the same call again


REPEATED: list[Sequence[Write]] = [
    [create("t"), insert(1, "t"), insert(2, "t")],
    [insert(4)],
    [insert(4), settle(2)],
    [settle(2), settle(3), insert(4), settle(4)],
    [MarkCancel("s", 1, 2)],
    [MarkCancel("s", 1, 2), settle(2, ending="cancelled")],
    [MarkStart("s", 1, 2, 3)],
    [MarkStart("s", 1, 2, 3), settle(2)],
    [Acknowledge("s", 1, 1, 0)],
    [settle(2), Acknowledge("s", 1, 2, 1)],
    [insert(4), settle(2), settle(3), settle(4), Acknowledge("s", 1, 4, 2)],
    [Attach("s", 1, 4)],
    [release()],
    [Attach("s", 1, 2), insert(4), settle(2), release(attach=2, clean=False, open=True)],
    [insert(4), release(), create("t"), insert(1, "t")],
    [settle(2), settle(3), Acknowledge("s", 1, 3, 9), end(3)],
    [end(3)],
]


@pytest.mark.parametrize("group", REPEATED, ids=str)
async def test_a_repeated_call_changes_nothing_and_says_the_same(
    store: Store, group: Sequence[Write]
) -> None:
    await done(store, create(), insert(1), insert(2), insert(3), settle(1))
    await done(store, *group)
    before = await everything(store), await everything(store, "t")
    await done(store, *group)
    assert (await everything(store), await everything(store, "t")) == before


async def test_writes_repeated_one_by_one(store: Store) -> None:
    await done(store, create(), insert(1), insert(2), settle(1), settle(2))
    await done(store, Acknowledge("s", 1, 1, 5), Attach("s", 1, 3))
    before = await everything(store)
    for again in (
        create(),
        insert(1),
        insert(2),
        settle(1),
        settle(2),
        Acknowledge("s", 1, 1, 0),
        Acknowledge("s", 1, 0, 0),
        MarkStart("s", 1, 1, 1),
        MarkCancel("s", 1, 2),
        Attach("s", 1, 2),
    ):
        await done(store, again)
        assert await everything(store) == before, again


async def test_a_release_that_was_claimed_since_is_fenced(store: Store) -> None:
    await done(store, create(), insert(1), release())
    assert await store.claim("s") is not None
    assert await store.commit([release()]) == {"s"}


# ---- marks


async def test_marks_stay_with_the_request(store: Store) -> None:
    await done(store, create(), insert(1), insert(2))
    await done(store, MarkStart("s", 1, 1, 2), MarkCancel("s", 1, 2))
    claimed = await store.claim("s")
    assert claimed is not None
    assert [(r.attempt, r.cancel) for r in claimed.rows] == [(2, False), (0, True)]


# ---- acknowledging


async def test_what_is_acknowledged_is_tallied_and_stripped(store: Store) -> None:
    await done(store, create(), *[insert(n, timeout=1.0, traceparent="t") for n in range(1, 7)])
    endings = ["done", "failed", "cancelled", "done", "done"]
    await done(store, *[settle(n, ending=e) for n, e in enumerate(endings, 1)])
    await done(store, Acknowledge("s", 1, 4, keep=2))
    found = await store.session("s")
    assert found is not None
    assert (found.acked, found.done, found.failed, found.cancelled) == (4, 2, 1, 1)
    assert await store.tally("s") == Tally(3, 1, 1, 1)
    rows = [r async for r in store.requests("s")]
    assert [(r.seq, r.stripped) for r in rows] == [(3, True), (4, True), (5, False), (6, False)]
    for r in rows[:2]:
        assert (r.id, r.digest) == (f"id-{r.seq}", b"digest")
        assert (r.params, r.outcome, r.ending, r.settled_ms) == (None, None, None, None)
        assert (r.timeout, r.traceparent, r.cancel) == (None, None, False)
    assert [o.seq for o in await store.outcomes("s", 0, 9, 999)] == [5]
    await done(store, settle(6), Acknowledge("s", 1, 6, keep=0))
    assert [r async for r in store.requests("s")] == []
    assert await store.tally("s") == Tally(4, 1, 1, 0)


async def test_acknowledging_keeps_the_number_of_rows_bounded(store: Store) -> None:
    await done(store, create())
    for n in range(1, 60):
        await done(store, insert(n), settle(n), Acknowledge("s", 1, n, keep=5))
    assert [r.seq async for r in store.requests("s")] == [55, 56, 57, 58, 59]
    assert await store.tally("s") == Tally(59, 0, 0, 0)


# ---- outcomes


async def test_outcomes_come_in_order_within_bounds(store: Store) -> None:
    await done(store, create(), *[insert(n) for n in range(1, 10)])
    await done(store, *[settle(n, body=b"x" * 10) for n in range(1, 8)])

    async def seqs(after: int, upto: int, max_bytes: int) -> list[int]:
        return [o.seq for o in await store.outcomes("s", after, upto, max_bytes)]

    assert await seqs(0, 100, 1000) == [1, 2, 3, 4, 5, 6, 7]
    assert await seqs(2, 5, 1000) == [3, 4, 5]
    assert await seqs(0, 100, 30) == [1, 2, 3]
    assert await seqs(0, 100, 39) == [1, 2, 3]
    assert await seqs(3, 100, 1) == [4]
    assert await seqs(7, 100, 1000) == []
    assert await store.outcomes("nobody", 0, 100, 1000) == []


# ---- claims


async def test_a_claim_brings_what_is_left(store: Store) -> None:
    await done(store, create(), *[insert(n, timeout=2.0) for n in range(1, 5)])
    await done(store, settle(1), settle(2), settle(3), Acknowledge("s", 1, 1, keep=5))
    await done(store, release(clean=True, open=True, at_ms=777))
    assert await store.unfinished() == ["s"]
    claimed = await store.claim("s")
    assert claimed is not None
    assert claimed.was_clean
    s = claimed.session
    assert (s.epoch, s.node, s.clean, s.accepted, s.acked) == (2, "n1", False, 4, 1)
    assert (s.left_ms, s.receipt) == (777, receipt())
    assert [(r.seq, r.stripped, r.ending) for r in claimed.rows] == [
        (1, True, None),
        (2, False, "done"),
        (3, False, "done"),
        (4, False, None),
    ]
    assert all(r.params is None and r.outcome is None for r in claimed.rows[:3])
    assert claimed.rows[3] == row(4, timeout=2.0)
    assert await store.unfinished() == []
    assert await store.session("s") == s


async def test_a_claim_again_by_the_same_node_raises_the_epoch(store: Store) -> None:
    await done(store, create(), insert(1))
    first, second = await store.claim("s"), await store.claim("s")
    assert first is not None
    assert second is not None
    assert (first.session.epoch, second.session.epoch) == (2, 3)
    assert not second.was_clean


async def test_there_is_nothing_to_claim(store: Store) -> None:
    assert await store.claim("nobody") is None


async def test_a_dead_owners_sessions_are_free(store: Store, database: Any) -> None:
    await done(store, create("work"), insert(1, "work"))
    await done(store, create("held"), insert(1, "held"), release("held", clean=False))
    await done(store, create("clean"), insert(1, "clean"), release("clean", open=True))
    await database.die(store)
    other = await database.open("n2")
    assert sorted(await other.unfinished()) == ["clean", "work"]
    claims = {s: await other.claim(s) for s in ("work", "held", "clean")}
    assert {s: c.was_clean for s, c in claims.items()} == {
        "work": False,
        "held": False,
        "clean": True,
    }
    for s, c in claims.items():
        assert (c.session.epoch, c.session.node) == (2, "n2")
        assert [r.seq for r in c.rows] == [1]
        await done(other, settle(1, s, epoch=2))


async def test_what_was_accepted_survives_a_death(store: Store, database: Any) -> None:
    await done(store, create(), insert(1), insert(2), settle(1), Attach("s", 1, 5))
    seen = [r async for r in store.requests("s")], await store.tally("s")
    await database.die(store)
    other = await database.open("n2")
    assert ([r async for r in other.requests("s")], await other.tally("s")) == seen
    found = await other.session("s")
    assert found is not None
    assert found.attach == 5


# ---- ends


async def test_an_end_keeps_the_receipt_and_the_tally(store: Store) -> None:
    await done(store, create(), *[insert(n) for n in range(1, 4)])
    await done(store, settle(1), settle(2, ending="failed"), settle(3, ending="cancelled"))
    await done(store, Acknowledge("s", 1, 1, keep=5), end(3))
    found = await store.session("s")
    assert found is not None
    assert (found.state, found.node, found.open) == ("ended", None, False)
    assert (found.left_ms, found.receipt) == (2000, receipt(accepted=3))
    assert (found.accepted, found.done, found.failed, found.cancelled) == (3, 1, 1, 1)
    assert await store.tally("s") == Tally(1, 1, 1, 0)
    assert [r async for r in store.requests("s")] == []
    assert await store.unfinished() == []


async def test_the_tally_of_nobody_is_nothing(store: Store) -> None:
    assert await store.tally("nobody") == Tally(0, 0, 0, 0)
    assert [r async for r in store.requests("nobody")] == []


# ---- expiry


async def gone(store: Store, session: str) -> bool:
    found = await store.session(session)
    return found is None or found.state == "gone"


async def test_sessions_without_owner_and_work_expire(store: Store) -> None:
    old = {"at_ms": 999}
    await done(store, create("owned"), insert(1, "owned"), settle(1, "owned"))
    await done(store, create("open"), insert(1, "open"), release("open", open=True, **old))
    await done(store, create("held"), insert(1, "held"), release("held", **old))
    for s, at_ms in (("old", 999), ("young", 1000)):
        await done(
            store, create(s), insert(1, s), insert(2, s), settle(1, s), settle(2, s),
            Acknowledge(s, 1, 1, keep=9), release(s, at_ms=at_ms),
        )  # fmt: skip
    assert await store.expire(1000, 0) == ["old"]
    assert await gone(store, "old")
    assert await store.claim("old") is None
    assert [r async for r in store.requests("old")] == []
    for s in ("owned", "open", "held", "young"):
        assert not await gone(store, s), s
        assert [r.seq async for r in store.requests(s)]
    assert await store.expire(1000, 0) == []


async def test_ended_sessions_are_forgotten_in_time(store: Store) -> None:
    for s in ("a", "b"):
        await done(store, create(s), insert(1, s), settle(1, s), end(1, s))
    await done(store, create("c"), insert(1, "c"))
    assert await store.expire(9999, 2000) == []
    assert not await gone(store, "a")
    assert await store.expire(0, 2001) == []
    assert [s.id for s in await store.sessions() if s.state != "gone"] == ["c"]


async def test_many_expire(store: Store) -> None:
    names = {f"s{i}" for i in range(130)}
    for s in names:
        await done(store, create(s), insert(1, s), settle(1, s), release(s))
    assert set(await store.expire(1001, 0)) == names
    # What is gone leaves no number behind that a new session could stumble over.
    await done(store, create("new"), insert(1, "new"))
    assert await store.tally("new") == Tally(0, 0, 0, 1)


# ---- listing


async def test_sessions_are_listed_newest_first(store: Store) -> None:
    for i, s in enumerate("abc"):
        await done(store, structs.replace(create(s), at_ms=100 + i), insert(1, s))
    await done(store, settle(1, "b"), end(1, "b"))
    assert [(s.id, s.state) for s in await store.sessions()] == [
        ("c", "live"),
        ("b", "ended"),
        ("a", "live"),
    ]


async def test_requests_are_read_in_portions(store: Store) -> None:
    await done(store, create(), *[insert(n) for n in range(1, 1301)])
    await done(store, create("t"), insert(1, "t"))
    assert [r.seq async for r in store.requests("s")] == list(range(1, 1301))
    assert [r.seq async for r in store.requests("s", after=1290)] == list(range(1291, 1301))
    assert [r async for r in store.requests("s", after=1300)] == []


async def test_large_requests_are_read_in_portions(store: Store) -> None:
    body = b"x" * 300_000
    await done(store, create(), *[insert(n, params=body) for n in range(1, 11)])
    assert [r.seq async for r in store.requests("s")] == list(range(1, 11))


# ---- users


def user(name: str, **changes: object) -> User:
    return structs.replace(User(name, b"hash", 1, False, 5), **changes)


async def test_a_name_is_taken_once(store: Store) -> None:
    assert await store.add_user(user("ann", admin=True))
    assert not await store.add_user(user("ann", password_hash=b"other"))
    assert await store.user("ann") == user("ann", admin=True)
    assert await store.user("Ann") is None


async def test_users_are_listed_by_name(store: Store) -> None:
    for name in ("bob", "ann"):
        assert await store.add_user(user(name))
    assert [u.name for u in await store.users()] == ["ann", "bob"]


async def test_a_new_password_and_a_revocation_raise_the_generation(store: Store) -> None:
    await store.add_user(user("ann"))
    await store.add_user(user("bob"))
    assert await store.set_password("ann", b"new")
    assert await store.user("ann") == user("ann", password_hash=b"new", generation=2)
    assert await store.revoke("ann")
    assert await store.user("ann") == user("ann", password_hash=b"new", generation=3)
    assert await store.user("bob") == user("bob")


async def test_a_deleted_user_is_gone(store: Store) -> None:
    await store.add_user(user("ann"))
    assert await store.delete_user("ann")
    assert await store.user("ann") is None
    assert not await store.delete_user("ann")
    assert not await store.set_password("ann", b"x")
    assert not await store.revoke("ann")


# ---- commands


async def test_commands_are_read_by_number(store: Store) -> None:
    assert await store.last_command() == 0
    assert await store.commands(0) == []
    first = await store.post("revoke", "ann", "", 1000)
    second = await store.post("retry", "s", "17", 1001)
    assert second > first > 0
    assert await store.last_command() == second
    assert [(c.n, c.verb, c.target, c.argument, c.created_ms) for c in await store.commands(0)] == [
        (first, "revoke", "ann", "", 1000),
        (second, "retry", "s", "17", 1001),
    ]
    assert [c.n for c in await store.commands(first)] == [second]
    assert await store.commands(second) == []


async def test_old_commands_are_swept_and_their_numbers_not_used_again(store: Store) -> None:
    first = await store.post("drain", "n1", "", 1000)
    later = await store.post("drain", "n1", "", 1000 + 3_600_001)
    assert [c.n for c in await store.commands(0)] == [later]
    assert later > first


# ---- open and close


async def test_closing_twice_is_no_trouble(store: Store) -> None:
    assert store.name
    await store.close()
    await store.close()
