"""What is opened for the handlers, and closed after them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from inorder_server import lifespan
from inorder_server.handlers.api import HandlerError
from inorder_server.handlers.lifespans import Lifespans

EVENTS: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    EVENTS.clear()


def make(name: str) -> Any:
    @lifespan
    async def life() -> AsyncGenerator[str, None]:
        EVENTS.append(f"+{name}")
        try:
            yield name
        finally:
            EVENTS.append(f"-{name}")

    return life


@lifespan
async def broken() -> AsyncGenerator[None, None]:
    raise OSError("no such\ndatabase")
    yield


@lifespan
async def empty() -> AsyncGenerator[None, None]:
    if EVENTS == ["never"]:
        yield


@lifespan
async def stuck() -> AsyncGenerator[str, None]:
    yield "stuck"
    await asyncio.Event().wait()


@lifespan
async def bad_end() -> AsyncGenerator[str, None]:
    yield "bad end"
    raise OSError("could not be closed")


async def test_none() -> None:
    lifespans = Lifespans([])
    await lifespans.enter()
    assert await lifespans.leave(1) == []


async def test_in_order_and_back() -> None:
    a, b = make("a"), make("b")
    lifespans = Lifespans([a, b])
    await lifespans.enter()
    assert lifespans.resources == {a: "a", b: "b"}
    assert EVENTS == ["+a", "+b"]
    assert await lifespans.leave(10) == []
    assert EVENTS == ["+a", "+b", "-b", "-a"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (broken, r"test_lifespans\.broken: the lifespan failed: OSError: no such database$"),
        (empty, r"test_lifespans\.empty: the lifespan failed: RuntimeError: generator didn't"),
    ],
)
async def test_one_that_fails_stops_the_start(function: Any, message: str) -> None:
    lifespans = Lifespans([make("a"), function, make("b")])
    with pytest.raises(HandlerError, match=message):
        await lifespans.enter()
    assert EVENTS == ["+a", "-a"]
    assert await lifespans.leave(1) == []


async def test_a_start_that_is_given_up() -> None:
    begun = asyncio.Event()

    @lifespan
    async def slow() -> AsyncGenerator[None, None]:
        begun.set()
        await asyncio.Event().wait()
        yield

    lifespans = Lifespans([make("a"), slow])
    task = asyncio.create_task(lifespans.enter())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert EVENTS == ["+a", "-a"]
    assert not [t for t in asyncio.all_tasks() if t.get_name() == "handlers-lifespans"]


async def test_one_that_does_not_end_is_named() -> None:
    lifespans = Lifespans([make("a"), stuck, make("b")])
    await lifespans.enter()
    left = await lifespans.leave(0.01)
    assert left == [f"lifespan {__name__}.make.<locals>.life", f"lifespan {__name__}.stuck"]
    assert EVENTS == ["+a", "+b", "-b", "-a"]


async def test_one_that_fails_at_its_end(logs: list[Any]) -> None:
    lifespans = Lifespans([make("a"), bad_end])
    await lifespans.enter()
    assert await lifespans.leave(10) == []
    assert EVENTS == ["+a", "-a"]
    assert "bad_end failed" in logs[0]["message"]


async def test_one_whose_own_task_fails_meanwhile(logs: list[Any]) -> None:
    fail = asyncio.Event()

    async def helper() -> None:
        await fail.wait()
        raise OSError("gone")

    @lifespan
    async def group() -> AsyncGenerator[str, None]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(helper())
            yield "group"

    lifespans = Lifespans([make("a"), group])
    await lifespans.enter()
    fail.set()
    while not logs:
        await asyncio.sleep(0)
    assert "group failed" in logs[0]["message"]
    assert await lifespans.leave(10) == []
    assert EVENTS == ["+a", "-a"]


async def test_a_cancellation_from_outside_ends_them() -> None:
    lifespans = Lifespans([make("a")])
    await lifespans.enter()
    (task,) = [t for t in asyncio.all_tasks() if t.get_name() == "handlers-lifespans"]
    task.cancel()
    assert await lifespans.leave(10) == []
    assert EVENTS == ["+a", "-a"]
