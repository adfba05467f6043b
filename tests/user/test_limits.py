"""Who is let in, and how many: connections, origins, subprotocols, time and failed logins."""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from typing import Any

import pytest
from frames import RawClient, request
from vector_server import ServerProcess
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

PASSWORD = "correct horse"


def basic(name: str, password: str) -> dict[str, str]:
    pair = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


async def turned_away(url: str, **options: Any) -> InvalidStatus:
    """The HTTP answer in place of an upgrade."""
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, **{"subprotocols": [Subprotocol("inorder.v1")], **options})
    return caught.value


async def log_in(server: ServerProcess, name: str, password: str) -> dict[str, Any]:
    """One try on a connection of its own; the answer."""
    async with RawClient(server.url) as client:
        await client.send({"type": "hello", "username": name, "password": password})
        answer = await client.next()
        assert answer is not None
        return answer


# ---- connections


@pytest.mark.parametrize("hand", [False, True], ids=["program", "hand"])
async def test_more_connections_than_the_server_may_have(serve, hand: bool) -> None:
    server = await serve({"limits": {"connections": 2}})
    async with RawClient(server.url) as first:
        await first.register("ann", PASSWORD)
        async with RawClient(server.url):
            async with RawClient(server.url, hand=hand) as third:
                assert await third.until_closed() == (4529, "too_many_connections")
                assert third.seen == []
            await first.send({"type": "ping"})
            await first.until("pong")
        # Nobody of those who left is counted any more.
        await until_a_place_is_free(server)


async def until_a_place_is_free(server: ServerProcess) -> None:
    """The server hears of an end a moment after the client."""
    for _ in range(100):
        async with RawClient(server.url) as client:
            with suppress(ConnectionClosed):
                await client.send({"type": "hello", "username": "ann", "password": PASSWORD})
            if await client.next() is not None:
                assert client.seen[0]["type"] == "welcome"
                return
            assert client.closed == (4529, "too_many_connections")
    raise AssertionError("no place became free")


async def test_more_connections_than_a_user_may_have(serve) -> None:
    server = await serve({"limits": {"connections_per_user": 2}})
    async with RawClient(server.url) as one, RawClient(server.url, hand=True) as two:
        await one.register("ann", PASSWORD)
        await two.send(f".login ann {PASSWORD}")
        await two.until("welcome")
        async with RawClient(server.url) as three:
            await three.send({"type": "hello", "username": "ann", "password": PASSWORD})
            assert await three.until_closed() == (4529, "too_many_connections")
            assert three.seen == []
        async with RawClient(server.url, hand=True, headers=basic("ann", PASSWORD)) as four:
            assert await four.until_closed() == (4529, "too_many_connections")
        async with RawClient(server.url) as other:
            await other.register("eve", PASSWORD)
        await one.bye()
        await one.until_closed()
        await until_a_place_is_free(server)


async def test_a_resumed_session_takes_no_second_place(serve) -> None:
    server = await serve({"limits": {"connections_per_user": 2}})
    async with RawClient(server.url) as client:
        session = (await client.register("ann", PASSWORD))["session"]
        await client.send(request("echo", 1, seq=1))
        await client.until_outcome(1)
    for seq in range(1, 6):
        async with RawClient(server.url) as client:
            back = await client.hello(username="ann", password=PASSWORD, session=session, seq=seq)
            assert back["resumed"] is True
            await client.send(request("echo", 1, seq=seq + 1))
            await client.until_outcome(seq + 1)


async def test_who_does_not_log_in_in_time_is_sent_away(serve) -> None:
    server = await serve({"auth": {"hello_timeout": 0.2}})
    async with (
        RawClient(server.url, hand=True) as person,
        RawClient(server.url) as logged_in,
        RawClient(server.url) as silent,
    ):
        await logged_in.register("ann", PASSWORD)
        assert await silent.until_closed() == (4508, "hello_timeout")
        # Time was up for all of them by now; these have more of it, or need none.
        await logged_in.send({"type": "ping", "data": 1})
        assert (await logged_in.until("pong"))["data"] == 1
        await person.send(f".login ann {PASSWORD}")
        assert (await person.until("welcome"))["user"] == "ann"


async def test_failing_to_log_in_does_not_win_time(serve) -> None:
    server = await serve({"auth": {"hello_timeout": 0.2}})
    async with RawClient(server.url) as client:
        await client.send({"type": "hello", "token": "x"}, {"type": "ping"})
        assert await client.until_closed() == (4508, "hello_timeout")
        assert [message["code"] for message in client.seen] == ["unauthenticated"] * 2


# ---- before the upgrade


async def test_origins(serve) -> None:
    server = await serve({"server": {"allowed_origins": ["https://app.example.org"]}})
    port = server.url.split(":")[2].split("/")[0]
    for origin in (
        "https://evil.example.org",
        "https://app.example.org.evil.org",
        "http://app.example.org",
        "https://app.example.org:8443",
        "null",
        "http://192.0.2.1",
        "http://localhost.evil.org",
    ):
        refused = await turned_away(server.url, origin=Origin(origin))
        assert refused.response.status_code == 403, origin
        assert "origin" in (refused.response.body or b"").decode()
    for origin in (
        "https://app.example.org",
        f"http://127.0.0.1:{port}",
        "http://127.0.0.1:8080",
        "http://localhost",
        "http://[::1]:5173",
    ):
        async with connect(server.url, origin=Origin(origin)):
            pass
    logged = [line for line in server.output().splitlines() if "evil.example.org" in line]
    assert "allowed_origins" in logged[0], "the log says which setting decides"


async def test_a_page_whose_name_was_made_to_point_here(serve) -> None:
    """DNS rebinding: to the browser it is the page's own host, to us it is foreign."""
    server = await serve({"server": {"allowed_origins": ["http://known.example.org"]}})
    port = int(server.url.split(":")[2].split("/")[0])
    here: dict[str, Any] = {"host": "127.0.0.1", "port": port, "proxy": None}
    for name in ("evil.example.org", "known.example.org"):
        url, origin = f"ws://{name}:{port}/ws", Origin(f"http://{name}:{port}")
        refused = await turned_away(url, origin=origin, **here)
        assert refused.response.status_code == 403
        # A proxy on this machine hands on the name that the browser asked for.
        behind = {"X-Forwarded-For": "192.0.2.1"}
        async with connect(url, origin=origin, additional_headers=behind, **here):
            pass
    origin = Origin("http://known.example.org")
    async with connect(f"ws://known.example.org:{port}/ws", origin=origin, **here):
        pass
    async with connect(
        f"ws://localhost:{port}/ws", origin=Origin(f"http://localhost:{port}"), **here
    ):
        pass


async def test_subprotocols(serve) -> None:
    server = await serve()
    for offered in (["inorder.v2"], ["mqtt"], ["INORDER.V1"], ["graphql-ws", "mqtt"]):
        refused = await turned_away(server.url, subprotocols=offered)
        assert refused.response.status_code == 400, offered
        assert b"inorder.v1" in (refused.response.body or b"")
    for offered in (["inorder.v1"], ["mqtt", "inorder.v1"], ["inorder.v1", "inorder.v2"]):
        async with connect(server.url, subprotocols=offered) as socket:
            assert socket.subprotocol == "inorder.v1"
    async with connect(server.url) as socket:
        assert socket.subprotocol is None


# ---- failed logins


async def test_failed_logins_for_a_name(serve) -> None:
    server = await serve()
    server.add_user("ann", PASSWORD, admin=False)
    server.add_user("eve", PASSWORD, admin=False)
    for n in range(9):
        assert (await log_in(server, "ann", f"wrong {n}"))["code"] == "unauthenticated"
    assert (await log_in(server, "ann", PASSWORD))["type"] == "welcome", "clears the count"
    for n in range(10):
        assert (await log_in(server, "ann", f"wrong {n}"))["code"] == "unauthenticated"
    for password in ("wrong again", PASSWORD):
        refused = await log_in(server, "ann", password)
        assert (refused["code"], refused["of"], refused["retry"]) == ("rate_limited", "hello", True)
        assert 0 < refused["after"] <= 60
    assert (await log_in(server, "eve", PASSWORD))["type"] == "welcome", "others are not meant"
    refused_upgrade = await turned_away(server.url, additional_headers=basic("ann", PASSWORD))
    assert refused_upgrade.response.status_code == 429
    assert 0 < int(refused_upgrade.response.headers["Retry-After"]) <= 60


async def test_failed_logins_from_an_address(serve) -> None:
    server = await serve()
    server.add_user("ann", PASSWORD, admin=False)
    async with RawClient(server.url) as before:
        token = (await before.hello(username="ann", password=PASSWORD))["token"]
        for n in range(20):
            # Names that are there, and names that are not: the same answer.
            assert (await log_in(server, f"name-{n}", "x"))["code"] == "unauthenticated"
        for name in ("ann", "name-99"):
            assert (await log_in(server, name, PASSWORD))["code"] == "rate_limited"
        async with RawClient(server.url) as client:
            assert (await client.hello(token=token))["user"] == "ann", "a token is no guess"
        await before.send(request("echo", "still in", seq=1))
        assert (await before.until_outcome(1))["result"] == "still in"


async def test_failed_logins_on_a_connection(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        for n in range(11):
            await client.send({"type": "hello", "token": f"forged {n}"})
        assert await client.until_closed() == (4401, "unauthenticated")
        assert [message["code"] for message in client.seen] == ["unauthenticated"] * 11


async def test_registration(serve) -> None:
    server = await serve({"auth": {"registration": "auto"}})
    async with RawClient(server.url) as client:
        assert (await client.register("ann", PASSWORD))["user"] == "ann", "from this machine"
    for header in ("Forwarded", "X-Forwarded-For"):
        async with RawClient(server.url, headers={header: "for=192.0.2.1"}) as client:
            await client.send({"type": "register", "username": "eve", "password": PASSWORD})
            assert (await client.until("error"))["code"] == "forbidden", "a proxy is in between"


# ---- a client that takes nothing


async def test_a_slow_client(serve) -> None:
    server = await serve({"session": {"slow_client_timeout": 0.2}})
    count = 150
    async with RawClient(server.url) as client:
        session = (await client.register("ann", PASSWORD))["session"]
        # Far more than the buffers between the two hold, and nobody reads.
        sizes = (request("big", 200_000, seq=seq) for seq in range(1, count + 1))
        await client.send(*sizes)
        async with asyncio.timeout(15):
            while "closed a slow client" not in server.output():
                await asyncio.sleep(0.02)
        assert await client.until_closed() == (4510, "slow_client")
        held = len(client.outcomes)
        assert held < count
        assert [outcome["seq"] for outcome in client.outcomes] == list(range(1, held + 1))
    async with RawClient(server.url) as client:
        back = await client.hello(username="ann", password=PASSWORD, session=session, seq=held)
        assert back["accepted"] == count
        await client.until_outcome(count)
        seqs = [outcome["seq"] for outcome in client.outcomes]
        assert seqs == list(range(held + 1, count + 1)), "nothing was dropped"
        receipt = await client.bye()
        assert (receipt["done"], receipt["verified"]) == (count, True)
