"""Runs: what shares a row of the SQLite file, and what becomes of one that is used in part."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlite_makers import ended

from inorder_server.stores.port import (
    Acknowledge,
    Create,
    Damaged,
    Insert,
    MarkCancel,
    MarkStart,
    Outcome,
    RequestRow,
    Tally,
    Write,
)
from inorder_server.stores.sqlite import SqliteStore
from inorder_server.stores.sqlite_rows import PORTION_ROWS
from inorder_server.verify import audit


def row(seq: int, size: int = 1) -> RequestRow:
    return RequestRow(seq, f"id-{seq}", b"digest", "echo", b"1" * size, 100 + seq, 1.5, "trace")


def insert(first: int, last: int, size: int = 1) -> list[Write]:
    return [Insert("s", 1, [row(seq, size)]) for seq in range(first, last + 1)]


def settle(first: int, last: int, size: int = 1) -> list[Write]:
    return [ended("s", 1, seq, "done", b"2" * size, 200 + seq) for seq in range(first, last + 1)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "inorder.db")
    await store.open("n1")
    assert await store.commit([Create("s", "ann", 1, 1, "n1", 1)]) == set()
    yield store
    assert (await audit(store)).findings == []
    await store.close()


async def done(store: SqliteStore, writes: Sequence[Write]) -> None:
    assert await store.commit(writes) == set()
    await store._caught_up()


async def runs(store: SqliteStore, table: str = "runs") -> list[tuple[int, ...]]:
    """The kind (0 or 1) and the length of each, in order."""
    kind = "key & 1, " if table == "runs" else ""

    def ask(db: sqlite3.Connection) -> Any:
        return db.execute(f"SELECT {kind}count FROM {table} ORDER BY key").fetchall()

    return list(await store._write.call(ask))


async def test_a_run_is_bounded_in_rows(store: SqliteStore) -> None:
    await done(store, insert(1, 600))
    await done(store, settle(1, 513))
    assert await runs(store) == [(0, 256), (1, 256), (0, 256), (1, 256), (0, 88), (1, 1)]
    assert [r async for r in store.requests("s", 598)] == [row(599), row(600)]
    assert await store.tally("s") == Tally(513, 0, 0, 87)


async def test_a_run_is_bounded_in_bytes_and_a_large_request_alone(store: SqliteStore) -> None:
    sizes = [10, 10, 40_000, 30_000, 70_000, 10, 65_536, 1, 200_000]
    await done(store, [Insert("s", 1, [row(n, size)]) for n, size in enumerate(sizes, 1)])
    assert await runs(store) == [(0, 3), (0, 1), (0, 1), (0, 1), (0, 1), (0, 1), (0, 1)]
    ends: list[Write] = [ended("s", 1, n, "done", b"2" * s, 9) for n, s in enumerate(sizes, 1)]
    await done(store, ends)
    rows = [r async for r in store.requests("s")]
    assert [(len(r.params or b""), len(r.outcome or b"")) for r in rows] == [
        (size, size) for size in sizes
    ]
    found = await store.outcomes("s", 0, 99, 1 << 30)
    assert [len(o.body) for o in found] == sizes
    assert [o.seq for o in await store.outcomes("s", 2, 99, 75_000)] == [3, 4]


async def test_requests_and_outcomes_need_not_be_cut_alike(store: SqliteStore) -> None:
    await done(store, insert(1, 3))
    await done(store, [*insert(4, 9), *settle(1, 1)])
    await done(store, settle(2, 8))
    expected = [Outcome(n, f"id-{n}", "done", b"2") for n in range(1, 9)]
    assert await store.outcomes("s", 0, 99, 99) == expected
    for after in range(9):
        for upto in range(after, 9):
            found = await store.outcomes("s", after, upto, 99)
            assert found == expected[after:upto], (after, upto)
    assert await store.tally("s") == Tally(8, 0, 0, 1)


async def test_a_run_goes_when_all_of_it_is_acknowledged(store: SqliteStore) -> None:
    await done(store, [*insert(1, 6), *settle(1, 4)])
    await done(store, [MarkCancel("s", 1, 5), MarkStart("s", 1, 5, 2)])
    assert await runs(store) == [(0, 6), (1, 4)]
    await done(store, [Acknowledge("s", 1, 3, 2)])
    # It stays, and nobody sees what of it is acknowledged, save those just forgotten.
    assert await runs(store) == [(0, 6), (1, 4)]
    rows = [r async for r in store.requests("s")]
    assert [(r.seq, r.stripped, r.method) for r in rows] == [
        (2, True, ""), (3, True, ""), (4, False, "echo"), (5, False, "echo"), (6, False, "echo"),
    ]  # fmt: skip
    assert [o.seq for o in await store.outcomes("s", 0, 9, 999)] == [4]
    assert await store.tally("s") == Tally(4, 0, 0, 2)
    await done(store, [Acknowledge("s", 1, 4, 2)])
    assert await runs(store) == [(0, 6)]
    await done(store, [*settle(5, 6), Acknowledge("s", 1, 6, 4)])
    assert await runs(store) == []
    assert await runs(store, "stripped") == [(6,)]
    assert await store._write.call(lambda db: db.execute("SELECT * FROM marks").fetchall()) == []
    # The lower ones stay forgotten, though more may be kept now.
    assert [r.seq async for r in store.requests("s")] == [3, 4, 5, 6]
    await done(store, [*insert(7, 7), *settle(7, 7), Acknowledge("s", 1, 7, 1)])
    assert await runs(store, "stripped") == [(1,)]
    assert await store.tally("s") == Tally(7, 0, 0, 0)


async def test_a_claim_of_a_run_in_three_states(store: SqliteStore) -> None:
    await done(store, [*insert(1, 6), *settle(1, 4), MarkStart("s", 1, 5, 3)])
    await done(store, [Acknowledge("s", 1, 2, 1)])
    claimed = await store.claim("s")
    assert claimed is not None
    assert [(r.seq, r.stripped, r.ending) for r in claimed.rows] == [
        (2, True, None), (3, False, "done"), (4, False, "done"), (5, False, None), (6, False, None),
    ]  # fmt: skip
    assert [r.params for r in claimed.rows] == [None, None, None, b"1", b"1"]
    assert [r.attempt for r in claimed.rows] == [0, 0, 0, 3, 0]
    assert [(r.id, r.timeout) for r in claimed.rows[3:]] == [("id-5", 1.5), ("id-6", 1.5)]


@pytest.mark.parametrize("seq", [1, 2, 3, 4, 5, 6, 7])
async def test_a_repeat_is_found_wherever_it_is(store: SqliteStore, seq: int) -> None:
    """Forgotten, stripped, in a run that lies across what is acknowledged, and behind it."""
    await done(store, [*insert(1, 3), *settle(1, 2)])
    await done(store, [*insert(4, 7), *settle(3, 7)])
    await done(store, [Acknowledge("s", 1, 4, 3)])
    before = [r async for r in store.requests("s")]
    await done(store, insert(seq, seq))
    await done(store, settle(seq, seq))
    other = row(seq)
    other.id = "other"
    # What is forgotten can't be told apart.
    fenced = set() if seq == 1 else {"s"}
    assert await store.commit([Insert("s", 1, [other])]) == fenced
    wrong = ended("s", 1, seq, "failed", b"2", 9)
    assert await store.commit([wrong]) == (set() if seq <= 4 else {"s"})
    assert [r async for r in store.requests("s")] == before


async def test_portions_end_anywhere_in_a_run(store: SqliteStore) -> None:
    last = 2 * PORTION_ROWS + 70
    await done(store, insert(1, last))
    await done(store, settle(1, last - 100))
    await done(store, [Acknowledge("s", 1, 300, 200)])
    assert [r.seq async for r in store.requests("s")] == list(range(101, last + 1))
    for after in (0, 99, 101, 256, 257, 300, 301, 512, last - 1, last, last + 9):
        seqs = [r.seq async for r in store.requests("s", after)]
        assert seqs == list(range(max(after, 100) + 1, last + 1)), after
    assert [o.seq for o in await store.outcomes("s", 0, last, 50)] == list(range(301, 351))


@pytest.mark.parametrize(
    ("column", "blob"),
    [("bodies", b""), ("bodies", b"\x90"), ("head", b"\x91\x01"), ("head", 7)],
)
async def test_a_run_that_contradicts_itself_is_a_finding(
    store: SqliteStore, column: str, blob: bytes | int
) -> None:
    await done(store, insert(1, 2))
    await done(store, [Create("other", "ann", 1, 1, "n1", 1)])
    (number,) = await asked(store, "SELECT key FROM runs")
    (before,) = await asked(store, f"SELECT {column} FROM runs")
    await asked(store, f"UPDATE runs SET {column} = ?", blob)
    report = await audit(store)
    assert len(report.findings) == 1
    assert report.findings[0].startswith("s: a row can't be read: ")
    assert (report.sessions, report.moving) == (2, 0), "the others are looked at as well"
    with pytest.raises(Damaged, match="a row can't be read"):
        await store.claim("s")
    await asked(store, f"UPDATE runs SET {column} = ? WHERE key = ?", before, number)
    claimed = await store.claim("s")
    assert claimed is not None
    assert [r.seq for r in claimed.rows] == [1, 2]


async def asked(store: SqliteStore, query: str, *values: Any) -> list[Any]:
    """The first column of what a statement finds."""

    def ask(db: sqlite3.Connection) -> Any:
        return [found[0] for found in db.execute(query, values)]

    return await store._write.call(ask)
