"""What SQLite alone has to show: the file, the lock, trouble with the disk, and its cost."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlite_makers import create, in_writer, insert, settle

from inorder.messages import Receipt
from inorder_server.stores import sqlite as adapter
from inorder_server.stores import sqlite_owned, sqlite_rare
from inorder_server.stores.port import (
    Acknowledge,
    End,
    Release,
    StoreError,
    StoreUnavailable,
    Tally,
    User,
)
from inorder_server.stores.sqlite import SqliteStore
from inorder_server.stores.sqlite_schema import MAX_NUMBER, MAX_SEQ, SEQ_BITS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inorder.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, busy_ms=50)
    await store.open("n1")
    yield store
    await store.close()


@contextmanager
def other(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection."""
    db = sqlite3.connect(path, isolation_level=None)
    yield db
    db.close()


async def refused(path: Path, serving: bool = True) -> str:
    """The line that says why the database can't be used."""
    store = SqliteStore(path, serving=serving, busy_ms=50)
    with pytest.raises(StoreError) as caught:
        await store.open("n9")
    await store.close()
    line = str(caught.value)
    assert "\n" not in line
    return line


# ---- the file


async def test_it_is_durable_and_says_whose_it_is(store: SqliteStore, path: Path) -> None:
    assert store.name == f"SQLite {path}"
    assert await in_writer(store, "PRAGMA journal_mode") == [("wal",)]
    assert await in_writer(store, "PRAGMA synchronous") == [(2,)]
    assert await in_writer(store, "PRAGMA user_version") == [(4,)]
    assert await in_writer(store, "PRAGMA application_id") == [(int.from_bytes(b"inor", "big"),)]


async def test_no_second_index_is_written_to_for_a_request(store: SqliteStore) -> None:
    for table in ("log", "runs", "marks", "stripped"):
        assert await in_writer(store, f"PRAGMA index_list({table})") == []


async def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"this is a shopping list, and no database at all\n" * 100)
    before = path.read_bytes()
    assert await refused(path) == f"{path} is not an SQLite database"
    assert path.read_bytes() == before


async def test_the_database_of_another_program(path: Path) -> None:
    with other(path) as db:
        db.execute("CREATE TABLE recipes (name)")
    before = path.read_bytes()
    for serving in (True, False):
        assert await refused(path, serving) == f"{path} is the database of another program"
    assert path.read_bytes() == before


async def test_a_newer_format(store: SqliteStore, path: Path) -> None:
    await store.close()
    with other(path) as db:
        db.execute("PRAGMA user_version = 7")
    line = await refused(path)
    assert line == f"{path} is of a newer inorder (format 7; this one knows 4)"


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "no" / "inorder.db"
    assert await refused(path) == f"{path}: there is no folder {path.parent}"


async def test_a_folder_for_a_file(tmp_path: Path) -> None:
    assert await refused(tmp_path) == f"{tmp_path} is a folder, not a database"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder not even root may use")
async def test_a_folder_that_can_not_be_written_to() -> None:
    assert "can't be opened or made" in await refused(Path("/proc/inorder.db"))


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
async def test_a_file_that_can_not_be_written_to(store: SqliteStore, path: Path) -> None:
    await store.close()
    path.chmod(0o444)
    assert "read-only" in await refused(path)


async def test_a_read_only_database_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*args: object, **more: object) -> sqlite3.Connection:
        exc = sqlite3.OperationalError("attempt to write a readonly database")
        exc.sqlite_errorname = "SQLITE_READONLY_DIRECTORY"
        raise exc

    monkeypatch.setattr(sqlite3, "connect", connect)
    assert "the file or its folder is read-only" in await refused(path)


async def test_an_old_sqlite(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))
    assert "3.33 or newer is needed" in await refused(path)


async def test_it_must_be_opened_first(path: Path) -> None:
    store = SqliteStore(path)
    with pytest.raises(StoreError, match="not open"):
        await store.session("s")
    with pytest.raises(StoreError, match="not open"):
        await store.commit([create()])
    with pytest.raises(StoreError, match="not open"):
        await store.add_user(User("ann", b"", 1, False, 1))
    await store.close()


async def test_after_its_close_it_is_unavailable(store: SqliteStore) -> None:
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.commit([create()])
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.session("s")


# ---- one serving process a file, and tools beside it


async def test_a_second_server_is_told_who_serves(store: SqliteStore, path: Path) -> None:
    line = await refused(path)
    assert line == f"another inorder process (pid {os.getpid()}) is serving inorder.db"
    # It did no harm.
    assert await store.commit([create(), insert(1)]) == set()


async def test_another_name_of_the_file_is_the_same_file(store: SqliteStore, path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    assert "is serving inorder.db" in await refused(link)


async def test_the_lock_is_gone_with_its_process(path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from inorder_server.stores.sqlite import SqliteStore\n"
        "from inorder_server.stores.port import *\n"
        "async def main():\n"
        "    store = SqliteStore(sys.argv[1])\n"
        "    await store.open('n0')\n"
        "    row = RequestRow(1, 'id', b'd', 'echo', None, 1)\n"
        "    await store.commit([Create('s', 'ann', 1, 1, 'n0', 1), Insert('s', 1, [row])])\n"
        "    print('ready', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    server = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)
    assert server.stdout is not None
    try:
        assert await asyncio.to_thread(server.stdout.readline) == b"ready\n"
        assert f"(pid {server.pid})" in await refused(path)
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    store = SqliteStore(path)
    await store.open("n1")
    assert await store.unfinished() == ["s"]
    await store.close()


async def test_a_lock_that_can_not_be_made(path: Path) -> None:
    path.with_name("inorder.db.lock").mkdir()
    assert "can't be made" in await refused(path)


async def test_tools_use_the_file_beside_a_server(store: SqliteStore, path: Path) -> None:
    assert await store.commit([create(), insert(1)]) == set()
    tool = SqliteStore(path, serving=False)
    await tool.open("tool")
    assert await tool.add_user(User("ann", b"hash", 1, False, 1))
    assert await tool.post("revoke", "ann", "", 1000) == 1
    assert [s.id for s in await tool.sessions()] == ["s"]
    assert [r.seq async for r in tool.requests("s")] == [1]
    # The server sees what it did, and still owns what it owned.
    assert await store.user("ann") is not None
    assert [c.verb for c in await store.commands(0)] == ["revoke"]
    for forbidden in (tool.commit([insert(2)]), tool.claim("s"), tool.expire(0, 0)):
        with pytest.raises(StoreError, match="not open for serving"):
            await forbidden
    await tool.close()
    assert await store.commit([insert(2), settle(1)]) == set()


async def test_a_tool_may_be_first(path: Path) -> None:
    tool = SqliteStore(path, serving=False)
    await tool.open("tool")
    assert await tool.add_user(User("ann", b"hash", 1, True, 1))
    server = SqliteStore(path)
    await server.open("n1")
    assert await server.user("ann") is not None
    await server.close()
    await tool.close()


# ---- trouble


async def test_a_full_disk(store: SqliteStore) -> None:
    assert await store.commit([create(), insert(1)]) == set()
    ((pages,),) = await in_writer(store, "PRAGMA page_count")
    await in_writer(store, f"PRAGMA max_page_count = {pages}")
    large = [insert(n, body=b"x" * 10_000) for n in range(2, 20)]
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="full"):
            await store.commit([settle(1), *large])
        assert await store.tally("s") == Tally(0, 0, 0, 1)
    await in_writer(store, "PRAGMA max_page_count = 1000000")
    assert await store.commit([settle(1), *large]) == set()
    assert await store.tally("s") == Tally(1, 0, 0, 18)


async def test_a_full_disk_at_the_first_request(store: SqliteStore) -> None:
    ((pages,),) = await in_writer(store, "PRAGMA page_count")
    await in_writer(store, f"PRAGMA max_page_count = {pages}")
    group = [create(), insert(1, body=b"x" * 10_000)]
    with pytest.raises(StoreUnavailable, match="full"):
        await store.commit(group)
    assert await store.session("s") is None
    await in_writer(store, "PRAGMA max_page_count = 1000000")
    for _ in range(2):
        assert await store.commit(group) == set()


async def test_a_locked_file(store: SqliteStore, path: Path) -> None:
    assert await store.commit([create(), insert(1)]) == set()
    await store._caught_up()
    with other(path) as db:
        db.execute("BEGIN EXCLUSIVE")
        # Who only reads doesn't wait, unless what was tried to write may have become something.
        assert await store.tally("s") == Tally(0, 0, 0, 1)
        for call in (
            store.commit([settle(1)]),
            store.claim("s"),
            store.post("drain", "n1", "", 1),
            store.add_user(User("ann", b"", 1, False, 1)),
        ):
            with pytest.raises(StoreUnavailable, match="locked"):
                await call
        db.execute("ROLLBACK")
    assert await store.commit([settle(1)]) == set()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_CORRUPT])
async def test_a_damaged_connection_is_replaced(store: SqliteStore, code: int) -> None:
    used: list[sqlite3.Connection] = []

    def fail(db: sqlite3.Connection) -> None:
        used.append(db)
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM runs")
        exc = sqlite3.OperationalError("disk I/O error")
        exc.sqlite_errorcode = code
        raise exc

    assert await store.commit([create(), insert(1)]) == set()
    assert store._writer is not None
    with pytest.raises(StoreUnavailable, match="disk I/O error"):
        await store._writer.call(fail)
    assert await store.commit([settle(1)]) == set()
    assert await store._writer.call(lambda db: db) is not used[0]
    assert await store.tally("s") == Tally(1, 0, 0, 0)


async def test_a_connection_that_can_not_be_made_is_tried_again(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store._writer is not None

    def lose(db: sqlite3.Connection) -> None:
        exc = sqlite3.OperationalError("disk I/O error")
        exc.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise exc

    def unable(*_: object, **__: object) -> sqlite3.Connection:
        exc = sqlite3.OperationalError("unable to open database file")
        exc.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise exc

    with pytest.raises(StoreUnavailable):
        await store._writer.call(lose)
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "connect", unable)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="unable to open"):
                await store.commit([create()])
    assert await store.commit([create(), insert(1)]) == set()


async def test_a_fault_of_our_own_leaves_no_transaction(store: SqliteStore) -> None:
    def wrong(db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        raise KeyError("a fault")

    assert store._writer is not None
    with pytest.raises(KeyError):
        await store._writer.call(wrong)
    assert await store.commit([create(), insert(1)]) == set()


async def test_a_claim_whose_rows_could_not_be_read_is_made_again(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = Receipt("s", 1, 0, 0, 0, 1, True)
    assert await store.commit([create(), insert(1)]) == set()
    assert await store.commit([Release("s", 1, 1, None, True, True, receipt, 9)]) == set()

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_rare, "claimed", fail)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.claim("s")
    claimed = await store.claim("s")
    assert claimed is not None
    # Not lost with the first answer: the head has not run.
    assert claimed.was_clean
    assert claimed.session.epoch == 4
    claimed = await store.claim("s")
    assert claimed is not None
    assert not claimed.was_clean


async def test_a_caller_that_is_cancelled_does_not_stop_the_commit(store: SqliteStore) -> None:
    task = asyncio.create_task(store.commit([create(), insert(1)]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.commit([insert(2)]) == set()


async def test_closing_finishes_what_was_begun(path: Path) -> None:
    store = SqliteStore(path)
    await store.open("n1")
    tasks = [asyncio.create_task(store.commit([create(f"s{i}")])) for i in range(20)]
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    assert await asyncio.gather(*tasks) == [set()] * 20


async def test_a_loop_that_is_gone_does_not_end_the_thread(path: Path) -> None:
    def another_loop() -> None:
        async def leave() -> None:
            task = asyncio.ensure_future(in_writer(store, "SELECT 1"))
            await asyncio.sleep(0)
            task.cancel()

        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave())
        loop.close()

    store = SqliteStore(path)
    await store.open("n1")
    await asyncio.to_thread(another_loop)
    assert await in_writer(store, "SELECT 1") == [(1,)]
    await store.close()


# ---- the bounds of a key


async def test_the_last_number_of_a_session(store: SqliteStore) -> None:
    assert await store.commit([create("a"), create("b"), insert(1, "b")]) == set()
    await in_writer(
        store, f"UPDATE sessions SET accepted = {MAX_SEQ - 1}, settled = {MAX_SEQ - 1},"
        f" acked = {MAX_SEQ - 1} WHERE id = 'a'"
    )  # fmt: skip
    assert await store.commit([insert(MAX_SEQ, "a"), settle(MAX_SEQ, "a")]) == set()
    assert await store.commit([insert(MAX_SEQ + 1, "a")]) == {"a"}
    assert await store.commit([Acknowledge("a", 1, MAX_SEQ + 1, 1)]) == {"a"}
    assert await store.commit([Acknowledge("a", 1, MAX_SEQ, 1)]) == set()
    assert [r.seq async for r in store.requests("a", MAX_SEQ + 5)] == []
    assert [r.seq async for r in store.requests("b")] == [1]


async def test_session_numbers_come_round(path: Path) -> None:
    owned = sqlite_owned.Owned("n1")
    store = SqliteStore(path)
    await store.open("n1")
    assert await store.commit([create("a"), create("b")]) == set()
    await in_writer(store, f"UPDATE sessions SET n = {MAX_NUMBER} WHERE id = 'b'")
    await store.close()
    with other(path) as db:
        assert [owned.next_number(db) for _ in range(2)] == [2, 3]
        assert (MAX_NUMBER << SEQ_BITS | MAX_SEQ) << 1 | 1 == 2**63 - 1


async def test_only_sessions_of_its_own_are_remembered(store: SqliteStore) -> None:
    receipt = Receipt("a", 1, 0, 0, 0, 1, True)
    for s in "abc":
        assert await store.commit([create(s), insert(1, s)]) == set()
    assert set(store._owned.standings) == {"a", "b", "c"}
    assert await store.commit([Release("a", 1, 1, None, True, False, receipt, 9)]) == set()
    assert await store.commit([End("b", 1, 1, receipt, 9)]) == set()
    assert await store.commit([insert(1, "c", epoch=0)]) == {"c"}
    assert await store.commit([insert(1, "nobody")]) == {"nobody"}
    assert store._owned.standings == {}
    assert store._owned.ahead == {}
    assert store._owned.was_clean == {}
