"""The threads, and who gets them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from inorder_server.handlers.pool import Job, Pool

Until = Callable[[Callable[[], object]], Awaitable[None]]


class Log:
    """Makes jobs that say what happens to them."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[tuple[str, Any]] = []
        self.dropped: list[str] = []

    def job(self, user: str, work: Callable[[], Any] | None = None, name: str = "") -> Job[Any]:
        name = name or user
        return Job(
            user,
            name,
            work or (lambda: name.upper()),
            lambda: self.started.append(name),
            lambda outcome: self.ended.append((name, outcome)),
            lambda: self.dropped.append(name),
        )


@pytest.fixture
def log() -> Log:
    return Log()


async def test_a_job_runs_in_a_thread_and_ends_on_the_loop(log: Log, until: Until) -> None:
    pool: Pool[Any] = Pool(2)
    pool.submit(log.job("ada", threading.get_ident))
    assert log.started == ["ada"]
    await until(lambda: log.ended)
    assert log.ended[0][1] != threading.get_ident()
    assert await pool.close(10) == []


async def test_users_take_turns(log: Log, until: Until) -> None:
    pool: Pool[Any] = Pool(1)
    gate = threading.Event()
    pool.submit(log.job("ada", gate.wait, "a0"))
    for n in range(1, 4):
        pool.submit(log.job("ada", name=f"a{n}"))
    for user in ("bob", "eve"):
        for n in range(2):
            pool.submit(log.job(user, name=f"{user[0]}{n}"))
    assert log.started == ["a0"]
    gate.set()
    await until(lambda: len(log.ended) == 8)
    assert log.started == ["a0", "a1", "b0", "e0", "a2", "b1", "e1", "a3"]
    assert await pool.close(10) == []


async def test_no_more_threads_than_asked_for(log: Log, until: Until) -> None:
    pool: Pool[Any] = Pool(3)
    together = threading.Barrier(3)
    for n in range(9):
        pool.submit(log.job(f"u{n}", together.wait))
    assert len(log.started) == 3
    await until(lambda: len(log.ended) == 9)
    assert await pool.close(10) == []


async def test_threads_are_used_again(log: Log, until: Until) -> None:
    pool: Pool[Any] = Pool(8)
    for n in range(5):
        pool.submit(log.job("ada", threading.get_ident))
        await until(lambda n=n: len(log.ended) == n + 1)
    assert len({ident for _, ident in log.ended}) == 1
    assert await pool.close(10) == []


async def test_what_waits_can_be_withdrawn(log: Log, until: Until) -> None:
    pool: Pool[Any] = Pool(1)
    gate = threading.Event()
    running = log.job("ada", gate.wait)
    waiting = [log.job("bob", name=f"b{n}") for n in range(2)]
    last = log.job("eve")
    for job in (running, *waiting, last):
        pool.submit(job)
    assert not pool.withdraw(running)
    assert pool.withdraw(waiting[0])
    assert not pool.withdraw(waiting[0])
    assert pool.withdraw(waiting[1])
    gate.set()
    await until(lambda: len(log.ended) == 2)
    assert log.started == ["ada", "eve"]
    assert not pool.withdraw(last)
    assert await pool.close(10) == []


async def test_close_names_what_is_stuck_and_drops_what_waits(log: Log, until: Until) -> None:
    pool: Pool[Any] = Pool(1)
    gate = threading.Event()
    pool.submit(log.job("ada", gate.wait, "stuck"))
    pool.submit(log.job("bob"))
    assert await pool.close(0) == ["stuck"]
    pool.submit(log.job("eve"))
    assert log.dropped == ["bob", "eve"]
    gate.set()
    await until(lambda: log.ended)
    assert log.started == ["stuck"]
    assert await pool.close(10) == []


async def test_close_waits_for_what_runs(log: Log) -> None:
    pool: Pool[Any] = Pool(1)
    gate = threading.Event()
    pool.submit(log.job("ada", gate.wait))
    closing = asyncio.create_task(pool.close(10))
    await asyncio.sleep(0)
    assert not closing.done()
    gate.set()
    assert await closing == []
    assert log.ended == [("ada", True)]


async def test_an_end_that_fails_does_not_stop_the_others(log: Log, until: Until) -> None:
    troubles: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
    pool: Pool[Any] = Pool(1)
    bad = log.job("ada")
    bad.ended = lambda outcome: 1 / 0
    pool.submit(bad)
    pool.submit(log.job("bob"))
    await until(lambda: log.ended)
    assert isinstance(troubles[0]["exception"], ZeroDivisionError)
    assert await pool.close(10) == []


async def test_the_system_gives_no_more_threads(
    log: Log, until: Until, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    pool: Pool[Any] = Pool(3)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for name in ("ada", "bob", "eve"):
        pool.submit(log.job(name))
    assert log.started == ["ada"]
    await until(lambda: len(log.ended) == 3)
    assert [record["message"] for record in logs] == [
        "no more than 1 threads for handlers could be made"
    ]
    with pytest.raises(RuntimeError):
        Pool(1)
    assert await pool.close(10) == []


def test_a_thread_that_outlives_the_loop() -> None:
    gate = threading.Event()
    log = Log()
    before = set(threading.enumerate())

    async def main() -> None:
        pool: Pool[Any] = Pool(1)
        pool.submit(log.job("ada", gate.wait))
        await pool.close(0)

    asyncio.run(main())
    (thread,) = set(threading.enumerate()) - before
    gate.set()
    thread.join(10)
    assert not thread.is_alive()
    assert log.ended == []
