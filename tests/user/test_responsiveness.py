"""A handler that works for a minute holds up nothing but what is queued behind it.

``cancel``, ``ping`` and the close are answered within 100 ms. That is the median of several
tries: one of them may meet a busy machine, most of them don't.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from statistics import median

import pytest
import pytest_asyncio
from frames import Json, RawClient, request
from vector_server import ServerProcess

HANDLERS = Path(__file__).parents[1] / "user_handlers.py"
BOUND = 0.1
BOUND_ON_MONGODB = 0.5  # a stand-in for it takes its time
TRIES = 11
MINUTE = {
    "sleep": request("sleep", 60),
    "async": request("minute"),
    "thread": request("minute_thread"),
    "busy thread": request("minute_busy"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(HANDLERS, folder)
    # As it comes: logs on, one process, both kinds of handlers.
    config = {"handlers": {"modules": ["user_handlers"]}, "session": {"on_disconnect": "cancel"}}
    started = ServerProcess(folder, config)
    started.add_user("ann", "correct horse", admin=False)
    await started.start()
    yield started
    await started.close()


@pytest.fixture
def bound(on_mongodb: bool) -> float:
    """Seconds, of what waits for the database, too."""
    return BOUND_ON_MONGODB if on_mongodb else BOUND


@pytest.fixture(params=MINUTE)
def work(request: pytest.FixtureRequest) -> Json:
    """A request that runs for a minute."""
    return MINUTE[request.param]


async def seconds(do: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await do()
    return time.perf_counter() - began


async def begin(client: RawClient, work: Json, seq: int) -> None:
    """Has a handler run, with more queued behind it."""
    await client.send(
        {**work, "id": f"work-{seq}", "seq": seq}, request("echo", "behind", seq=seq + 1)
    )
    await client.until("accepted")
    while True:
        await client.send({"type": "status"})
        if "running" in await client.until("status"):
            return


async def test_a_ping(server, work: Json) -> None:
    took = []
    async with RawClient(server.url) as client:
        await client.hello(username="ann", password="correct horse")
        await begin(client, work, 1)
        for n in range(TRIES):
            await client.send({"type": "ping", "data": n})
            took.append(await seconds(lambda: client.until("pong")))
        assert not client.outcomes, "it is still running"
    assert median(took) < BOUND, took


async def test_a_cancel(server, work: Json, bound: float) -> None:
    """Both its answer and, since the work stops at once, the outcome and what was behind it."""
    told, ended = [], []
    async with RawClient(server.url) as client:
        await client.hello(username="ann", password="correct horse")
        for seq in range(1, 2 * TRIES, 2):
            await begin(client, work, seq)
            assert len(client.outcomes) == seq - 1, "it is still running"
            began = time.perf_counter()
            await client.send({"type": "cancel", "id": f"work-{seq}"})
            await client.until("cancelling")
            told.append(time.perf_counter() - began)
            assert (await client.until_outcome(seq))["code"] == "cancelled"
            assert (await client.until_outcome(seq + 1))["result"] == "behind"
            ended.append(time.perf_counter() - began)
        receipt = await client.bye()
    assert median(told) < bound, told
    assert median(ended) < bound, ended
    assert (receipt["cancelled"], receipt["done"], receipt["verified"]) == (TRIES, TRIES, True)


async def test_a_close(server, work: Json) -> None:
    took = []
    for _ in range(TRIES):
        client = await RawClient(server.url).__aenter__()
        await client.hello(username="ann", password="correct horse")
        await begin(client, work, 1)
        took.append(await seconds(client.socket.close))
        assert client.socket.close_code == 1000, "by the close handshake, not cut"
    assert median(took) < BOUND, took


async def test_a_bye_that_cancels(server, work: Json, bound: float) -> None:
    took = []
    for _ in range(TRIES):
        async with RawClient(server.url) as client:
            await client.hello(username="ann", password="correct horse")
            await begin(client, work, 1)
            began = time.perf_counter()
            receipt = await client.bye("cancel")
            await client.until_closed()
            took.append(time.perf_counter() - began)
            assert (receipt["cancelled"], receipt["verified"]) == (2, True)
    assert median(took) < bound, took


async def test_others_meanwhile(server, work: Json, bound: float) -> None:
    """Another session's requests, from sending to outcome."""
    took = []
    async with RawClient(server.url) as busy, RawClient(server.url) as other:
        await busy.hello(username="ann", password="correct horse")
        await begin(busy, work, 1)
        await other.hello(username="ann", password="correct horse")
        for seq in range(1, TRIES + 1):
            began = time.perf_counter()
            await other.send(request("echo", seq, seq=seq))
            await other.until_outcome(seq)
            took.append(time.perf_counter() - began)
    assert median(took) < bound, took
