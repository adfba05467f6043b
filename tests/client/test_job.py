"""Jobs: acceptance, progress, cancel, and several who wait."""

from __future__ import annotations

import asyncio

import pytest

import inorder


@pytest.fixture
async def pair(far_end, greeting):
    """A session and its peer, whose next words are the test's."""
    peers = asyncio.Queue()
    done = asyncio.Event()

    async def script(peer):
        await peer.get()
        await peer.say(greeting())
        await peers.put(peer)
        await done.wait()

    session = await inorder.connect(await far_end(script), token="x")
    yield session, await peers.get()
    await session.detach()
    done.set()


async def turn(session, peer):
    """Everything that was said before has arrived."""
    ping = asyncio.ensure_future(session.ping())
    while (await peer.get())["type"] != "ping":
        pass
    await peer.say({"type": "pong"})
    await ping


def accepted(job, seq):
    return {"type": "accepted", "id": job.id, "seq": seq, "ahead": 0}


def result(job, seq, value=None):
    return {"type": "result", "id": job.id, "seq": seq, "result": value}


def failed(job, seq, code):
    base = {"code": code, "message": "m", "retry": False}
    return {"type": "error", **base, "id": job.id, "seq": seq}


def progress(job, n):
    base = {"type": "progress", "seq": 1, "attempt": 1}
    return {**base, "id": job.id, "n": n, "progress": {"n": n}}


async def test_a_life(pair):
    session, peer = pair
    job = session.submit("echo", {"a": 1}, id="mine", timeout=3)
    assert (job.id, job.seq, job.done) == ("mine", None, False)
    assert repr(job) == "<Job mine unsent>"
    request = await peer.get()
    assert request == {
        "type": "request",
        "method": "echo",
        "id": "mine",
        "params": {"a": 1},
        "timeout": 3,
        "seq": 1,
    }
    waiting = asyncio.ensure_future(job._until_accepted())
    await asyncio.sleep(0)
    await peer.say(accepted(job, 1))
    assert await waiting == job.seq == 1
    assert await job.accepted == 1
    await peer.say(result(job, 1, "yes"))
    assert await job == "yes"
    assert await job == "yes"
    assert job.done
    assert await job.accepted == 1
    assert await job.cancel() is False


async def test_progress_until_the_end(pair):
    session, peer = pair
    job = session.submit("sleep")
    seen = []

    async def read():
        async for value in job.progress():
            seen.append(value["n"])
            if value["n"] == 2:
                await peer.say(progress(job, 3), result(job, 1))

    await peer.say(progress(job, 1))
    await peer.get()
    await peer.say(progress(job, 2))
    async with asyncio.timeout(5):
        await read()
    assert seen == [1, 2, 3]
    assert [value async for value in job.progress()] == []


async def test_progress_that_nobody_reads_is_bounded(pair, monkeypatch):
    monkeypatch.setattr("inorder.job.PROGRESS_KEPT", 3)
    session, peer = pair
    job = session.submit("sleep")
    await peer.get()
    await peer.say(*(progress(job, n) for n in range(1, 8)), result(job, 1))
    await job
    assert [value["n"] async for value in job.progress()] == [5, 6, 7]


async def test_cancel_told_and_done(pair):
    session, peer = pair
    job = session.submit("sleep")
    await peer.get()
    both = asyncio.gather(job.cancel(), job.cancel())
    assert await peer.get() == {"type": "cancel", "id": job.id}
    await peer.say({"type": "cancelling", "id": job.id, "seq": 1})
    assert await both == [True, True]
    await peer.say(failed(job, 1, "cancelled"))
    with pytest.raises(inorder.Cancelled) as caught:
        await job
    assert caught.value.accepted is True
    assert job.seq == 1
    assert await job.cancel() is True


async def test_cancel_told_by_the_outcome(pair):
    session, peer = pair
    one, two = session.submit("sleep"), session.submit("sleep")
    await peer.get()
    both = asyncio.gather(one.cancel(), two.cancel())
    await asyncio.sleep(0)
    await peer.say(failed(one, 1, "cancelled"), result(two, 2))
    assert await both == [True, False]


async def test_cancel_refused(pair):
    session, peer = pair
    job = session.submit("sleep")
    await peer.get()
    cancel = asyncio.ensure_future(job.cancel())
    given_up = asyncio.ensure_future(job.cancel())
    await peer.get()
    given_up.cancel()
    error = {"code": "store_unavailable", "message": "m", "retry": True}
    await peer.say({"type": "error", **error, "of": "cancel", "id": job.id})
    with pytest.raises(inorder.Refused):
        await cancel


async def test_refused_before_it_was_accepted(pair):
    session, peer = pair
    job = session.submit("nothing")
    acceptance = asyncio.ensure_future(job._until_accepted())
    await peer.get()
    error = {"code": "unknown_method", "message": "m", "retry": False}
    await peer.say({"type": "error", **error, "of": "request", "id": job.id})
    for wait in (acceptance, job, job.accepted):
        with pytest.raises(inorder.Refused) as caught:
            await wait
        assert caught.value.accepted is False
    assert job.seq is None


async def test_one_who_gives_up_takes_nothing_from_the_others(pair):
    session, peer = pair
    job = session.submit("sleep")

    async def wait():
        return await job

    hasty, patient = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    hasty.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hasty
    await peer.say()
    await peer.get()
    await peer.say(result(job, 1, 7))
    assert await patient == 7


async def test_jobs_nobody_awaits_make_no_noise(pair):
    session, peer = pair
    for _ in range(3):
        session.submit("echo")
    await turn(session, peer)
    await session.detach()
