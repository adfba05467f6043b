"""Files of older formats: what was in them is there, in the tables of today."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_makers import ended

from inorder_server.stores.port import (
    Acknowledge,
    Insert,
    Outcome,
    RequestRow,
    StoreError,
    Tally,
)
from inorder_server.stores.sqlite import SqliteStore
from inorder_server.stores.sqlite_file import prepare
from inorder_server.stores.sqlite_lock import ServingLock
from inorder_server.stores.sqlite_schema import VERSION
from inorder_server.verify import audit

# As those releases made them: not to be changed with today's.
_SESSIONS = """
CREATE TABLE sessions (
    n          INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    user       TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    attach     INTEGER NOT NULL,
    node       TEXT,
    accepted   INTEGER NOT NULL DEFAULT 0,
    settled    INTEGER NOT NULL DEFAULT 0,
    acked      INTEGER NOT NULL DEFAULT 0,
    done       INTEGER NOT NULL DEFAULT 0,
    failed     INTEGER NOT NULL DEFAULT 0,
    cancelled  INTEGER NOT NULL DEFAULT 0,
    clean      INTEGER NOT NULL DEFAULT 0,
    open       INTEGER NOT NULL DEFAULT 0,
    state      TEXT NOT NULL DEFAULT 'live',
    created_ms INTEGER NOT NULL,
    left_ms    INTEGER NOT NULL,
    held       INTEGER NOT NULL DEFAULT 0,
    receipt    BLOB
);
CREATE INDEX sessions_unfinished ON sessions (n) WHERE node IS NULL AND open = 1;
"""
_OTHERS = """
CREATE TABLE users (
    name          TEXT PRIMARY KEY,
    password_hash BLOB NOT NULL,
    generation    INTEGER NOT NULL,
    admin         INTEGER NOT NULL,
    created_ms    INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE commands (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,
    verb       TEXT NOT NULL,
    target     TEXT NOT NULL,
    argument   TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
INSERT INTO sessions (n, id, user, epoch, attach, node, accepted, settled, acked, done, open,
                      created_ms, left_ms)
VALUES (1, 's', 'ann', 3, 1, 'before', 5, 3, 1, 1, 1, 10, 10);
INSERT INTO sessions (n, id, user, epoch, attach, accepted, created_ms, left_ms)
VALUES (2, 'blocked', 'eve', 1, 1, 1, 11, 11);
INSERT INTO users VALUES ('ann', 'hash', 4, 0, 9);
INSERT INTO commands (verb, target, argument, created_ms) VALUES ('retry', 's', '', 30);
PRAGMA application_id = 0x696E6F72;
"""
_ROWS_1 = """
CREATE TABLE requests (
    key         INTEGER PRIMARY KEY,
    ending      TEXT,
    attempt     INTEGER NOT NULL,
    cancel      INTEGER NOT NULL,
    accepted_ms INTEGER NOT NULL,
    settled_ms  INTEGER,
    id          TEXT NOT NULL,
    digest      BLOB NOT NULL,
    method      TEXT NOT NULL,
    timeout     REAL,
    traceparent TEXT,
    params      BLOB,
    outcome     BLOB
);
INSERT INTO requests VALUES
    ((1 << 35) + 1, '', 0, 0, 11, NULL, 'r1', x'01', '', NULL, NULL, NULL, NULL),
    ((1 << 35) + 2, 'done', 1, 0, 12, 22, 'r2', x'02', 'echo', 2.5, 'trace', x'32', x'2274776F22'),
    ((1 << 35) + 3, 'failed', 1, 0, 13, 23, 'r3', x'03', 'echo', NULL, NULL, NULL, x'7B7D'),
    ((1 << 35) + 4, NULL, 2, 1, 14, NULL, 'r4', x'04', 'echo', NULL, NULL, x'34', NULL),
    ((1 << 35) + 5, NULL, 0, 0, 15, NULL, 'r5', x'05', 'echo', NULL, NULL, x'35', NULL),
    ((2 << 35) + 1, NULL, 0, 1, 16, NULL, 'b1', x'06', 'gone', NULL, NULL, NULL, NULL);
PRAGMA user_version = 1;
"""
_ROWS_2 = """
CREATE TABLE requests (
    key         INTEGER PRIMARY KEY,
    attempt     INTEGER NOT NULL,
    cancel      INTEGER NOT NULL,
    accepted_ms INTEGER NOT NULL,
    id          TEXT NOT NULL,
    digest      BLOB NOT NULL,
    method      TEXT NOT NULL,
    timeout     REAL,
    traceparent TEXT,
    params      BLOB
);
CREATE TABLE outcomes (
    key        INTEGER PRIMARY KEY,
    ending     TEXT NOT NULL,
    settled_ms INTEGER NOT NULL,
    body       BLOB NOT NULL
);
CREATE TABLE stripped (
    key    INTEGER PRIMARY KEY,
    id     TEXT NOT NULL,
    digest BLOB NOT NULL
);
INSERT INTO stripped VALUES ((1 << 35) + 1, 'r1', x'01');
INSERT INTO requests VALUES
    ((1 << 35) + 2, 1, 0, 12, 'r2', x'02', 'echo', 2.5, 'trace', x'32'),
    ((1 << 35) + 3, 1, 0, 13, 'r3', x'03', 'echo', NULL, NULL, NULL),
    ((1 << 35) + 4, 2, 1, 14, 'r4', x'04', 'echo', NULL, NULL, x'34'),
    ((1 << 35) + 5, 0, 0, 15, 'r5', x'05', 'echo', NULL, NULL, x'35'),
    ((2 << 35) + 1, 0, 1, 16, 'b1', x'06', 'gone', NULL, NULL, NULL);
INSERT INTO outcomes VALUES
    ((1 << 35) + 2, 'done', 22, x'2274776F22'),
    ((1 << 35) + 3, 'failed', 23, x'7B7D');
PRAGMA user_version = 2;
"""
_WAL = "PRAGMA journal_mode = WAL"
FORMATS = [_SESSIONS + rows + _OTHERS + _WAL for rows in (_ROWS_1, _ROWS_2)]


@pytest.fixture(params=[1, 2])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def path(tmp_path: Path, version: int) -> Path:
    path = tmp_path / "inorder.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(FORMATS[version - 1])
        assert db.execute("PRAGMA user_version").fetchone() == (version,)
    return path


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        names = db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {sql for (sql,) in names}


async def test_what_was_kept_is_there(path: Path) -> None:
    store = SqliteStore(path)
    await store.open("n1")
    two = RequestRow(
        2, "r2", b"\2", "echo", b"2", 12, 2.5, "trace", 1, False, "done", b'"two"', 22
    )  # fmt: skip
    three = RequestRow(
        3, "r3", b"\3", "echo", None, 13, attempt=1, ending="failed", outcome=b"{}", settled_ms=23
    )
    four = RequestRow(4, "r4", b"\4", "echo", b"4", 14, attempt=2, cancel=True)
    five = RequestRow(5, "r5", b"\5", "echo", b"5", 15)
    one = RequestRow(1, "r1", b"\1", "", None, 0, stripped=True)
    assert [r async for r in store.requests("s")] == [one, two, three, four, five]
    assert await store.outcomes("s", 0, 9, 999) == [
        Outcome(2, "r2", "done", b'"two"'),
        Outcome(3, "r3", "failed", b"{}"),
    ]
    assert await store.tally("s") == Tally(2, 1, 0, 2)
    marked = RequestRow(1, "b1", b"\6", "gone", None, 16, cancel=True)
    assert [r async for r in store.requests("blocked")] == [marked]
    assert await store.tally("blocked") == Tally(0, 0, 0, 1)
    assert [u.generation for u in await store.users()] == [4]
    assert await store.last_command() == 1
    assert (await audit(store)).findings == []
    claimed = await store.claim("s")
    assert claimed is not None
    assert [r.seq for r in claimed.rows] == [1, 2, 3, 4, 5]
    assert claimed.rows[3:] == [four, five]
    epoch = claimed.session.epoch
    six = RequestRow(6, "r6", b"\6", "echo", None, 16)
    assert await store.commit([Insert("s", epoch, [six]), ended("s", epoch, 4, "done", b"4", 24),
                               Acknowledge("s", epoch, 4, 2)]) == set()  # fmt: skip
    assert await store.tally("s") == Tally(3, 1, 0, 2)
    assert [(r.seq, r.stripped) async for r in store.requests("s")] == [
        (3, True), (4, True), (5, False), (6, False),
    ]  # fmt: skip
    await store.close()


def test_its_tables_are_those_of_a_new_file(path: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.db"
    for file in (path, path, new):
        prepare(file, 50)
    assert tables(path) == tables(new)


async def test_many_rows(path: Path, version: int) -> None:
    """As many as one acknowledgement leaves: more than a run holds, with a gap, and large ones."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for n in (7, 8):
            db.execute(
                "INSERT INTO sessions (n, id, user, epoch, attach, accepted, settled, acked, done,"
                " created_ms, left_ms) VALUES (?, ?, 'eve', 1, 1, 1400, 1000, 600, 600, 1, 1)",
                (n, f"many{n}"),
            )
            for seq in range(101, 1401):
                row = {"key": n << 35 | seq, "id": f"r{seq}", "digest": b"d"}
                full = {"attempt": 0, "cancel": 0, "accepted_ms": seq, "method": "echo"}
                full["params"] = b"x" * (50_000 if seq % 300 == 0 else 5)
                end = {"ending": "done", "settled_ms": seq}
                tables: list[tuple[str, dict[str, object]]]
                if version == 1:
                    end["outcome"] = full["params"]
                    stripped = row | full | {"ending": "", "params": None}
                    both = row | full | (end if seq <= 1000 else {})
                    tables = [("requests", stripped if seq <= 600 else both)]
                elif seq <= 600:
                    tables = [("stripped", row)]
                else:
                    tables = [("requests", row | full)]
                    if seq <= 1000:
                        end |= {"key": row["key"], "body": full["params"]}
                        tables.append(("outcomes", end))
                for table, values in tables:
                    slots = ",".join("?" * len(values))
                    db.execute(
                        f"INSERT INTO {table} ({','.join(values)}) VALUES ({slots})",
                        list(values.values()),
                    )
    store = SqliteStore(path)
    await store.open("n1")
    for id in ("many7", "many8"):
        rows = [r async for r in store.requests(id)]
        assert [r.seq for r in rows] == list(range(101, 1401))
        assert all(r.stripped == (r.seq <= 600) for r in rows)
        for r in rows[500:]:
            size = 50_000 if r.seq % 300 == 0 else 5
            assert (r.id, r.method, r.accepted_ms) == (f"r{r.seq}", "echo", r.seq)
            assert len(r.params or b"") == size
            assert (r.ending, r.settled_ms) == (("done", r.seq) if r.seq <= 1000 else (None, None))
            assert r.outcome == (r.params if r.seq <= 1000 else None)
        assert await store.tally(id) == Tally(1000, 0, 0, 400)
    assert (await audit(store)).findings == []
    await store.close()


@pytest.mark.parametrize("version", [1], indirect=True)
async def test_half_an_outcome_is_none(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE requests SET outcome = NULL WHERE id = 'r3'")
    store = SqliteStore(path)
    await store.open("n1")
    assert "s: request 3 has half an outcome (G3)" in (await audit(store)).findings
    await store.close()


async def test_a_tool_may_be_the_first_of_the_new_release(path: Path) -> None:
    tool = SqliteStore(path, serving=False)
    await tool.open("tool")
    server = SqliteStore(path)
    await server.open("n1")
    assert await server.unfinished() == ["s"]
    await server.close()
    await tool.close()


async def test_not_under_a_process_that_serves_it(path: Path) -> None:
    before = tables(path)
    lock = ServingLock(path)
    lock.take()
    tool = SqliteStore(path, serving=False)
    with pytest.raises(StoreError, match="is serving"):
        await tool.open("tool")
    lock.release()
    assert tables(path) == before
    await tool.open("tool")
    await tool.close()


def test_all_or_nothing(path: Path, version: int) -> None:
    """Where it fails half-way the file is as it was."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE stripped_2 (left_by TEXT)")
    before = tables(path)
    with pytest.raises(StoreError, match="already"):
        prepare(path, 50)
    assert tables(path) == before
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (version,)
        db.execute("DROP TABLE stripped_2")
    prepare(path, 50)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
