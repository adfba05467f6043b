"""The clients with the real server: its process, its file, real sockets."""

from __future__ import annotations

import asyncio

import pytest
from vector_server import ServerProcess

import inorder
import inorder.sync
from inorder import State


@pytest.fixture
async def url(tmp_path):
    server = ServerProcess(tmp_path, {"session": {"queue": 20}})
    await server.start()
    yield server.url
    await server.close()


ANN = {"username": "ann", "password": "secret of ann"}


async def test_a_session(url):
    async with inorder.connect(url, **ANN, register=True) as session:
        assert session.user == "ann"
        assert await session.request("echo", a=[1, None]) == {"a": [1, None]}
        assert await session.request("echo", 1, "b") == [1, "b"]
        job = session.submit("sleep", {"seconds": 0.05})
        assert len([p async for p in job.progress()]) > 1
        assert await job == {"slept": 0.05}
        long = session.submit("sleep", {"seconds": 600})
        assert await long.accepted == long.seq == 4
        assert (await session.status()).accepted == 4
        assert await session.ping() < 5
        assert {"echo", "sleep"} <= {line.name for line in await session.methods()}
        assert await long.cancel() is True
        with pytest.raises(inorder.Cancelled):
            await long
        token = session.token
    assert session.receipt == inorder.Receipt(session.id, 4, 3, 0, 1, 0, True)
    async with inorder.connect(url, token=token):
        pass
    with pytest.raises(inorder.LoginFailed):
        await inorder.connect(url, username="ann", password="wrong")
    with pytest.raises(inorder.LoginFailed) as caught:
        await inorder.connect(url, **ANN, register=True)
    assert caught.value.code == "name_taken"


async def test_a_pipeline_with_holes_and_a_short_queue(url):
    async with inorder.connect(url, **ANN, register=True) as session:
        jobs = [session.submit("echo" if n % 7 else "no-such", [n]) for n in range(1000)]
        results = await asyncio.gather(*jobs, return_exceptions=True)
    for n, result in enumerate(results):
        if n % 7:
            assert result == [n]
        else:
            assert isinstance(result, inorder.Refused)
            assert (result.code, result.accepted) == ("unknown_method", False)
    accepted = [job.seq for n, job in enumerate(jobs) if n % 7]
    assert accepted == list(range(1, len(accepted) + 1))
    assert session.receipt.done == len(accepted)
    assert session.receipt.verified


async def test_leaving_and_coming_back(url):
    async with inorder.connect(url, **ANN, register=True) as session:
        await session.request("echo", 1)
        job = session.submit("sleep", {"seconds": 0.1}, id="nap")
        await job.accepted
        state = await session.detach()
    assert state == State(session.id, 1, 2)
    async with inorder.connect(url, **ANN, resume=state) as session:
        outcomes = [outcome async for outcome in session.outcomes()]
        assert [(o.id, o.seq, o.result) for o in outcomes] == [("nap", 2, {"slept": 0.1})]
        assert await session.request("echo", 3) == [3]
    assert session.receipt.done == 3
    with pytest.raises(inorder.SessionGone) as caught:
        await inorder.connect(url, **ANN, resume=session.state)
    assert caught.value.receipt == session.receipt


async def test_the_synchronous_client(url):
    def work():
        with inorder.sync.connect(url, **ANN, register=True) as session:
            jobs = [session.submit("echo", n) for n in range(100)]
            assert [job.result() for job in jobs] == list(range(100))
        return session.receipt

    receipt = await asyncio.to_thread(work)
    assert (receipt.done, receipt.verified) == (100, True)
