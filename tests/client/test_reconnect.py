"""Sessions that outlive their connections, against a server that cuts them, over real sockets."""

from __future__ import annotations

import asyncio
import http
import logging
from itertools import repeat

import pytest

import inorder
from inorder import State


def at_once():
    return repeat(0.0)


REFUSED = {"type": "error", "message": "no", "of": "hello"}


@pytest.fixture
def serving(far_end):
    """``url, seen = await serving(script, …)``: one script a connection, the last one for all
    that follow; ``seen`` holds each connection's hello."""

    async def start(*scripts, **options):
        rest, seen = list(scripts), []

        async def script(peer):
            mine = rest.pop(0) if len(rest) > 1 else rest[0]
            hello = await peer.get()
            seen.append(hello)
            await mine(peer, hello)

        return await far_end(script, **options), seen

    return start


def following(far):
    async def script(peer, hello):
        await peer.say(*far.handle(hello))
        await peer.follow(far)

    return script


def cut_after(far, requests):
    """Takes so many requests, answers all but the last, and cuts."""

    async def script(peer, hello):
        await peer.say(*far.handle(hello))
        for left in reversed(range(requests)):
            answers = far.handle(await peer.get())
            if left:
                await peer.say(*answers, *far.settle())
        peer.socket.transport.abort()

    return script


def replaced(far):
    """Says welcome, and that another connection has the session."""

    async def script(peer, hello):
        await peer.say(*far.handle(hello))
        await peer.socket.close(4409, "replaced")

    return script


async def hangs_up(peer, hello):
    peer.socket.transport.abort()


def refusing(code, **fields):
    async def script(peer, hello):
        await peer.say({**REFUSED, "code": code, "retry": False, **fields})
        await peer.socket.wait_closed()

    return script


async def lasts(peer, hello):
    await peer.socket.wait_closed()


async def test_callers_notice_nothing_but_the_time(serving, model):
    far, states = model(), []
    url, seen = await serving(cut_after(far, 3), cut_after(far, 5), following(far))
    connecting = inorder.connect(
        url, username="ann", password="pw", on_state=states.append, backoff=at_once
    )
    async with connecting as session:
        jobs = [session.submit("echo", n) for n in range(50)]
        assert [await job for job in jobs] == list(range(50))
        assert [job.seq for job in jobs] == list(range(1, 51))
    assert session.receipt.accepted == 50
    assert states == ["connected", *["reconnecting", "resumed"] * 2, "closed"]
    assert seen[0] == {"type": "hello", "username": "ann", "password": "pw"}
    assert seen[1] == {"type": "hello", "token": "t1", "session": "s1", "seq": 2, "accepted": 2}
    assert [request["id"] for request in far.requests] == [job.id for job in jobs]
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not any(name.startswith("inorder") for name in names)


async def test_a_refused_token_falls_back_to_ones_own_credentials(serving, model):
    far = model()

    async def refuses_token(peer, hello):
        await peer.say({**REFUSED, "code": "token_expired", "retry": False})
        second = await peer.get()
        seen.append(second)
        await peer.say(*far.handle(second))
        await peer.follow(far)

    url, seen = await serving(cut_after(far, 2), refuses_token)
    async with inorder.connect(url, username="ann", password="pw", backoff=at_once) as session:
        assert await asyncio.gather(*[session.submit("echo", n) for n in range(9)]) == [*range(9)]
    assert [(hello.get("token"), hello.get("username")) for hello in seen] == [
        (None, "ann"),
        ("t1", None),
        (None, "ann"),
    ]
    assert seen[2]["session"] == "s1"


async def test_replaced_by_a_hello_that_it_gave_up_it_comes_back(serving, model):
    far, states = model(), []
    scripts = [cut_after(far, 2), hangs_up, replaced(far), following(far)]
    url, seen = await serving(*scripts)
    async with inorder.connect(url, token="t0", backoff=at_once, on_state=states.append) as session:
        assert await asyncio.gather(*[session.submit("echo", n) for n in range(9)]) == [*range(9)]
    assert len(seen) == 4
    assert states == ["connected", *["reconnecting", "resumed"] * 2, "closed"]


async def test_replaced_by_somebody_else_it_stops(serving, model):
    far = model()
    url, seen = await serving(cut_after(far, 2), replaced(far))
    session = await inorder.connect(url, token="t0", backoff=at_once)
    jobs = [session.submit("echo", n) for n in range(9)]
    with pytest.raises(inorder.ConnectionLost, match="taken the session over"):
        await asyncio.gather(*jobs)
    await session.detach()
    assert len(seen) == 2


async def test_auth_is_asked_again_and_may_fail_for_a_while(serving, model):
    far, answers = model(), ["a1", OSError("no network"), "a2"]

    async def auth():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def refuses_token(peer, hello):
        await peer.say({**REFUSED, "code": "unauthenticated", "retry": False})
        await peer.say(*far.handle(await peer.get()))
        await peer.follow(far)

    url, seen = await serving(cut_after(far, 2), refusing("token_expired"), refuses_token)
    async with inorder.connect(url, auth=auth, backoff=at_once) as session:
        assert await asyncio.gather(*[session.submit("echo", n) for n in range(9)]) == [*range(9)]
    assert answers == []
    assert [hello["token"] for hello in seen] == ["a1", "t1", "t1"]


async def test_a_login_that_is_refused_stops(serving, model):
    far = model()
    url, seen = await serving(cut_after(far, 2), refusing("unauthenticated"))
    session = await inorder.connect(url, token="t1", backoff=at_once)
    jobs = [session.submit("echo", n) for n in range(3)]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert results[0] == 0
    assert [type(error) for error in results[1:]] == [inorder.LoginFailed] * 2
    assert [error.accepted for error in results[1:]] == [None, None]
    with pytest.raises(inorder.LoginFailed):
        await session.close()
    assert len(seen) == 2


async def test_another_connection_has_taken_it_over(serving, greeting):
    async def script(peer, hello):
        await peer.say(greeting())
        await peer.get()
        await peer.socket.close(4409, "replaced")

    url, seen = await serving(script)
    session = await inorder.connect(url, token="x", backoff=at_once)
    with pytest.raises(inorder.ConnectionLost, match="taken the session over") as caught:
        await session.request("echo")
    assert (caught.value.code, caught.value.close_code) == ("replaced", 4409)
    with pytest.raises(inorder.ConnectionLost):
        await session.close()
    assert len(seen) == 1


async def test_errors_at_hello_and_before_the_upgrade_are_waited_out(serving, model):
    far, statuses = model(), [None, 503, 429, 502]

    def answer(socket, request):
        status = statuses.pop(0) if statuses else None
        return status and socket.respond(http.HTTPStatus(status), "later\n")

    url, seen = await serving(
        cut_after(far, 2),
        refusing("store_unavailable", retry=True),
        refusing("overloaded", retry=True, after=0.01),
        following(far),
        process_request=answer,
    )
    async with inorder.connect(url, token="x", backoff=at_once) as session:
        assert await asyncio.gather(*[session.submit("echo", n) for n in range(9)]) == [*range(9)]
    assert statuses == []
    assert len(seen) == 4


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_statuses_that_stop(serving, model, status):
    statuses = [None, status]

    def answer(socket, request):
        status = statuses.pop(0)
        return status and socket.respond(http.HTTPStatus(status), "no\n")

    url, _ = await serving(cut_after(model(), 2), process_request=answer)
    session = await inorder.connect(url, token="x", backoff=at_once)
    with pytest.raises(inorder.InorderError, match=f"HTTP {status}: no"):
        await asyncio.gather(*[session.submit("echo", n) for n in range(9)])
    await session.detach()


async def test_given_up_after_a_while(serving, model, greeting):
    url, _ = await serving(cut_after(model(), 2), lasts)
    session = await inorder.connect(url, token="x", give_up_after=0.2, backoff=at_once)
    jobs = [session.submit("echo", n) for n in range(3)]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert results[0] == 0
    assert [type(error) for error in results[1:]] == [inorder.ConnectionLost] * 2
    assert results[1].accepted is None
    assert "no connection for 0.2" in str(results[1])
    with pytest.raises(inorder.ConnectionLost):
        session.submit("echo")
    with pytest.raises(inorder.ConnectionLost):
        await session.close()


async def test_close_survives_a_cut(serving, model):
    far = model()

    async def cuts_at_bye(peer, hello):
        await peer.say(*far.handle(hello))
        while (message := await peer.get())["type"] != "bye":
            await peer.say(*far.handle(message), *far.settle())
        peer.socket.transport.abort()

    async def has_ended(peer, hello):
        await peer.say({"type": "bye", "receipt": far.receipt()})
        await peer.socket.close(1000)

    url, seen = await serving(cuts_at_bye, has_ended)
    async with inorder.connect(url, token="x", backoff=at_once) as session:
        await session.request("echo")
    assert session.receipt.done == 1
    assert (seen[1]["session"], seen[1]["seq"]) == ("s1", 1)


async def test_leaving_while_away(serving, model, unused_tcp_port):
    far, states = model(), []
    url, _ = await serving(cut_after(far, 2), lasts)
    session = await inorder.connect(url, token="x", on_state=states.append, backoff=at_once)
    jobs = [session.submit("echo", n) for n in range(3)]
    await jobs[0]
    while "reconnecting" not in states:
        await asyncio.sleep(0.001)
    async with asyncio.timeout(5):
        assert await session.detach() == State("s1", 1, 1)
    with pytest.raises(inorder.ConnectionLost) as caught:
        await jobs[1]
    assert (caught.value.code, caught.value.accepted) == ("detached", None)
    assert states[-1] == "detached"


async def test_an_older_socket_is_not_listened_to(serving, model):
    """It was left because of a gap, and goes on talking."""
    far = model()

    async def jumps(peer, hello):
        await peer.say(*far.handle(hello))
        await peer.say(*far.handle(await peer.get()))
        await peer.say({"type": "result", "id": "stranger", "seq": 7, "result": 0})
        wrong = {"type": "result", "seq": 1, "result": "from the older one"}
        await peer.say({**wrong, "id": far.requests[0]["id"]})
        await peer.socket.wait_closed()

    async def goes_on(peer, hello):
        await peer.say(*far.handle(hello), *far.settle())
        await peer.follow(far)

    url, seen = await serving(jumps, goes_on)
    async with inorder.connect(url, token="x", backoff=at_once) as session:
        assert await session.request("echo", 5) == [5]
    assert len(seen) == 2


async def test_outcomes_of_an_earlier_start_over_a_cut(serving, model):
    far = model()
    for n in (1, 2, 3):
        far.handle({"type": "request", "id": f"old{n}", "seq": n, "method": "m", "params": n})

    async def one_then_cut(peer, hello):
        await peer.say(*far.handle(hello))
        await peer.say(*far.settle())
        await asyncio.sleep(0.01)
        peer.socket.transport.abort()

    async def the_rest(peer, hello):
        far.settle()
        far.settle()
        await following(far)(peer, hello)

    url, _ = await serving(one_then_cut, the_rest)
    resume = State("s1", 0, 3)
    async with inorder.connect(url, token="x", resume=resume, backoff=at_once) as session:
        seen = [(outcome.id, outcome.result) async for outcome in session.outcomes()]
    assert seen == [("old1", 1), ("old2", 2), ("old3", 3)]


async def test_the_first_connection_fails_at_once_unless_it_is_to_be_tried_again(serving, model):
    statuses = [503, 503, 503]

    def answer(socket, request):
        status = statuses.pop(0) if statuses else None
        return status and socket.respond(http.HTTPStatus(status), "later\n")

    url, _ = await serving(following(model()), process_request=answer)
    with pytest.raises(inorder.ConnectionLost, match="HTTP 503"):
        await inorder.connect(url, token="x")
    assert len(statuses) == 2
    async with inorder.connect(url, token="x", keep_trying=True, backoff=at_once) as session:
        assert await session.request("echo", 1) == [1]


async def cut(peer, hello):
    peer.socket.transport.abort()


def taken(then):
    """The name is taken; what comes next is ``then``'s."""

    async def script(peer, register):
        await peer.say({**REFUSED, "of": "register", "code": "name_taken", "retry": False})
        await then(peer, await peer.get())

    return script


async def test_an_account_that_was_made_without_an_answer_is_ones_own(serving, model):
    ann = {"username": "ann", "password": "pw", "register": True}
    url, seen = await serving(cut, taken(following(model())))
    async with inorder.connect(url, **ann, keep_trying=True, backoff=at_once) as session:
        assert await session.request("echo", 1) == [1]
    assert [hello["type"] for hello in seen] == ["register", "register"]
    url, _ = await serving(cut, taken(refusing("unauthenticated")))
    with pytest.raises(inorder.LoginFailed) as caught:
        await inorder.connect(url, **ann, keep_trying=True, backoff=at_once)
    assert caught.value.code == "name_taken", "it is somebody else's"


async def test_the_first_connection_is_not_tried_for_ever(unused_tcp_port, serving):
    url = f"ws://127.0.0.1:{unused_tcp_port}/ws"
    with pytest.raises(inorder.ConnectionLost, match="no connection for 0"):
        await inorder.connect(url, token="x", keep_trying=True, open_timeout=0.1)
    url, _ = await serving(refusing("unauthenticated"))
    with pytest.raises(inorder.LoginFailed):
        await inorder.connect(url, token="x", keep_trying=True)


async def test_a_fault_of_this_library_is_not_swallowed(serving, model, monkeypatch, caplog):
    url, _ = await serving(cut_after(model(), 2), lasts)
    session = await inorder.connect(url, token="x", backoff=at_once)

    async def broken():
        raise ZeroDivisionError

    monkeypatch.setattr(session._dialer, "open", broken)
    with caplog.at_level(logging.ERROR, "inorder"), pytest.raises(inorder.ConnectionLost) as caught:
        await asyncio.gather(*[session.submit("echo", n) for n in range(3)])
    assert caught.value.code == "internal"
    assert "coming back" in caplog.text
    await session.detach()
