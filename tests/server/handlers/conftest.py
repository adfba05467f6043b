"""What the tests of the handlers share: a clock that is set by hand, methods made of
functions, a runner, and the lines that were logged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from loguru import logger

from inorder_server.handlers import Request, User, handler
from inorder_server.handlers.api import options_of
from inorder_server.handlers.methods import Method, Methods
from inorder_server.handlers.runner import Attempt, Runner, Verdict


@pytest.fixture(autouse=True)
def _nothing_blocks() -> Iterator[None]:
    """A blocking call on the loop fails the test; writing a line of the log is none."""
    with blockbuster_ctx("inorder_server") as blockbuster:
        for function in blockbuster.functions.values():
            function.can_block_in("loguru/_logger.py", {"_log"})
        yield


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """The log's records."""
    records: list[Any] = []
    sink = logger.add(lambda message: records.append(message.record), level=0)
    yield records
    logger.remove(sink)


class Alarm:
    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class HandTime:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.alarms: list[Alarm] = []

    def clock(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1_000_000

    def later(self, delay: float, call: Callable[[], None]) -> Alarm:
        alarm = Alarm(self.now + delay, call)
        self.alarms.append(alarm)
        return alarm

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [a for a in self.alarms if a.due <= self.now and not a.cancelled]
        self.alarms = [a for a in self.alarms if a not in due]
        for alarm in due:
            alarm.call()


@pytest.fixture
def time() -> HandTime:
    return HandTime()


def method(function: Callable[..., Any]) -> Method:
    options = options_of(function) or options_of(handler(function))
    assert options is not None
    return Method(function, options)


class Bench:
    """A runner for functions that need not be in a module."""

    def __init__(self, time: HandTime, threads: int, outcome_bytes: int) -> None:
        self.time = time
        self.threads = threads
        self.outcome_bytes = outcome_bytes
        self.progress: list[tuple[int, bytes]] = []
        self.runner: Runner

    async def take(self, *functions: Callable[..., Any]) -> None:
        time = self.time
        self.runner = Runner(
            Methods([method(function) for function in functions], []),
            threads=self.threads,
            outcome_bytes=self.outcome_bytes,
            clock=time.clock,
            wall=time.wall,
            later=time.later,
        )
        await self.runner.start()

    def attempt(
        self,
        function: Callable[..., Any],
        params: bytes | None = None,
        *,
        user: str = "ada",
        seq: int = 1,
        attempt: int = 1,
        timeout: float | None = None,
        last: bool = True,
        on_progress: Callable[[Request, int, bytes], None] | None = None,
    ) -> Attempt:
        found = self.runner.methods.get(function.__name__)
        assert found is not None
        return self.runner.attempt(
            found,
            found.bind(params),
            Request(User(user), "s", f"id{seq}", seq, attempt),
            timeout,
            last,
            on_progress or (lambda _, n, body: self.progress.append((n, body))),
        )

    async def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Verdict:
        """Takes the function and runs it once."""
        await self.take(function)
        return await self.runner.run(self.attempt(function, *args, **kwargs))

    def start(self, attempt: Attempt) -> asyncio.Task[Verdict]:
        """Runs it in a task of its own, the consumer's."""
        return asyncio.create_task(self.runner.run(attempt))


@pytest.fixture
async def bench(time: HandTime) -> AsyncIterator[Bench]:
    made = Bench(time, threads=2, outcome_bytes=200)
    yield made
    assert await made.runner.close(10) == []


async def until(condition: Callable[[], object]) -> None:
    """Lets the loop turn until something holds; threads get their chance too."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(name="until")
def _until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    return until


@pytest.fixture(name="method")
def _method() -> Callable[[Callable[..., Any]], Method]:
    return method
