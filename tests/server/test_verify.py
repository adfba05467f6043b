"""The audit: clean on a journal that is right, and a line for each way it can be wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_file import SEQ_BITS, pack, spread
from sqlite_makers import ended

from inorder.messages import Receipt
from inorder_server import verify
from inorder_server.stores.port import (
    Acknowledge,
    Create,
    End,
    Insert,
    Release,
    RequestRow,
    Settle,
    Write,
)
from inorder_server.stores.sqlite import SqliteStore
from inorder_server.verify import Report, audit


def insert(seq: int, session: str = "s") -> Insert:
    return Insert(session, 1, [RequestRow(seq, f"id-{seq}", b"d", "echo", b"1", 5)])


def settle(seq: int, session: str = "s", ending: str = "done") -> Settle:
    return ended(session, 1, seq, ending, b"{}", 6)  # type: ignore[arg-type]


def receipt(session: str, done: int, failed: int, cancelled: int, pending: int) -> Receipt:
    accepted = done + failed + cancelled + pending
    return Receipt(session, accepted, done, failed, cancelled, pending, True)


JOURNAL: list[Write] = [
    Create("s", "ann", 1, 1, "n1", 1),
    *[insert(n) for n in range(1, 9)],
    *[settle(n, ending=e) for n, e in enumerate(["done", "failed", "cancelled", "done"], 1)],
    Acknowledge("s", 1, 2, 5),
    Create("left", "ann", 1, 1, "n1", 2),
    insert(1, "left"),
    insert(2, "left"),
    settle(1, "left"),
    Release("left", 1, 1, None, True, True, receipt("left", 1, 0, 0, 1), 9),
    Create("ended", "bob", 1, 1, "n1", 3),
    insert(1, "ended"),
    insert(2, "ended"),
    settle(1, "ended", "failed"),
    settle(2, "ended"),
    Acknowledge("ended", 1, 1, 5),
    End("ended", 1, 2, receipt("ended", 1, 1, 0, 0), 9),
    Create("blocked", "bob", 1, 1, "n1", 4),
    insert(1, "blocked"),
    insert(2, "blocked"),
    settle(1, "blocked"),
    End("blocked", 1, 2, receipt("blocked", 1, 0, 0, 1), 9),
]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "inorder.db")
    await store.open("n1")
    assert await store.commit(JOURNAL) == set()
    yield store
    await store.close()


async def test_an_empty_journal_is_clean(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "inorder.db")
    await store.open("n1")
    assert await audit(store) == Report()
    await store.close()


async def test_a_right_journal_is_clean_and_counted(store: SqliteStore) -> None:
    report = await audit(store)
    assert report.findings == []
    assert report.clean
    assert report == Report(
        sessions=4, accepted=14, done=5, failed=2, cancelled=1, pending=6, acknowledged=5
    )


def spoilt(folder: Path) -> sqlite3.Connection:
    db = sqlite3.connect(folder / "inorder.db", isolation_level=None)
    spread(db)
    db.create_function("REQUEST", 2, lambda n, seq: (n << SEQ_BITS | seq) << 1)
    db.create_function("OUTCOME", 2, lambda n, seq: (n << SEQ_BITS | seq) << 1 | 1)
    db.create_function("NAME", 1, lambda id: pack([(id, b"d", "echo")]))
    db.create_function("BODY", 0, lambda: pack([(1, b"x")]))
    return db


# Session s has n = 1, left 2, ended 3, blocked 4; each row has one request, or one
# outcome, and the key REQUEST(n, seq) or OUTCOME(n, seq); those stripped n << 34 | seq.
WRONG = [
    ("DELETE FROM runs WHERE key = REQUEST(1, 6)", "s: request 6 without a row (G3)"),
    ("DELETE FROM runs WHERE key >= REQUEST(1, 6) AND key < REQUEST(2, 0)",
     "s: requests 6 to 8 without a row (G3)"),
    ("DELETE FROM runs WHERE key IN (REQUEST(1, 4), REQUEST(1, 5))",
     "s: requests 4 to 5 without a row (G3)"),
    ("UPDATE sessions SET accepted = 6 WHERE id = 's'",
     "s: requests 7 to 8 with a row, not accepted (G6)"),
    ("DELETE FROM runs WHERE key = OUTCOME(1, 4)", "s: request 4 has half an outcome (G3)"),
    ("DELETE FROM runs WHERE key = OUTCOME(1, 3)", "s: request 3 has half an outcome (G3)"),
    ("DELETE FROM runs WHERE key = OUTCOME(1, 3)",
     "s: request 4 is settled, 3 before it not (G1)"),
    ("DELETE FROM runs WHERE key = REQUEST(1, 3)",
     "s: request 3: an outcome without a request (G3)"),
    ("INSERT INTO runs VALUES (OUTCOME(1, 1), 1, 'd', BODY())",
     "s: request 1: an outcome without a request (G3)"),
    ("INSERT INTO runs VALUES (OUTCOME(1, 9), 1, 'd', BODY())",
     "s: request 9: an outcome without a request (G3)"),
    ("UPDATE runs SET head = 'l' WHERE key = OUTCOME(1, 3)",
     "s: request 3 ended as 'l' (G3)"),
    ("INSERT INTO runs VALUES (OUTCOME(1, 7), 1, 'd', BODY())",
     "s: request 7 is settled, 5 before it not (G1)"),
    ("UPDATE runs SET head = NAME('id-4') WHERE key = REQUEST(1, 6)",
     "s: request 6: the id 'id-4' was accepted twice (G5)"),
    ("UPDATE stripped SET names = NAME('id-6') WHERE key = 1 << 34 | 1",
     "s: request 6: the id 'id-6' was accepted twice (G5)"),
    ("UPDATE stripped SET key = 1 << 34 | 3 WHERE key = 1 << 34 | 2",
     "s: request 3 is stripped but not acknowledged (G3)"),
    ("UPDATE runs SET key = REQUEST(1, 2) WHERE key = REQUEST(1, 3)",
     "s: request 2 is acknowledged but not stripped"),
    ("UPDATE sessions SET done = done + 1 WHERE id = 's'",
     "s: 2 acknowledged, but 3 in the tally (G6)"),
    ("UPDATE sessions SET done = done + 1 WHERE id = 's'",
     "s: 8 accepted, but 3 done, 1 failed, 1 cancelled, 4 pending (G6)"),
    ("UPDATE sessions SET acked = 9, done = 8 WHERE id = 's'",
     "s: 9 acknowledged of 8 accepted (G6)"),
    ("UPDATE sessions SET receipt = replace(receipt, '\"done\":1', '\"done\":2') WHERE id = 'left'",
     "left: its receipt says 2 accepted, but 2 done, 0 failed, 0 cancelled, 1 pending (G6)"),
    ("UPDATE runs SET head = 'f' WHERE key = OUTCOME(2, 1)",
     "left: its receipt says 2 accepted, 1 done, 0 failed, 0 cancelled, 1 pending;"
     " the journal 2, 0 done, 1 failed, 0 cancelled, 1 pending (G6)"),
    ("UPDATE sessions SET receipt = NULL WHERE id = 'ended'",
     "ended: it ended without a receipt (G6)"),
    ("UPDATE sessions SET receipt = replace(receipt, 'true', 'false') WHERE id = 'ended'",
     "ended: its receipt says that it could not be verified (G6)"),
    ("UPDATE sessions SET receipt = replace(receipt, '\"ended\"', '\"else\"') WHERE id = 'ended'",
     "ended: its receipt is that of else (G6)"),
    ("UPDATE sessions SET failed = 0, cancelled = 1 WHERE id = 'ended'",
     "ended: its receipt says 2 accepted, 1 done, 1 failed, 0 cancelled, 0 pending;"
     " the journal 2, 1 done, 0 failed, 1 cancelled, 0 pending (G6)"),
    ("UPDATE sessions SET accepted = 3 WHERE id = 'blocked'",
     "blocked: 3 accepted, but 1 done, 0 failed, 0 cancelled, 0 pending at its end (G6)"),
    ("INSERT INTO runs SELECT REQUEST(3, 1), 1, head, bodies FROM runs"
     " WHERE key = REQUEST(1, 5)", "ended: it ended, but has rows"),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "line"), WRONG, ids=[line for _, line in WRONG])
async def test_what_is_wrong_is_found(
    store: SqliteStore, tmp_path: Path, statement: str, line: str
) -> None:
    with closing(spoilt(tmp_path)) as db:
        assert db.execute(statement).rowcount > 0
    report = await audit(store)
    assert line in report.findings
    assert not report.clean
    # And it says nothing of the others.
    assert {f.split(":")[0] for f in report.findings} == {line.split(":")[0]}


async def test_findings_are_bounded(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_MOST_FINDINGS", 3)
    with closing(spoilt(tmp_path)) as db:
        db.execute("UPDATE runs SET head = NAME('same') WHERE NOT key & 1")
    report = await audit(store)
    assert len(report.findings) == 3
    assert report.more == 3


class Busy(SqliteStore):
    """Accepts another request of session s whenever somebody looks at it."""

    accepting = 0

    async def tally(self, session: str):  # type: ignore[no-untyped-def]
        if session == "s" and self.accepting:
            self.accepting -= 1
            found = await self.session("s")
            assert found is not None
            await self.commit([insert(found.accepted + 1)])
        return await super().tally(session)


@pytest.mark.parametrize(("times", "moving"), [(1, 0), (3, 0), (1000, 1)])
async def test_a_session_at_work_is_no_finding(tmp_path: Path, times: int, moving: int) -> None:
    store = Busy(tmp_path / "inorder.db")
    await store.open("n1")
    assert await store.commit(JOURNAL) == set()
    store.accepting = times
    report = await audit(store)
    assert report.findings == []
    assert report.moving == moving
    assert report.sessions == 4
    await store.close()


async def test_a_session_that_expires_meanwhile_is_passed_over(tmp_path: Path) -> None:
    class Expiring(SqliteStore):
        async def sessions(self):  # type: ignore[no-untyped-def]
            found = await super().sessions()
            await self.expire(0, 1000)
            return found

    store = Expiring(tmp_path / "inorder.db")
    await store.open("n1")
    assert await store.commit(JOURNAL) == set()
    assert (await audit(store)).sessions == 2
    await store.close()
