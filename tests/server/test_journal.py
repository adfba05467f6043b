"""The journal: who shares a commit, and what becomes of one that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from memory_store import MemoryStore
from node_bench import settled, tasks
from sqlite_makers import ended
from virtual_time import virtual

from inorder_server.journal import BACKLOG_BYTES, Journal, backoff
from inorder_server.metrics import Metrics
from inorder_server.stores.port import (
    Create,
    Insert,
    RequestRow,
    StoreUnavailable,
)


def create(session: str) -> Create:
    return Create(session, "ada", 1, 1, "n1", 0)


def insert(session: str, seq: int, params: bytes | None = None) -> Insert:
    return Insert(session, 1, [RequestRow(seq, f"id{seq}", b"", "echo", params, 0)])


class Bench:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.metrics = Metrics()
        self.waits: list[float] = []
        self.journal = Journal(self.store, self.metrics, delays=self._delays)
        self.told: list[tuple[str, bool]] = []

    def _delays(self) -> Iterator[float]:
        for delay in backoff():
            self.waits.append(delay)
            yield delay

    async def start(self) -> None:
        await self.store.open("n1")
        self.journal.start()

    def append(self, name: str, session: str = "s") -> None:
        self.journal.append(create(session), lambda ok: self.told.append((name, ok)))

    @property
    def sizes(self) -> list[int]:
        return [len(group) for group in self.store.groups]


@virtual
async def test_what_arrives_together_shares_a_commit() -> None:
    bench = Bench()
    await bench.start()
    await settled()
    for name in "abc":
        bench.append(name)
    await settled()
    assert bench.sizes == [3]
    assert bench.told == [("a", True), ("b", True), ("c", True)]
    assert bench.metrics.commits == 1
    assert await bench.journal.close(1)


@virtual
async def test_everything_that_arrives_during_a_commit_goes_into_the_next() -> None:
    bench = Bench()
    await bench.start()
    bench.store.hold()
    bench.append("first")
    await settled()
    assert bench.store.under_way == 1
    for turn in range(5):
        bench.append(f"a{turn}", session=f"a{turn}")
        bench.append(f"b{turn}", session=f"b{turn}")
        await settled(3)
    assert bench.told == []
    assert len(bench.store.tried) == 1
    bench.store.release()
    await settled()
    assert bench.sizes == [1, 10]
    assert [name for name, _ in bench.told[1:3]] == ["a0", "b0"]
    assert await bench.journal.close(1)


@virtual
async def test_one_commit_at_a_time() -> None:
    bench = Bench()
    await bench.start()
    bench.store.hold()
    for name in "abc":
        bench.append(name)
        await settled(5)
        assert bench.store.under_way == 1
    bench.store.release()
    assert await bench.journal.close(1)
    assert bench.sizes == [1, 2]


@virtual
async def test_an_idle_journal_commits_without_waiting_for_time() -> None:
    bench = Bench()
    await bench.start()
    before = asyncio.get_running_loop().time()
    for name in "abc":
        bench.append(name)
        await bench.journal.flushed()
    assert bench.sizes == [1, 1, 1]
    assert asyncio.get_running_loop().time() == before
    assert await bench.journal.close(1)


@virtual
async def test_flushed_waits_for_what_was_appended_and_reported() -> None:
    bench = Bench()
    await bench.start()
    await bench.journal.flushed()
    bench.store.hold()
    bench.append("a")
    waiting = [asyncio.create_task(bench.journal.flushed()) for _ in range(2)]
    await settled()
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    bench.store.release()
    await waiting[1]
    assert bench.told == [("a", True)]
    assert await bench.journal.close(1)


@virtual
async def test_a_store_that_is_away_gets_the_same_batch_until_it_is_back() -> None:
    bench = Bench()
    await bench.start()
    bench.store.away = {"commit"}
    bench.append("a")
    await settled()
    assert not bench.journal.available
    bench.append("b")
    await asyncio.sleep(10)
    assert bench.told == []
    assert len(bench.store.tried) > 10
    assert all(batch == bench.store.tried[0] for batch in bench.store.tried)
    assert bench.waits[:6] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0]
    bench.store.away = set()
    await bench.journal.flushed()
    assert bench.journal.available
    assert bench.sizes == [1, 1]
    assert bench.told == [("a", True), ("b", True)]
    # The next trouble begins with a short wait again.
    bench.waits.clear()
    bench.store.broken = [StoreUnavailable("again")]
    bench.append("c")
    await bench.journal.flushed()
    assert bench.waits == [0.05]
    assert await bench.journal.close(1)


@virtual
async def test_a_commit_whose_answer_was_lost_is_made_again_and_told_once() -> None:
    bench = Bench()
    await bench.start()
    bench.store.lose_answers = 1
    bench.append("a")
    bench.journal.append(insert("s", 1), lambda ok: bench.told.append(("row", ok)))
    await bench.journal.flushed()
    assert len(bench.store.tried) == 2
    assert bench.told == [("a", True), ("row", True)]
    assert bench.store.database.sessions["s"].accepted == 1
    assert await bench.journal.close(1)


@virtual
async def test_a_fault_of_the_store_that_has_no_name_loses_nothing_either() -> None:
    bench = Bench()
    await bench.start()
    bench.store.broken = [RuntimeError("a bug"), KeyError("another")]
    bench.append("a")
    await bench.journal.flushed()
    assert bench.told == [("a", True)]
    assert len(bench.store.tried) == 3
    assert await bench.journal.close(1)


@virtual
async def test_a_fenced_session_fails_alone() -> None:
    bench = Bench()
    await bench.start()
    bench.append("mine", session="mine")
    bench.append("theirs", session="theirs")
    await bench.journal.flushed()
    bench.store.take_away("theirs")
    bench.told.clear()
    for session in ("mine", "theirs", "mine"):
        bench.append(session, session=session)
    await bench.journal.flushed()
    assert bench.told == [("mine", True), ("theirs", False), ("mine", True)]
    assert bench.journal.available
    assert await bench.journal.close(1)


@virtual
async def test_a_callback_that_fails_harms_no_other() -> None:
    bench = Bench()
    await bench.start()
    bench.append("a")

    def fails(ok: bool) -> None:
        raise RuntimeError("trouble of one session")

    bench.journal.append(create("t"), fails)
    bench.append("b")
    await bench.journal.flushed()
    assert [name for name, _ in bench.told] == ["a", "b"]
    bench.append("c")
    await bench.journal.flushed()
    assert bench.told[-1] == ("c", True)
    assert await bench.journal.close(1)


@virtual
async def test_a_callback_may_append() -> None:
    bench = Bench()
    await bench.start()
    bench.journal.append(create("s"), lambda ok: bench.append("next"))
    bench.append("beside")
    await bench.journal.flushed()
    assert [name for name, _ in bench.told] == ["beside", "next"]
    assert bench.sizes == [2, 1]
    assert await bench.journal.close(1)


@virtual
async def test_too_much_that_waits_is_overload() -> None:
    bench = Bench()
    await bench.start()
    await settled()
    bench.store.hold()
    bench.append("first")
    await settled()
    half = b"x" * (BACKLOG_BYTES // 2)
    bench.journal.append(insert("s", 1, half), lambda ok: None, len(half))
    assert not bench.journal.overloaded
    bench.journal.append(ended("s", 1, 1, "done", half, 0), lambda ok: None, len(half))
    assert bench.journal.overloaded
    bench.store.release()
    await bench.journal.flushed()
    assert not bench.journal.overloaded
    assert await bench.journal.close(1)


@virtual
async def test_a_batch_that_is_tried_again_counts_as_waiting() -> None:
    bench = Bench()
    await bench.start()
    bench.append("first")
    await bench.journal.flushed()
    bench.store.away = {"*"}
    much = b"x" * BACKLOG_BYTES
    bench.journal.append(insert("s", 1, much), lambda ok: None, len(much))
    await asyncio.sleep(5)
    assert bench.journal.overloaded
    bench.store.away = set()
    await bench.journal.flushed()
    assert not bench.journal.overloaded
    assert await bench.journal.close(1)


@virtual
async def test_closing_commits_what_waits() -> None:
    bench = Bench()
    await bench.start()
    bench.store.hold()
    bench.append("a")
    await settled()
    bench.append("b")
    closing = asyncio.create_task(bench.journal.close(5))
    await settled()
    bench.store.release()
    assert await closing
    assert [name for name, _ in bench.told] == ["a", "b"]
    assert tasks() == []


@virtual
async def test_closing_is_bounded() -> None:
    bench = Bench()
    await bench.start()
    bench.store.away = {"*"}
    bench.append("a")
    before = asyncio.get_running_loop().time()
    assert not await bench.journal.close(3)
    assert asyncio.get_running_loop().time() - before < 4.1
    assert bench.told == []
    assert tasks() == []


@virtual
async def test_closing_what_never_started() -> None:
    assert await Bench().journal.close(1)


def test_the_backoff_is_bounded() -> None:
    delays = backoff(first=0.1, factor=3, most=2)
    assert [next(delays) for _ in range(5)] == pytest.approx([0.1, 0.3, 0.9, 2, 2])
