"""Group commit on MongoDB, counted: what a busy node writes, and what a killed server keeps."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from mongo_bench import counted, insert, settle
from mongo_server import MongoServer, with_database

import inorder
from inorder_server.app import App
from inorder_server.config import Auth, Config, Secrets, Server, Store
from inorder_server.stores.mongo import MongoStore
from inorder_server.stores.port import Acknowledge, Create, StoreUnavailable, Tally, Write

SESSIONS = 50
IN_FLIGHT = 16
REQUESTS = 20  # a session


@pytest.mark.slow
async def test_fewer_than_one_bulk_for_ten_requests(
    mongo_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = counted(monkeypatch)
    config = Config(
        server=Server(port=0),
        store=Store(uri=mongo_uri),
        auth=Auth(bcrypt_cost=4),
        secrets=Secrets(session="a secret of all the nodes"),
        folder=tmp_path,
    )
    async with App(config) as app:
        everybody_in = asyncio.Barrier(SESSIONS + 1)

        async def client(n: int) -> None:
            login = {"username": f"user-{n}", "password": "a password", "register": True}
            async with inorder.connect(app.url, window=IN_FLIGHT, **login) as session:
                await session.submit("echo", 0)
                await everybody_in.wait()
                jobs = [session.submit("echo", n) for n in range(REQUESTS)]
                assert [await job for job in jobs] == list(range(REQUESTS))
                await everybody_in.wait()

        async with asyncio.TaskGroup() as clients:
            for n in range(SESSIONS):
                clients.create_task(client(n))
            await everybody_in.wait()
            commands.sent.clear()
            await everybody_in.wait()
            written = commands.writes["requests"] + commands.writes["sessions"]
    assert 0 < written < SESSIONS * REQUESTS / 10, commands.writes


# ---- the database is killed


@pytest.mark.slow
# A client that is cut off while it connects leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_no_acknowledged_write_is_lost_when_the_database_is_killed(
    own_mongodb: MongoServer,
) -> None:
    store = MongoStore(with_database(own_mongodb.uri, "inorder"), lease=6)
    await store.open("n1")
    sessions = [f"s{n}" for n in range(10)]
    accepted = dict.fromkeys(sessions, 0)
    settled = dict.fromkeys(sessions, 0)
    acked = dict.fromkeys(sessions, 0)
    kills, repeated = 4, 0

    async def committed(writes: list[Write]) -> None:
        """As the journal does it."""
        nonlocal repeated
        while True:
            try:
                assert await store.commit(writes) == set()
                return
            except StoreUnavailable:
                repeated += 1
                await asyncio.sleep(0.05)

    await committed([Create(s, "ann", 1, 1, "n1", 1) for s in sessions])
    killing = True

    async def work() -> None:
        rng = random.Random(1)
        while killing:
            writes: list[Write] = []
            for s in rng.sample(sessions, 5):
                new = rng.randint(1, 4)
                writes += [insert(n, s) for n in range(accepted[s] + 1, accepted[s] + new + 1)]
                writes += [settle(n, s) for n in range(settled[s] + 1, accepted[s] + 1)]
                acked[s], settled[s] = settled[s], accepted[s]
                accepted[s] += new
                if acked[s]:
                    writes.append(Acknowledge(s, 1, acked[s], 10))
            await committed(writes)

    working = asyncio.create_task(work())
    for _ in range(kills):
        before = sum(accepted.values())
        while sum(accepted.values()) < before + 60:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(own_mongodb.kill)
        await asyncio.to_thread(own_mongodb.start)
    killing = False
    await working
    assert repeated >= kills, "each of them was seen"
    for s in sessions:
        found = await store.session(s)
        assert found is not None
        assert (found.accepted, found.acked) == (accepted[s], acked[s])
        assert await store.tally(s) == Tally(settled[s], 0, 0, accepted[s] - settled[s])
        rows = [r async for r in store.requests(s, acked[s])]
        assert [r.seq for r in rows] == list(range(acked[s] + 1, accepted[s] + 1))
        assert [r.ending for r in rows] == ["done" if r.seq <= settled[s] else None for r in rows]
    await store.close()
