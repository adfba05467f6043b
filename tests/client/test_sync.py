"""The synchronous client, against a server on the test's own loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

import inorder
import inorder.sync
from inorder import State


@pytest.fixture
def served(far_end, model):
    """``await served(work)`` runs ``work(url)`` in a thread; returns what it returned."""

    async def run(work, far=None, **limits):
        far = far or model(**limits)

        async def script(peer):
            await peer.say(*far.handle(await peer.get()))
            await peer.follow(far)

        url = await far_end(script)
        return await asyncio.to_thread(work, url)

    return run


def no_thread_is_left():
    return all(thread.name != "inorder" for thread in threading.enumerate())


async def test_a_block(served):
    states = []

    def work(url):
        with inorder.sync.connect(url, token="x", on_state=states.append) as session:
            assert (session.id, session.user, session.token) == ("s1", "ann", "t1")
            assert session.request("echo", a=1) == {"a": 1}
            assert session.ping() > 0
            assert session.methods()[0].name == "echo"
            assert session.status().accepted == 1
            jobs = [session.submit("echo", [n]) for n in range(50)]
            assert [job.result() for job in jobs] == [[n] for n in range(50)]
            assert jobs[-1].seq == 51
            assert list(session.outcomes()) == []
        assert session.close() == session.receipt
        assert session.state == State("s1", 51, 51)
        assert session.detach() == session.state
        with pytest.raises(RuntimeError, match="left"):
            session.request("echo")
        return session.receipt

    receipt = await served(work)
    assert (receipt.accepted, receipt.verified) == (51, True)
    assert states == ["connected", "closed"]
    assert no_thread_is_left()


async def test_jobs(served):
    def work(url):
        with inorder.sync.connect(url, token="x") as session:
            job = session.submit("wait", id="w")
            assert job.accepted() == 1
            assert repr(job) == "<Job w accepted>"
            with pytest.raises(TimeoutError):
                job.result(timeout=0.01)
            assert not job.done
            assert job.cancel() is True
            assert list(job.progress()) == []
            for _ in range(2):
                with pytest.raises(inorder.Cancelled):
                    job.result()
            assert job.id == "w"

    await served(work)


async def test_an_exception_detaches(served):
    kept = []

    def work(url):
        with inorder.sync.connect(url, token="x") as session:
            job = session.submit("wait")
            kept.extend((session, job))
            job.accepted()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await served(work)
    session, job = kept
    with pytest.raises(inorder.ConnectionLost):
        job.result()
    assert session.state == State("s1", 0, 1)
    assert no_thread_is_left()


async def test_detached_in_the_block_and_opened_without_one(served):
    def work(url):
        with inorder.sync.connect(url, token="x") as session:
            session.detach()
        return inorder.sync.connect(url, token="x").open().close("cancel")

    assert (await served(work)).verified


async def test_no_session_no_thread(unused_tcp_port):
    def work():
        inorder.sync.connect(f"ws://127.0.0.1:{unused_tcp_port}/", token="x").open()

    with pytest.raises(inorder.ConnectionLost):
        await asyncio.to_thread(work)
    assert no_thread_is_left()


async def test_outcomes_of_an_earlier_start(served, model):
    far = model()
    far.handle({"type": "request", "id": "old", "seq": 1, "method": "m", "params": 5})
    far.settle()

    def work(url):
        with inorder.sync.connect(url, token="x", resume=State("s1", 0, 1)) as session:
            return [(o.id, o.result) for o in session.outcomes()]

    assert await served(work, far) == [("old", 5)]


async def test_it_comes_back_too(far_end, model):
    far, states, connections = model(), [], []

    async def script(peer):
        connections.append(peer)
        await peer.say(*far.handle(await peer.get()))
        if len(connections) > 3:
            await peer.follow(far)
        for _ in range(20 * len(connections)):
            await peer.say(*far.handle(await peer.get()), *far.settle())
        peer.socket.transport.abort()

    url = await far_end(script)

    def work():
        connecting = inorder.sync.connect(
            url, token="x", on_state=states.append, backoff=lambda: iter([0.0] * 9)
        )
        with connecting as session:
            jobs = [session.submit("echo", n) for n in range(300)]
            assert [job.result() for job in jobs] == list(range(300))
        return session.receipt

    receipt = await asyncio.to_thread(work)
    assert receipt.accepted == len(far.requests) == 300
    assert states == ["connected", *["reconnecting", "resumed"] * 3, "closed"]
    assert no_thread_is_left()
