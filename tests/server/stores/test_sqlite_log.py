"""The log, and one write after the other by the rows: two ways that must agree."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlite_makers import create, in_writer, insert, settle

from inorder.messages import Receipt
from inorder_server.stores import sqlite_log, sqlite_writes
from inorder_server.stores.port import (
    Acknowledge,
    Attach,
    End,
    Insert,
    MarkCancel,
    MarkStart,
    Settle,
    StoreError,
    Tally,
    Write,
)
from inorder_server.stores.sqlite import SqliteStore
from inorder_server.stores.sqlite_rows import requests
from inorder_server.stores.sqlite_runs import decode_bodies, decode_names, decode_outcomes
from inorder_server.stores.sqlite_schema import MAX_SEQ, SEQ_BITS
from inorder_server.verify import audit


def random_group(rng: random.Random, numbers: dict[str, list[int]], mistakes: float) -> list[Write]:
    """Writes as a node makes them, with mistakes and repeats among them."""
    writes: list[Write] = []
    s = "a"
    for _ in range(rng.randrange(1, 25)):
        # What is one session's comes together now and then.
        s = s if rng.random() < 0.4 else rng.choice("abcd")
        epoch = 2 if rng.random() < mistakes / 2 else 1
        if s not in numbers:
            numbers[s] = [0, 0, 0]
            writes.append(create(s))
        accepted, settled, acked = numbers[s]
        wrong = rng.choice((-2, -1, 1, 2)) if rng.random() < mistakes else 0
        kind = rng.random()
        if kind < 0.4:
            writes.append(insert(accepted + 1 + wrong, s, epoch))
            numbers[s][0] += 1
        elif kind < 0.7 and settled < accepted:
            writes.append(settle(settled + 1 + wrong, s, epoch))
            numbers[s][1] += 1
        elif kind < 0.8 and acked < settled:
            numbers[s][2] = rng.randrange(acked + 1, settled + 1)
            writes.append(Acknowledge(s, epoch, numbers[s][2] + wrong, keep=2))
        elif kind < 0.85:
            writes.append(MarkStart(s, epoch, settled + 1 + wrong, rng.randrange(3)))
        elif kind < 0.86:
            writes.append(MarkCancel(s, epoch, settled + 1 + wrong))
        elif kind < 0.87:
            writes.append(Attach(s, epoch, 1))
        elif kind < 0.875:
            receipt = Receipt(s, accepted, 0, 0, 0, 0, True)
            writes.append(End(s, epoch, accepted + wrong, receipt, 9))
        elif writes and rng.random() < 2 * mistakes:
            writes.append(rng.choice(writes))
    return joined(rng, writes)


def joined(rng: random.Random, writes: list[Write]) -> list[Write]:
    """Some of those that follow each other in a session as one."""
    made: list[Write] = []
    for w in writes:
        last = made[-1] if made and rng.random() < 0.5 else None
        if isinstance(last, Insert | Settle) and (last.session, last.epoch) == (w.session, w.epoch):
            if isinstance(last, Insert) and isinstance(w, Insert):
                made[-1] = Insert(w.session, w.epoch, last.rows + w.rows)
                continue
            if isinstance(last, Settle) and isinstance(w, Settle):
                made[-1] = Settle(w.session, w.epoch, last.outcomes + w.outcomes, w.at_ms)
                continue
        made.append(w)
    return made


def dump(db: sqlite3.Connection) -> list[object]:
    """Everything but the numbers that sessions were given, and what shares a row."""
    sessions = {n: row for n, *row in db.execute("SELECT * FROM sessions ORDER BY id")}
    rows = [(id, row) for id, *_ in sessions.values() for row in requests(db, id, 0)]
    marks = [
        (sessions[key >> SEQ_BITS][0], key & MAX_SEQ, *mark)
        for key, *mark in db.execute("SELECT * FROM marks")
    ]
    return [[*sessions.values()], rows, sorted(marks)]


def check_runs(db: sqlite3.Connection) -> None:
    """Each number has one request, and nothing is left of what is acknowledged."""
    acked = dict(db.execute("SELECT n, acked FROM sessions"))
    there: set[tuple[int, int]] = set()
    for key, count, head, bodies in db.execute("SELECT * FROM runs"):
        heads = head if key & 1 else decode_names(head)
        parts = (decode_outcomes if key & 1 else decode_bodies)(bodies)
        assert count == len(heads) == len(parts) > 0
        for number in range(key >> 1, (key >> 1) + count):
            assert (key & 1, number) not in there
            there.add((key & 1, number))
        assert number & MAX_SEQ > acked[number >> SEQ_BITS]


async def meanwhile(store: SqliteStore, path: Path, rng: random.Random) -> None:
    """What may happen between two groups, and must change nothing."""
    kind = rng.random()
    if kind < 0.2:
        # A command line tool beside the server writes the rows.
        tool = SqliteStore(path, serving=False)
        await tool.open("tool")
        await tool.sessions()
        await tool.close()
    elif kind < 0.4:
        await store._caught_up(rng.choice("abcd"))
    elif kind < 0.5:
        # As after an error of which nobody knows what it left.
        store._owned.sure = False


@pytest.mark.parametrize("seed", range(60))
async def test_the_log_and_one_by_one_agree(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(sqlite_log, "_MOST_GROUPS", rng.choice((1, 5, 1000)))
    monkeypatch.setattr(sqlite_log, "_SESSIONS_AT_ONCE", rng.choice((1, 16)))
    # Of some groups rows are made at once.
    monkeypatch.setattr(sqlite_log, "_LARGE", rng.choice((25, 4096)))
    paths = [tmp_path / f"{name}.db" for name in ("log", "single")]
    stores = [SqliteStore(path) for path in paths]
    for store in stores:
        await store.open("n1")
        await in_writer(store, "PRAGMA synchronous = OFF")
    mistakes = rng.choice((0, 0.005, 0.05))
    numbers: dict[str, list[int]] = {}
    for _ in range(30):
        group = random_group(rng, numbers, mistakes)
        again = rng.random() < 0.2
        answers = [await stores[0].commit(group) for _ in range(1 + again)]
        with monkeypatch.context() as patch:
            patch.setattr(sqlite_writes, "LOGGED", frozenset())
            answers += [await stores[1].commit(group) for _ in range(1 + again)]
        assert answers == answers[:1] * len(answers), "\n".join(map(str, group))
        for s in answers[0]:
            found = await stores[0].session(s)
            if found is None or found.state != "live":
                numbers[s] = [0, 0, 0] if found is None else numbers[s]
                continue
            # The node drops the queue and loads what is there.
            rows = [r async for r in stores[0].requests(s)]
            settled = max([r.seq for r in rows if r.ending], default=found.acked)
            numbers[s] = [found.accepted, settled, found.acked]
        await meanwhile(stores[0], paths[0], rng)
        if rng.random() < 0.3:
            for store in stores:
                await store._caught_up()
            dumps = [await store._read.call(dump) for store in stores]
            assert dumps[0] == dumps[1], "\n".join(map(str, group))
            for store in stores:
                await store._read.call(check_runs)
    for store in stores:
        await store.close()


# ---- the log by itself


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inorder.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open("n1")
    yield store
    await store.close()


async def in_log(store: SqliteStore) -> int:
    ((count,),) = await in_writer(store, "SELECT count(*) FROM log")
    return int(count)


async def rows_of(store: SqliteStore, session: str = "s") -> list[tuple[int, str | None]]:
    return [(row.seq, row.ending) async for row in store.requests(session)]


def copied(path: Path, folder: Path) -> Path:
    """What a crash would leave of the file just now."""
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", folder)
    return folder / path.name


async def test_what_only_the_log_has_is_there_after_a_crash(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    assert await store.commit([create(), *(insert(n) for n in range(1, 6))]) == set()
    assert await store.commit([settle(1), settle(2), MarkStart("s", 1, 3, 2)]) == set()
    assert await store.commit([Acknowledge("s", 1, 1, 5), insert(6), settle(3)]) == set()
    assert await in_log(store) == 3
    assert await in_writer(store, "SELECT * FROM runs") == []
    after = SqliteStore(copied(path, tmp_path / "crash"))
    await after.open("n2")
    assert await in_log(after) == 0
    assert await after.unfinished() == ["s"]
    claimed = await after.claim("s")
    assert claimed is not None
    assert (claimed.session.epoch, claimed.was_clean) == (2, False)
    assert [(r.seq, r.ending, r.stripped) for r in claimed.rows] == [
        (1, None, True), (2, "done", False), (3, "done", False),
        (4, None, False), (5, None, False), (6, None, False),
    ]  # fmt: skip
    assert [o.seq for o in await after.outcomes("s", 0, 9, 999)] == [2, 3]
    assert await after.tally("s") == Tally(3, 0, 0, 3)
    await after.close()


async def test_a_session_that_was_ended_is_not_brought_back(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    for s in ("s", "t"):
        assert await store.commit([create(s), insert(1, s), settle(1, s)]) == set()
    receipt = Receipt("s", 1, 1, 0, 0, 0, True)
    assert await store.commit([End("s", 1, 1, receipt, 9)]) == set()
    assert await in_log(store) == 2, "what the other lacks is still in it"
    after = SqliteStore(copied(path, tmp_path / "crash"))
    await after.open("n2")
    assert await rows_of(after) == []
    assert await rows_of(after, "t") == [(1, "done")]
    assert (await audit(after)).findings == []
    await after.close()


async def test_a_group_that_is_logged_is_one_statement(store: SqliteStore) -> None:
    names = [f"s{i}" for i in range(50)]
    assert await store.commit([create(s) for s in names]) == set()
    group: list[Write] = [insert(n, s) for n in range(1, 17) for s in names]
    assert await store.commit(group) == set()
    seen: list[str] = []
    await store._write.call(lambda db: db.set_trace_callback(seen.append))
    group = [settle(n, s) for n in range(1, 17) for s in names]
    group += [Acknowledge(s, 1, 16, 4) for s in names]
    assert await store.commit(group) == set()
    assert [line.split()[0] for line in seen if not line.startswith("--")] == ["INSERT"]


async def test_it_is_shortened_where_sessions_are_behind_the_longest(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_log, "_MOST_GROUPS", 10)
    monkeypatch.setattr(sqlite_log, "_SESSIONS_AT_ONCE", 2)
    for s in "abc":
        assert await store.commit([create(s), insert(1, s)]) == set()
    for n in range(2, 40):
        assert await store.commit([insert(n, "c")]) == set()
        assert await in_log(store) <= 11
    for s in "ab":
        assert s not in store._owned.ahead
    assert await rows_of(store, "c") == [(n, None) for n in range(1, 40)]
    assert store._owned.log_bytes == sum(store._owned.sizes)


async def test_it_is_bounded_in_bytes(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_log, "_LEAST_BYTES", 10_000)
    assert await store.commit([create()]) == set()
    for n in range(1, 40):
        assert await store.commit([insert(n, body=b"x" * 3000)]) == set()
        assert await in_log(store) <= 4


async def test_it_is_bounded_where_every_commit_has_all_sessions(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_log, "_LEAST_BYTES", 100_000)
    monkeypatch.setattr(sqlite_log, "_BYTES_A_SESSION", 100)
    sessions = [f"s{n}" for n in range(300)]
    assert await store.commit([create(s) for s in sessions]) == set()
    for n in range(1, 60):
        writes: list[Write] = [insert(n, s) for s in sessions]
        writes += [settle(n, s) for s in sessions]
        # Half of the sessions acknowledge, the others keep all of it.
        writes += [Acknowledge(s, 1, n, 2) for s in sessions[::2]]
        assert await store.commit(writes) == set()
        ((size,),) = await in_writer(store, "SELECT ifnull(sum(length(writes)), 0) FROM log")
        assert size == store._owned.log_bytes <= 200_000
    assert (await store.tally("s1")).done == (await store.tally("s0")).done == 59
    assert (await audit(store)).findings == []


async def test_large_bodies_are_written_once(store: SqliteStore) -> None:
    assert await store.commit([create(), insert(1), insert(2)]) == set()
    assert await in_log(store) == 1
    assert await store.commit([insert(n, body=b"x" * 5000) for n in (3, 4)]) == set()
    assert await in_log(store) == 1
    assert await in_writer(store, "SELECT sum(count) FROM runs") == [(4,)]
    assert await store.commit([settle(1)]) == set()
    assert await store.commit([settle(2, body=b"x" * 5000), Acknowledge("s", 1, 1, 9)]) == set()
    assert await rows_of(store) == [(1, None), (2, "done"), (3, None), (4, None)]
    assert (await audit(store)).findings == []


async def test_what_was_acknowledged_by_then_never_becomes_rows(store: SqliteStore) -> None:
    assert await store.commit([create(), *(insert(n) for n in range(1, 601))]) == set()
    assert await store.commit([settle(n) for n in range(1, 551)]) == set()
    assert await store.commit([Acknowledge("s", 1, 540, 300)]) == set()
    await store._caught_up()
    # Ids are kept of the last 300 only.
    assert await in_writer(store, "SELECT sum(count), count(*) FROM stripped") == [(300, 2)]
    assert await in_writer(store, "SELECT key & 1, count FROM runs") == [(0, 60), (1, 10)]
    assert await store.tally("s") == Tally(550, 0, 0, 50)
    assert (await audit(store)).findings == []


async def test_who_reads_while_rows_are_made_waits_for_them(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, go = threading.Event(), threading.Event()
    shorten = sqlite_log.shorten

    def slowly(*args: Any) -> bool:
        found = shorten(*args)
        made.set()
        return go.wait(10) and found

    assert await store.commit([create(), insert(1), insert(2)]) == set()
    monkeypatch.setattr(sqlite_log, "_MOST_GROUPS", 0)
    monkeypatch.setattr(sqlite_log, "shorten", slowly)
    committing = asyncio.create_task(store.commit([settle(1), insert(3)]))
    await asyncio.to_thread(made.wait, 10)
    asking = asyncio.create_task(store.tally("s"))
    # The reader has nothing to do, or it would have been asked too early.
    await asyncio.sleep(0)
    await store._read.call(lambda _: None)
    assert not asking.done()
    go.set()
    assert await committing == set()
    assert await asking == Tally(1, 0, 0, 2)


async def test_another_connection_that_wrote_is_noticed(store: SqliteStore, path: Path) -> None:
    for s in ("s", "t"):
        assert await store.commit([create(s), insert(1, s)]) == set()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE sessions SET epoch = 2 WHERE id = 's'")
    assert await store.commit([settle(1), settle(1, "t")]) == {"s"}
    assert await rows_of(store, "t") == [(1, "done")]
    assert await store.commit([insert(2, "t")]) == set()


async def test_a_session_whose_rows_are_gone_is_fenced_alone(store: SqliteStore) -> None:
    for s in ("s", "t"):
        assert await store.commit([create(s), insert(1, s), insert(2, s), settle(1, s)]) == set()
    await store._caught_up()
    ((n,),) = await in_writer(store, "SELECT n FROM sessions WHERE id = 's'")
    await in_writer(store, f"DELETE FROM runs WHERE key >> {SEQ_BITS + 1} = {n}")
    group: list[Write] = [w for s in ("s", "t") for w in (Acknowledge(s, 1, 1, 9), settle(2, s))]
    # The log only says what is to become of its rows; that they are gone shows then.
    assert await store.commit(group) == set()
    await store._caught_up()
    assert await store.commit([insert(3), insert(3, "t")]) == {"s"}
    assert await rows_of(store, "t") == [(1, None), (2, "done"), (3, None)]
    findings = (await audit(store)).findings
    assert findings
    assert all(line.startswith("s: ") for line in findings)
    assert any("without a row" in line for line in findings), findings


async def test_a_log_that_contradicts_the_rows_is_put_beside_them(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    for s in ("s", "t"):
        assert await store.commit([create(s), insert(1, s), insert(2, s)]) == set()
    crash = copied(path, tmp_path / "crash")
    with closing(sqlite3.connect(crash)) as db, db:
        db.execute("UPDATE sessions SET accepted = 1 WHERE id = 's'")
    after = SqliteStore(crash)
    await after.open("n2")
    assert await rows_of(after, "t") == [(1, None), (2, None)]
    findings = (await audit(after)).findings
    assert any(line.startswith("s: request 1 without a row") for line in findings), findings
    assert all(line.startswith("s: ") for line in findings)
    await after.close()


@pytest.mark.parametrize("entry", [b"", b"\x91\x01", b"\x91\x95\x09\xa1s\x01\x01\x01"])
async def test_a_log_that_cannot_be_read_stops_the_start(
    store: SqliteStore, path: Path, tmp_path: Path, entry: bytes
) -> None:
    assert await store.commit([create(), insert(1)]) == set()
    crash = copied(path, tmp_path / "crash")
    with closing(sqlite3.connect(crash)) as db, db:
        db.execute("INSERT INTO log VALUES (2, ?)", (entry,))
    after = SqliteStore(crash)
    with pytest.raises(StoreError, match=r"the database's log can't be read \(row 2\)"):
        await after.open("n2")
    with closing(sqlite3.connect(crash)) as db:
        assert db.execute("SELECT count(*) FROM log").fetchone() == (2,)
