"""What a connection says: each word of its queue as a message of the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from fake_socket import FakeSocket
from node_bench import settled
from virtual_time import virtual

from inorder.messages import Receipt
from inorder_server.acceptances import Hold
from inorder_server.handlers.api import Request as HandlerRequest
from inorder_server.handlers.api import User
from inorder_server.metrics import Metrics
from inorder_server.refusal import Refusal
from inorder_server.session import Entry, Refused
from inorder_server.stores.port import Outcome
from inorder_server.voice import Phase, Voice

RECEIPT = Receipt("s", 3, 1, 1, 1, 0, True)


def entry(seq: int, *, numbered: bool = True) -> Entry:
    made = Entry(seq, f"r{seq}", b"", "echo", None, None, None, 0.0)
    made.numbered = numbered
    return made


async def nothing(after: int, upto: int, most: int) -> list[Outcome]:
    return []


@asynccontextmanager
async def speaking(*, opened: bool = True) -> AsyncIterator[tuple[Voice, FakeSocket]]:
    socket = FakeSocket()
    voice = Voice(socket, Metrics(), Hold(), batch=16, patience=30)  # type: ignore[arg-type]
    voice.outbox.arrays = True
    if opened:
        voice.phase = Phase.OPEN
        voice.outbox.open(0, lambda: 0, lambda: 0, nothing)
    writer = asyncio.create_task(voice.outbox.write())
    yield voice, socket
    socket.go()
    writer.cancel()
    await asyncio.wait([writer])


@virtual
async def test_every_word() -> None:
    async with speaking() as (voice, socket):
        voice.accepted([entry(1, numbered=False)], 0, False)
        voice.progress(HandlerRequest(User("ann"), id="r1", seq=1), 3, b'{"step":"a"}')
        voice.settled([Outcome(1, "r1", "done", b"[1]")])
        voice.cancelling(entry(2))
        voice.refused("request", Refused("out_of_order", "m", 0, {"expected": 3}), "x")
        voice.draining(2.00049)
        voice.refusal("hello", Refusal("rate_limited", "m", after=1.5, details={"a": 1}))
        voice.error("bad_json", "m")
        voice.unauthenticated("cancel", "x")
        voice.farewell(RECEIPT)
        await settled()
        assert socket.seen == [
            {"type": "accepted", "id": "r1", "seq": 1, "ahead": 0},
            {
                "type": "progress",
                "id": "r1",
                "seq": 1,
                "attempt": 1,
                "n": 3,
                "progress": {"step": "a"},
            },
            {"type": "result", "id": "r1", "seq": 1, "result": [1]},
            {"type": "cancelling", "id": "r2", "seq": 2},
            {
                "type": "error",
                "code": "out_of_order",
                "message": "m",
                "retry": True,
                "id": "x",
                "of": "request",
                "after": 0,
                "details": {"expected": 3},
            },
            {"type": "draining", "deadline": 2.0},
            {
                "type": "error",
                "code": "rate_limited",
                "message": "m",
                "retry": True,
                "of": "hello",
                "after": 1.5,
                "details": {"a": 1},
            },
            {"type": "error", "code": "bad_json", "message": "m", "retry": False},
            {
                "type": "error",
                "code": "unauthenticated",
                "message": "log in first",
                "retry": False,
                "id": "x",
                "of": "cancel",
            },
            {"type": "bye", "receipt": msgspec.to_builtins(RECEIPT)},
        ]
        assert socket.closed == (1000, "done")
        assert voice.phase is Phase.CLOSED
        assert voice._metrics.refused == {"rate_limited": 1, "bad_json": 1, "unauthenticated": 1}


@virtual
async def test_a_repeat_and_the_end_of_the_row() -> None:
    async with speaking() as (voice, socket):
        voice.settled([Outcome(1, "r1", "done", b"1")])
        voice.outbox._read = lambda *_: found()  # type: ignore[assignment]

        async def found() -> list[Outcome]:
            return [Outcome(1, "r1", "done", b"1")]

        assert await voice.caught_up()
        voice.repeat(1)
        await settled()
        assert socket.types == ["result", "result"]


@virtual
async def test_before_the_welcome_the_queue_is_not_heard() -> None:
    async with speaking(opened=False) as (voice, socket):
        voice.accepted([entry(1)], 0, False)
        voice.progress(HandlerRequest(User("ann")), 1, b"1")
        voice.settled([Outcome(1, "r1", "done", b"1")])
        voice.cancelling(entry(1))
        voice.draining(5)
        await settled()
        assert socket.frames == []


@virtual
async def test_too_slow() -> None:
    async with speaking() as (voice, socket):
        voice.too_slow(5)
        await settled()
        assert socket.closed == (4510, "slow_client")
        assert voice.phase is Phase.CLOSED
