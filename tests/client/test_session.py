"""A session under asyncio, over a real socket."""

from __future__ import annotations

import asyncio
import logging

import pytest

import inorder
from inorder import State


@pytest.fixture
def served(far_end, model):
    """``far, url = await served()``: a server that follows a model, and the model."""

    async def start(*args, **limits):
        far = model(*args, **limits)

        async def script(peer):
            await peer.say(*far.handle(await peer.get()))
            await peer.follow(far)

        return far, await far_end(script)

    return start


async def test_params_by_name_by_position_and_none(served):
    _, url = await served()
    async with inorder.connect(url, token="x") as session:
        assert await session.request("echo", 1, "b") == [1, "b"]
        assert await session.request("echo", method=1, id="x") == {"method": 1, "id": "x"}
        assert await session.request("echo") is None
        with pytest.raises(TypeError, match="not both"):
            await session.request("echo", 1, a=2)


async def test_many_at_once_come_in_order(served):
    far, url = await served(queue=50)
    ended = []

    async def one(session, n):
        assert await session.request("echo", n) == [n]
        ended.append(n)

    async with inorder.connect(url, token="x") as session:
        async with asyncio.TaskGroup() as group:
            for n in range(1000):
                group.create_task(one(session, n))
        assert session.state == State("s1", 1000, 1000)
    assert ended == list(range(1000))
    assert far.most <= 50
    assert session.receipt.accepted == 1000


async def test_refused_ones_leave_no_hole(served):
    def refuse(request):
        if request["params"][0] % 7 == 0:
            return {"code": "invalid_params", "retry": False}
        return None

    far, url = await served(refuse, queue=10)
    async with inorder.connect(url, token="x") as session:
        jobs = [session.submit("echo", [n]) for n in range(300)]
        results = await asyncio.gather(*jobs, return_exceptions=True)
    for n, result in enumerate(results):
        if n % 7:
            assert result == [n]
        else:
            assert isinstance(result, inorder.Refused)
            assert result.accepted is False
    assert [r["params"][0] for r in far.requests] == [n for n in range(300) if n % 7]


async def test_a_retryable_refusal_is_waited_for(served):
    times = []

    def refuse(request):
        times.append(asyncio.get_running_loop().time())
        return {"code": "overloaded", "retry": True, "after": 0.05} if len(times) == 1 else None

    _, url = await served(refuse)
    async with inorder.connect(url, token="x") as session:
        assert await session.request("echo", 5) == [5]
    assert times[1] - times[0] >= 0.049


async def test_questions(served):
    _, url = await served()
    async with inorder.connect(url, token="x") as session:
        assert 0 < await session.ping() < 5
        assert 0 < await session.ping({"a": 1}) < 5
        assert [line.name for line in await session.methods()] == ["echo"]
        assert (await session.status()).accepted == 0


async def test_an_idle_client_acknowledges_and_sleeps(served):
    far, url = await served()
    async with inorder.connect(url, token="x") as session:
        await session.request("echo")
        async with asyncio.timeout(5):
            while not far.acks:
                await asyncio.sleep(0.02)
        await session.ping()
        assert session._link._timer is None
    assert far.acks == [1]


async def test_the_last_outcomes_are_acknowledged_before_bye(served):
    far, url = await served()
    async with inorder.connect(url, token="x") as session:
        await session.request("echo")
        await session.request("echo")
    assert far.acks == [2]


async def test_questions_end_with_the_connection(far_end, greeting):
    async def script(peer):
        await peer.get()
        await peer.say(greeting())
        await peer.get()
        await peer.socket.close(4403, "forbidden")

    session = await inorder.connect(await far_end(script), token="x")
    with pytest.raises(inorder.ConnectionLost) as caught:
        await session.status()
    assert (caught.value.code, caught.value.retry) == ("forbidden", False)
    with pytest.raises(inorder.ConnectionLost):
        session.submit("echo")
    with pytest.raises(inorder.ConnectionLost):
        await session.close()
    assert (await session.detach()).accepted == 0


async def test_a_server_that_breaks_the_protocol(far_end, greeting):
    codes = []

    async def script(peer):
        await peer.get()
        await peer.say(greeting(), {"type": "result", "id": "x", "seq": 9, "result": 1})
        await peer.socket.wait_closed()
        codes.append(peer.socket.close_code)

    url = await far_end(script)
    with pytest.raises(inorder.ConnectionLost) as caught:
        await (await inorder.connect(url, token="x", give_up_after=0)).close()
    assert caught.value.code == "protocol_error"
    assert codes == [1002]


async def test_a_connection_that_breaks_without_a_close(far_end, greeting):
    async def script(peer):
        await peer.get()
        await peer.say(greeting())
        await peer.get()
        peer.socket.transport.abort()

    session = await inorder.connect(await far_end(script), token="x", give_up_after=0)
    with pytest.raises(inorder.ConnectionLost) as caught:
        await session.request("echo")
    assert caught.value.close_code == 1006
    assert caught.value.accepted is None
    await session.detach()


async def test_a_frame_that_is_too_big(far_end, greeting):
    async def script(peer):
        await peer.get()
        await peer.say(greeting())
        await peer.say({"type": "hint", "message": "x" * 2000})
        await peer.socket.wait_closed()

    url = await far_end(script)
    session = await inorder.connect(url, token="x", give_up_after=0, max_size=1000)
    with pytest.raises(inorder.ConnectionLost) as caught:
        await session.close()
    assert caught.value.close_code == 1009


async def test_a_peer_that_reads_nothing_can_not_keep_us(far_end, greeting, monkeypatch):
    monkeypatch.setattr("inorder.session.CLOSE_TIMEOUT", 0.05)

    async def script(peer):
        await peer.get()
        await peer.say(greeting(limits={"message_bytes": 2**27}))
        peer.socket.transport.pause_reading()
        await peer.socket.wait_closed()

    session = await inorder.connect(await far_end(script, max_size=None), token="x")
    job = session.submit("echo", "x" * 2**25)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(job.cancel())), 0.05)
    async with asyncio.timeout(5):
        await session.detach()
    with pytest.raises(inorder.ConnectionLost) as caught:
        await job
    assert caught.value.code == "detached"


async def test_outcomes_of_an_earlier_start(far_end, model):
    far = model()
    go_on = asyncio.Event()

    async def script(peer):
        await peer.say(*far.handle(await peer.get()))
        await go_on.wait()
        await peer.say(*far.settle())
        await peer.follow(far)

    for n in (1, 2, 3):
        far.handle({"type": "request", "id": f"old{n}", "seq": n, "method": "m", "params": n})
    far.settle()
    far.settle()
    url = await far_end(script)
    async with inorder.connect(url, token="x", resume=State("s1", 1, 3)) as session:
        seen = []
        async for outcome in session.outcomes():
            seen.append((outcome.id, outcome.seq, outcome.result))
            go_on.set()
        assert seen == [("old2", 2, 2), ("old3", 3, 3)]
        assert session.state == State("s1", 3, 3)
    assert far.acks[-1] == 3


async def test_outcomes_end_with_the_connection(far_end, greeting):
    async def script(peer):
        await peer.get()
        await peer.say(greeting(resumed=True, accepted=3))
        await peer.socket.close(1012, "draining")

    session = await inorder.connect(
        await far_end(script), token="x", resume=State("s1", 0, 3), give_up_after=0
    )
    with pytest.raises(inorder.ConnectionLost):
        async for _ in session.outcomes():
            pass
    await session.detach()


async def test_on_state_may_raise(served, caplog):
    def angry(name):
        raise RuntimeError(name)

    _, url = await served()
    with caplog.at_level(logging.ERROR, "inorder"):
        async with inorder.connect(url, token="x", on_state=angry):
            pass
    assert [r.message for r in caplog.records] == [
        "on_state('connected') raised",
        "on_state('closed') raised",
    ]


async def test_a_receipt_that_does_not_hold_is_an_error(served, caplog):
    far, url = await served()
    far.verified = False
    async with inorder.connect(url, token="x"):
        pass
    (record,) = caplog.records
    assert "countings differ" in record.message


async def test_no_task_is_left(served):
    _, url = await served()
    async with inorder.connect(url, token="x"):
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert {"inorder-reader", "inorder-writer"} <= names
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not names & {"inorder-reader", "inorder-writer"}
