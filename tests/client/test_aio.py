"""``inorder.connect``: from a URL and credentials to a session, over a real socket."""

from __future__ import annotations

import asyncio
import http

import pytest

import inorder
from inorder import State


async def hold(peer):
    """Takes everything and says nothing."""
    async for _ in peer.socket:
        pass


def following(model, seen=None, **limits):
    async def script(peer):
        far = model(**limits)
        first = await peer.get()
        if seen is not None:
            seen.append(first)
        await peer.say(*far.handle(first))
        await peer.follow(far)

    return script


async def test_a_block_that_ends_closes_the_session(far_end, model):
    states = []
    url = await far_end(following(model))
    async with inorder.connect(url, token="t0", on_state=states.append) as session:
        assert (session.id, session.user, session.token) == ("s1", "ann", "t1")
        assert await session.request("echo", 1, 2) == [1, 2]
        assert session.receipt is None
    assert session.receipt == inorder.Receipt("s1", 1, 1, 0, 0, 0, True)
    assert states == ["connected", "closed"]
    assert await session.close() == session.receipt


async def test_an_exception_in_the_block_detaches(far_end, model):
    states, kept = [], []

    async def work(url):
        async with inorder.connect(url, token="t0", on_state=states.append) as session:
            await session.request("echo")
            job = session.submit("wait")
            kept.extend((session, job))
            await job.accepted
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work(await far_end(following(model)))
    session, job = kept
    assert states == ["connected", "detached"]
    assert session.state == State("s1", 1, 2)
    with pytest.raises(inorder.ConnectionLost) as caught:
        await job
    assert caught.value.accepted is True


async def test_detached_in_the_block(far_end, model):
    url = await far_end(following(model))
    async with inorder.connect(url, token="t0") as session:
        await session.detach()
    assert session.receipt is None


async def test_await_leaves_the_end_to_the_program(far_end, model):
    url = await far_end(following(model))
    session = await inorder.connect(url, token="t0")
    assert (await session.close("cancel")).verified


async def test_a_connection_lost_in_the_block_gives_no_receipt(far_end, greeting):
    async def script(peer):
        await peer.get()
        await peer.say(greeting())
        await peer.socket.close(1012, "draining")

    url = await far_end(script)
    with pytest.raises(inorder.ConnectionLost) as caught:
        async with inorder.connect(url, token="t0", give_up_after=0) as session:
            await session.request("echo")
    assert (caught.value.code, caught.value.close_code) == ("draining", 1012)


@pytest.mark.parametrize(
    ("options", "hello"),
    [
        ({"token": "x"}, {"type": "hello", "token": "x"}),
        ({"username": "a", "password": "b"}, {"type": "hello", "username": "a", "password": "b"}),
        ({"auth": lambda: "x"}, {"type": "hello", "token": "x"}),
        ({"auth": lambda: ("a", "b")}, {"type": "hello", "username": "a", "password": "b"}),
        (
            {"username": "a", "password": "b", "register": True, "client": "me"},
            {"type": "register", "username": "a", "password": "b", "client": "me"},
        ),
        (
            {"token": "x", "resume": State("s1", 0, 0)},
            {"type": "hello", "token": "x", "session": "s1", "seq": 0, "accepted": 0},
        ),
        ({}, {"type": "hello"}),
    ],
)
async def test_ways_to_say_who_one_is(far_end, model, options, hello):
    seen = []
    url = await far_end(following(model, seen))
    async with inorder.connect(url, **options):
        pass
    assert seen == [hello]


async def test_auth_may_be_async(far_end, model):
    async def auth():
        return "x"

    seen = []
    url = await far_end(following(model, seen))
    async with inorder.connect(url, auth=auth):
        pass
    assert seen == [{"type": "hello", "token": "x"}]


def test_auth_or_credentials_not_both():
    with pytest.raises(ValueError, match="either"):
        inorder.connect("ws://x", auth=lambda: "x", token="y")


async def test_the_subprotocol_is_offered(far_end, model):
    offered = []

    async def script(peer):
        offered.append(peer.socket.request.headers["Sec-WebSocket-Protocol"])
        await following(model)(peer)

    async with inorder.connect(await far_end(script), token="x"):
        pass
    assert offered == ["inorder.v1"]


async def test_a_failed_login(far_end):
    async def script(peer):
        await peer.get()
        error = {"code": "unauthenticated", "message": "no", "retry": False, "of": "hello"}
        await peer.say({"type": "error", **error})
        await hold(peer)

    url = await far_end(script)
    with pytest.raises(inorder.LoginFailed) as caught:
        await inorder.connect(url, token="bad")
    assert caught.value.code == "unauthenticated"


async def test_closed_before_welcome(far_end):
    async def script(peer):
        await peer.get()
        await peer.socket.close(4529, "too_many_connections")

    url = await far_end(script)
    with pytest.raises(inorder.ConnectionLost) as caught:
        await inorder.connect(url, token="x")
    assert caught.value.retry
    assert caught.value.code == "too_many_connections"


async def test_a_server_that_never_welcomes(far_end):
    url = await far_end(hold)
    with pytest.raises(inorder.ConnectionLost, match="no welcome"):
        await inorder.connect(url, token="x", open_timeout=0.05)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, inorder.LoginFailed), (503, inorder.ConnectionLost)],
)
async def test_refused_at_the_handshake(far_end, status, kind):
    def refuse(socket, request):
        return socket.respond(http.HTTPStatus(status), "not now\n")

    url = await far_end(hold, process_request=refuse)
    with pytest.raises(kind, match=f"HTTP {status}: not now"):
        await inorder.connect(url)


async def test_no_server_and_no_url(unused_tcp_port):
    with pytest.raises(inorder.ConnectionLost) as caught:
        await inorder.connect(f"ws://127.0.0.1:{unused_tcp_port}/ws", token="x")
    assert (caught.value.code, caught.value.retry) == ("unreachable", True)
    with pytest.raises(ValueError, match="isn't a valid URI"):
        await inorder.connect("http://x", token="x")


async def test_no_websocket_server(far_end):
    async def speak(reader, writer):
        writer.write(b"SMTP ready\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(inorder.ConnectionLost) as caught:
            await inorder.connect(f"ws://127.0.0.1:{port}/ws", token="x")
    assert caught.value.code == "unreachable"
