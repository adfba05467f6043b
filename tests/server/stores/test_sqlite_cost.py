"""What the SQLite adapter costs: statements a group, the file, and how either grows."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlite_makers import create, in_writer, insert, settle

from inorder.messages import Receipt
from inorder_server.stores import sqlite as adapter
from inorder_server.stores import sqlite_log, sqlite_rare
from inorder_server.stores.port import (
    Acknowledge,
    Attach,
    End,
    MarkCancel,
    MarkStart,
    Write,
)
from inorder_server.stores.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inorder.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, busy_ms=50)
    await store.open("n1")
    yield store
    await store.close()


class Noted:
    """A connection whose statements are noted; what a trigger does is done within its own."""

    def __init__(self, db: sqlite3.Connection, seen: list[str]) -> None:
        self._db = db
        self._seen = seen

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        self._seen.append(statement)
        return self._db.execute(statement, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


@contextmanager
def replaced(store: SqliteStore, prepared: Callable[[sqlite3.Connection], Any]) -> Iterator[None]:
    """What the writer and the reader do meanwhile gets what ``prepared`` makes of theirs."""
    calls = {thread: thread.call for thread in (store._write, store._read)}
    for thread, call in calls.items():

        async def run(do: Any, *args: Any, call: Any = call) -> Any:
            return await call(lambda db: do(prepared(db), *args))

        thread.call = run  # type: ignore[method-assign]
    yield
    for thread, call in calls.items():
        thread.call = call  # type: ignore[method-assign]


@contextmanager
def statements(store: SqliteStore) -> Iterator[list[str]]:
    """The statements that are run meanwhile."""
    seen: list[str] = []
    with replaced(store, lambda db: Noted(db, seen)):
        yield seen


async def test_a_group_costs_a_handful_of_statements(store: SqliteStore) -> None:
    names = [f"s{i}" for i in range(50)]
    with statements(store) as seen:
        assert await store.commit([create(s) for s in names]) == set()
        assert len(seen) <= 5
        seen.clear()
        assert await store.commit([insert(n, s) for n in range(1, 17) for s in names]) == set()
        assert len(seen) <= 6
        seen.clear()
        group: list[Write] = [settle(n, s) for n in range(1, 17) for s in names]
        group += [insert(n, s) for n in range(17, 33) for s in names]
        group += [Acknowledge(s, 1, 16, 4) for s in names]
        assert await store.commit(group) == set()
        assert len(seen) <= 12


async def test_an_unusual_write_costs_the_others_nothing(store: SqliteStore) -> None:
    names = [f"s{i}" for i in range(50)]
    assert await store.commit([w for s in names for w in (create(s), insert(1, s))]) == set()
    with statements(store) as seen:
        group: list[Write] = [w for s in names for w in (settle(1, s), insert(2, s))]
        assert await store.commit([*group, MarkCancel("s7", 1, 2)]) == set()
    assert len(seen) <= 15


async def test_what_is_committed_together_shares_a_row(store: SqliteStore) -> None:
    names = [f"s{i}" for i in range(50)]
    assert await store.commit([create(s) for s in names]) == set()
    # However they come among each other.
    await store.commit([insert(n, s) for n in range(1, 17) for s in names])
    await store.commit([settle(n, s) for s in names for n in range(1, 17)])
    await store._caught_up()
    assert await in_writer(store, "SELECT count(*), sum(count) FROM runs") == [(100, 1600)]


async def test_the_file_stops_growing_where_all_is_acknowledged(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_log, "_MOST_GROUPS", 5)
    assert await store.commit([create()]) == set()
    sizes = []
    for start in range(0, 6000, 200):
        numbers = range(start + 1, start + 201)
        await store.commit([insert(n, body=b"x" * 100) for n in numbers])
        await store.commit([settle(n, body=b"x" * 100) for n in numbers])
        assert await store.commit([Acknowledge("s", 1, start + 200, 100)]) == set()
        ((pages,),) = await in_writer(store, "PRAGMA page_count")
        sizes.append(pages)
    assert max(sizes) <= sizes[5] + 2


async def test_the_log_is_copied_beside_the_commits(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "_CHECKPOINT_PAGES", 50)
    assert await store.commit([create()]) == set()
    for n in range(1, 400):
        assert await store.commit([insert(n, body=b"x" * 4000)]) == set()
        if store._checkpoint is not None:
            await store._checkpoint
    assert path.with_name("inorder.db-wal").stat().st_size < 400 * 4096


async def test_a_checkpoint_that_fails_is_made_up_for(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(adapter, "_CHECKPOINT_PAGES", 1)
    monkeypatch.setattr(sqlite_rare, "checkpoint", fail)
    assert await store.commit([create()]) == set()
    assert await store.commit([insert(1)]) == set()
    assert store._checkpoint is not None
    await store._checkpoint
    assert await store.commit([settle(1)]) == set()


# ---- growth: operations are counted, not seconds

_FEW, _MANY = 20, 2000


async def fill(store: SqliteStore, session: str, requests: int, outcomes: int) -> None:
    """A session with so many requests, and outcomes of the first of them."""
    assert await store.commit([create(session)]) == set()
    assert await store.commit([insert(n, session) for n in range(1, requests + 1)]) == set()
    assert await store.commit([settle(n, session) for n in range(1, outcomes + 1)]) == set()
    await store._caught_up()


async def cost(store: SqliteStore, do: Callable[[], Awaitable[object]]) -> int:
    """How many instructions SQLite's machine runs for it, in the writer and the reader."""
    count = 0

    def one() -> None:
        nonlocal count
        count += 1

    def counted(db: sqlite3.Connection) -> sqlite3.Connection:
        db.set_progress_handler(one, 1)
        return db

    with replaced(store, counted):
        await do()
    with replaced(store, lambda db: db.set_progress_handler(None, 1)):
        for thread in (store._write, store._read):
            await thread.call(lambda _: None)
    assert count > 0
    return count


async def test_a_commit_costs_the_same_with_many_outcomes_kept(store: SqliteStore) -> None:
    costs = []
    for s, last in (("few", _FEW), ("many", _MANY)):
        await fill(store, s, last, last)
        await fill(store, f"behind {s}", last, last)

        async def again(s: str = s, last: int = last) -> None:
            assert await store.commit([insert(last + 1, s), insert(last + 2, s)]) == set()
            assert await store.commit([settle(last + 1, s), MarkStart(s, 1, last + 2, 2)]) == set()
            assert await store.commit([settle(last + 2, s), MarkCancel(s, 1, last + 2)]) == set()
            assert await store.commit([Acknowledge(s, 1, 5, 1000)]) == set()
            assert await store.commit([Acknowledge(s, 1, 10, 5)]) == set()

        costs.append(await cost(store, again))
    assert costs[0] == costs[1]


async def test_a_commit_costs_the_same_with_a_long_queue(store: SqliteStore) -> None:
    costs = []
    for s, last in (("few", _FEW), ("many", _MANY)):
        await fill(store, s, last, 5)
        await fill(store, f"behind {s}", last, last)

        async def again(s: str = s, last: int = last) -> None:
            group: list[Write] = [insert(last + 1, s), settle(6, s), MarkStart(s, 1, 7, 2)]
            assert await store.commit([*group, Acknowledge(s, 1, 4, 1000)]) == set()
            # Told again, and so done one by one.
            assert await store.commit(group) == set()

        costs.append(await cost(store, again))
    assert costs[0] == costs[1]


async def test_a_session_costs_what_it_has(store: SqliteStore) -> None:
    """To take it up, to count it or to read its outcomes: whatever others have."""

    async def look() -> None:
        claimed = await store.claim("mine")
        assert claimed is not None
        assert len(claimed.rows) == _FEW
        assert (await store.tally("mine")).pending == _FEW - 5
        assert len(await store.outcomes("mine", 0, _FEW, 1 << 20)) == 5
        assert len([row async for row in store.requests("mine")]) == _FEW

    await fill(store, "before", _FEW, _FEW)
    await fill(store, "mine", _FEW, 5)
    await fill(store, "behind", 1, 1)
    alone = await cost(store, look)
    await fill(store, "far behind", _MANY, _MANY // 2)
    assert await cost(store, look) == alone


async def test_claims_that_are_asked_for_together_are_one_commit(store: SqliteStore) -> None:
    names = [f"s{n}" for n in range(40)]
    assert await store.commit([w for s in names for w in (create(s), insert(1, s))]) == set()
    await store._caught_up()
    with statements(store) as seen:
        claimed = await asyncio.gather(*(store.claim(s) for s in [*names, "nobody"]))
    assert [c and c.session.id for c in claimed] == [*names, None]
    assert seen.count("BEGIN IMMEDIATE") == 1
    # One that comes later is not forgotten.
    again = await store.claim("s7")
    assert again is not None
    assert again.session.epoch == 3


async def test_outcomes_cost_what_fits(store: SqliteStore) -> None:
    # More than one run of them either way.
    await fill(store, "few", 600, 600)
    few = await cost(store, lambda: store.outcomes("few", 2, _MANY, 10))
    await fill(store, "many", _MANY, _MANY)
    assert await cost(store, lambda: store.outcomes("many", 2, _MANY, 10)) == few


async def test_nothing_usual_scans_a_table_or_sorts(store: SqliteStore) -> None:
    await fill(store, "s", 10, 5)
    with statements(store) as seen:
        late = insert(12)
        late.row.timeout = 2.0
        assert await store.commit([create("t"), insert(11), late, settle(6)]) == set()
        group = [settle(7), MarkStart("s", 1, 8, 2), Acknowledge("s", 1, 5, 3)]
        assert await store.commit(group) == set()
        assert await store.commit([*group, MarkCancel("s", 1, 9), Attach("s", 1, 2)]) == set()
        assert await store.commit([create("u"), insert(1, "u")]) == set()
        assert await store.commit([End("t", 1, 0, Receipt("t", 0, 0, 0, 0, 0, True), 9)]) == set()
        assert await store.claim("s") is not None
        assert (await store.tally("s")).pending == 5
        assert len(await store.outcomes("s", 0, 99, 99)) == 2
        assert len([row async for row in store.requests("s")]) == 10
    planned = {line.strip() for line in seen} - {"BEGIN IMMEDIATE", "BEGIN", "COMMIT", "ROLLBACK"}
    assert len(planned) > 20
    for statement in planned:
        for step in await plan(store, statement):
            constant = re.search("CONSTANT ROW|SCAN .subquery|pragma_data_version", step)
            assert constant or not step.startswith("SCAN"), f"{step}: {statement}"
            assert "TEMP B-TREE" not in step, f"{step}: {statement}"


async def plan(store: SqliteStore, statement: str) -> list[str]:
    slots = len(set(re.findall(r"\?\d", statement))) or statement.count("?")
    found = await store._write.call(
        lambda db: db.execute(f"EXPLAIN QUERY PLAN {statement}", [1] * slots).fetchall()
    )
    return [step for *_, step in found]
