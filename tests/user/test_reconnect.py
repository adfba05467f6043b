"""The Python clients with connections that break and servers that die, seen by their callers."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest
from bank import LEDGER
from cutting import CUTS, booked_once, cutting
from outside import verify
from proxy import Proxy

import inorder
import inorder.sync

pytestmark = pytest.mark.slow

CONFIG = {"handlers": {"modules": [LEDGER]}}
EVE = {"username": "eve", "password": "correct horse"}
PIPELINE = 1000


def balances(count: int) -> list[dict[str, object]]:
    """What that many deposits of 1, 2, 3 … cents answer."""
    return [{"account": "eve", "balance": n * (n + 1) // 2} for n in range(1, count + 1)]


def soon() -> Iterator[float]:
    return repeat(0.02)


@pytest.mark.parametrize("seed", [1, 2])
async def test_cut_off_twenty_times_in_a_pipeline(serve, tmp_path: Path, seed: int) -> None:
    server = await serve(CONFIG)
    states: list[str] = []
    async with Proxy(server.url) as proxy:
        options = {**EVE, "register": True, "on_state": states.append, "backoff": soon}
        async with inorder.connect(proxy.url, **options) as session:
            assert await session.request("deposit", amount=1) == balances(1)[0]
            cutting(random.Random(seed), proxy)
            jobs = [session.submit("deposit", {"amount": n}) for n in range(2, PIPELINE + 1)]
            ended: list[int] = []
            for job in jobs:
                await job
                ended.append(job.seq)
        assert await asyncio.gather(*jobs) == balances(PIPELINE)[1:]
        assert ended == list(range(2, PIPELINE + 1))
        assert proxy.opened > CUTS
    assert states.count("resumed") == states.count("reconnecting") > CUTS / 2
    assert session.receipt == inorder.Receipt(session.id, PIPELINE, PIPELINE, 0, 0, 0, True)
    booked_once(tmp_path, session.id, PIPELINE)
    assert await asyncio.to_thread(verify, tmp_path) == []


async def test_the_synchronous_client_as_well(serve, tmp_path: Path) -> None:
    server = await serve(CONFIG)
    states: list[str] = []
    async with Proxy(server.url) as proxy:

        def work() -> inorder.Receipt:
            options = {**EVE, "register": True, "on_state": states.append, "backoff": soon}
            with inorder.sync.connect(proxy.url, **options) as session:
                assert session.request("deposit", amount=1) == balances(1)[0]
                cutting(random.Random(3), proxy)
                jobs = [session.submit("deposit", {"amount": n}) for n in range(2, PIPELINE + 1)]
                assert [job.result() for job in jobs] == balances(PIPELINE)[1:]
                assert [job.seq for job in jobs] == list(range(2, PIPELINE + 1))
            return session.receipt

        receipt = await asyncio.to_thread(work)
        assert proxy.opened > CUTS
    assert (receipt.done, receipt.verified) == (PIPELINE, True)
    assert states.count("resumed") == states.count("reconnecting") > CUTS / 2
    booked_once(tmp_path, receipt.session, PIPELINE)
    assert await asyncio.to_thread(verify, tmp_path) == []


@pytest.mark.parametrize("gently", [False, True], ids=["SIGKILL", "SIGTERM"])
async def test_the_server_restarts_under_a_client_at_work(serve, tmp_path, gently: bool) -> None:
    server = await serve(CONFIG)
    states: list[str] = []
    async with Proxy(server.url) as proxy:
        options = {**EVE, "register": True, "on_state": states.append, "backoff": soon}
        async with inorder.connect(proxy.url, **options) as session:
            jobs = [session.submit("deposit", {"amount": 1})]
            await jobs[0]

            async def work() -> None:
                for n in range(2, 401):
                    jobs.append(session.submit("deposit", {"amount": n}))
                    if n % 20 == 0:
                        await jobs[-1]

            working = asyncio.create_task(work())
            for _ in range(3):
                await jobs[-1]
                if gently:
                    await server.stop()
                    assert await server.ended() == 0
                else:
                    await server.kill()
                await server.start()
                proxy.target = server.url
                await asyncio.sleep(0.3)
            await working
            assert await asyncio.gather(*jobs) == balances(400)
    assert ("draining" in states) == gently
    assert states.count("resumed") >= 2
    assert session.receipt == inorder.Receipt(session.id, 400, 400, 0, 0, 0, True)
    booked_once(tmp_path, session.id, 400)
    assert await asyncio.to_thread(verify, tmp_path) == []


async def test_the_program_restarts(serve, tmp_path: Path) -> None:
    """It keeps the state, loses its connection and everything else, and takes what it is owed."""
    server = await serve(CONFIG)
    async with Proxy(server.url) as proxy:
        session = await inorder.connect(proxy.url, **EVE, register=True, give_up_after=0)
        jobs = [session.submit("deposit", {"amount": n}) for n in range(1, 51)]
        await jobs[9]
        kept = json.dumps(dataclasses.asdict(session.state))
        await jobs[-1].accepted
        proxy.drop()
        await asyncio.gather(*jobs, return_exceptions=True)
    state = inorder.State(**json.loads(kept))
    assert state.held >= 10
    async with inorder.connect(server.url, **EVE, resume=state) as later:
        outcomes = [outcome async for outcome in later.outcomes()]
        assert await later.request("deposit", amount=51) == balances(51)[-1]
    owed = list(range(state.held + 1, 51))
    assert [outcome.seq for outcome in outcomes] == owed
    assert [outcome.result for outcome in outcomes] == balances(50)[state.held :]
    assert later.receipt.done == 51
    booked_once(tmp_path, session.id, 51)


async def test_a_black_hole_is_noticed(serve) -> None:
    """Nothing comes back and nothing breaks: the client finds out by its own pings."""
    server = await serve(CONFIG)
    async with Proxy(server.url) as proxy:
        options = {"ping_interval": 0.2, "ping_timeout": 0.2, "close_timeout": 0.2}
        async with inorder.connect(
            proxy.url, **EVE, register=True, open_timeout=0.5, **options
        ) as session:
            await session.request("deposit", amount=1)
            proxy.freeze()
            job = session.submit("deposit", {"amount": 2})
            while proxy.opened < 3:
                await asyncio.sleep(0.05)
            assert not job.done
            proxy.drop()
            proxy.thaw()
            assert await job == balances(2)[1]
    assert session.receipt.done == 2


async def test_close_gets_its_receipt_over_cuts(serve) -> None:
    server = await serve(CONFIG)
    async with Proxy(server.url) as proxy:
        for n in range(15):
            session = await inorder.connect(proxy.url, **EVE, register=not n)
            await session.request("deposit", amount=1)
            passed = proxy.bytes_down
            closing = asyncio.create_task(session.close())
            # Before, within and after the frame with the receipt.
            most = n * 16

            def cut(at: int, chunk: bytes, most: int = most) -> int | None:
                proxy.cut_down = None
                return most

            proxy.cut_down = cut
            receipt = await closing
            assert proxy.bytes_down > passed
            assert (receipt.accepted, receipt.done, receipt.verified) == (1, 1, True)


async def test_another_connection_takes_the_session(serve) -> None:
    server = await serve(CONFIG)
    session = await inorder.connect(server.url, **EVE, register=True)
    await session.request("deposit", amount=1)
    async with inorder.connect(server.url, token=session.token, resume=session.state) as other:
        with pytest.raises(inorder.ConnectionLost) as caught:
            await session.close()
        assert caught.value.code == "replaced"
        assert await other.request("deposit", amount=2) == balances(2)[1]
