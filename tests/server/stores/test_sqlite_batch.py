"""A group's writes together, and one by one: two ways that must agree."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from inorder.messages import Receipt
from inorder_server.stores import sqlite_writes
from inorder_server.stores.port import (
    Acknowledge,
    Attach,
    Create,
    End,
    Insert,
    MarkCancel,
    MarkStart,
    RequestRow,
    Settle,
    Write,
)
from inorder_server.stores.sqlite import SqliteStore
from inorder_server.stores.sqlite_rows import requests
from inorder_server.stores.sqlite_runs import decode_bodies, decode_names, decode_outcomes
from inorder_server.stores.sqlite_schema import MAX_SEQ, SEQ_BITS


def create(session: str = "s") -> Create:
    return Create(session, "ann", 1, 1, "n1", 1)


def insert(seq: int, session: str = "s", epoch: int = 1, body: bytes = b"1") -> Insert:
    return Insert(session, epoch, RequestRow(seq, f"id-{seq}", b"digest", "echo", body, 5))


def settle(seq: int, session: str = "s", epoch: int = 1, body: bytes = b"1") -> Settle:
    return Settle(session, epoch, seq, "done", body, 6)


async def in_writer(store: SqliteStore, statement: str) -> Any:
    return await store._write.call(lambda db: db.execute(statement).fetchall())


def random_group(rng: random.Random, numbers: dict[str, list[int]]) -> list[Write]:
    """Writes as a node makes them, with mistakes and repeats among them."""
    writes: list[Write] = []
    for _ in range(rng.randrange(1, 25)):
        s = rng.choice("abcd")
        epoch = 1 if rng.random() < 0.98 else 2
        if s not in numbers:
            numbers[s] = [0, 0, 0]
            writes.append(create(s))
        accepted, settled, acked = numbers[s]
        wrong = rng.choice((-2, -1, 1, 2)) if rng.random() < 0.05 else 0
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
        elif kind < 0.88:
            writes.append(MarkCancel(s, epoch, settled + 1 + wrong))
        elif kind < 0.9:
            writes.append(Attach(s, epoch, 1))
        elif kind < 0.91:
            receipt = Receipt(s, accepted, 0, 0, 0, 0, True)
            writes.append(End(s, epoch, accepted + wrong, receipt, 9))
        elif writes:
            writes.append(rng.choice(writes))
    return writes


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


@pytest.mark.parametrize("seed", range(40))
async def test_together_and_one_by_one_agree(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [SqliteStore(tmp_path / f"{name}.db") for name in ("together", "single")]
    for store in stores:
        await store.open("n1")
        await in_writer(store, "PRAGMA synchronous = OFF")
    rng = random.Random(seed)
    numbers: dict[str, list[int]] = {}
    for _ in range(30):
        group = random_group(rng, numbers)
        again = rng.random() < 0.2
        answers = [await stores[0].commit(group) for _ in range(1 + again)]
        with monkeypatch.context() as patch:
            patch.setattr(sqlite_writes, "USUAL", frozenset())
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
        dumps = [await store._read.call(dump) for store in stores]
        assert dumps[0] == dumps[1], "\n".join(map(str, group))
        for store in stores:
            await store._read.call(check_runs)
    for store in stores:
        await store.close()
