"""From the first frame to the welcome, over sockets that a test plays, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from edge_bench import HERE, PASSWORD, THERE, Door, door, hello, request
from loguru import logger
from node_bench import settled
from virtual_time import virtual

from inorder_server import config
from inorder_server.auth import Identity
from inorder_server.edge import Peer


def register(name: str = "eve", password: str = PASSWORD, **fields: Any) -> dict[str, Any]:
    return {"type": "register", "username": name, "password": password, **fields}


async def session_of(d: Door, count: int = 1) -> str:
    """A session of ann's with so many outcomes, whose connection is gone."""
    client = await d.welcome()
    await client.say([request(seq=n) for n in range(1, count + 1)])
    await settled(200)
    await client.go()
    await settled(200)
    assert not d.bench.registry.queues
    return str(client.socket.of("welcome")[0]["session"])


def codes(answers: list[dict[str, Any]]) -> list[str]:
    return [answer["code"] for answer in answers]


# ---- ways to log in


@virtual
async def test_by_password() -> None:
    async with door() as d:
        client = await d.connect()
        assert client.socket.frames == [], "the server says nothing first"
        welcome = await client.hello("ann")
        assert (welcome["type"], welcome["user"], welcome["resumed"]) == ("welcome", "ann", False)
        assert (welcome["accepted"], welcome["settled"], welcome["acked"]) == (0, 0, 0)
        assert welcome["limits"] == {
            "queue": 1000,
            "unacked": 10000,
            "message_bytes": 262144,
            "outcome_bytes": 262144,
            "batch": 256,
            "rate": 0,
            "ping": 20,
        }
        assert client.socket.protocol.max_message_size == 262144
        assert d.bench.metrics.logins == {"ok": 1}


@virtual
async def test_by_token() -> None:
    async with door() as d:
        first = await d.welcome()
        token = first.socket.of("welcome")[0]["token"]
        second = await d.connect()
        # The token counts, whatever else is there.
        answer = await second.say({"type": "hello", "token": token, "username": "nobody"})
        assert (answer[0]["type"], answer[0]["user"]) == ("welcome", "ann")


@virtual
async def test_by_header_in_program_mode() -> None:
    async with door() as d:
        client = await d.connect(identity=Identity("ann", False, 1))
        assert client.socket.frames == [], "hello chooses the session"
        assert (await client.say({"type": "hello"}))[0]["user"] == "ann"


@virtual
async def test_credentials_in_hello_beat_the_header() -> None:
    async with door() as d:
        client = await d.connect(identity=Identity("ann", False, 1))
        assert (await client.hello("bob"))["user"] == "bob"


@virtual
async def test_a_header_that_was_revoked_meanwhile() -> None:
    async with door() as d:
        client = await d.connect(identity=Identity("ann", False, 1))
        await d.store.revoke("ann")
        assert codes(await client.say({"type": "hello"})) == ["unauthenticated"]


@virtual
async def test_by_header_by_hand() -> None:
    async with door() as d:
        client = await d.connect(hand=True, identity=Identity("ann", False, 1))
        assert client.socket.types == ["welcome"], "in the hint's place"
        assert "token" not in client.socket.seen[0]
        assert "limits" not in client.socket.seen[0]


@virtual
async def test_register() -> None:
    async with door() as d:
        client = await d.connect()
        assert (await client.say(register()))[0]["user"] == "eve"
        assert d.bench.database.users["eve"].password_hash == PASSWORD.encode()


@pytest.mark.parametrize(
    ("peer", "message", "code", "details"),
    [
        (THERE, register(), "forbidden", None),
        (Peer("127.0.0.1", forwarded=True), register(), "forbidden", None),
        (HERE, register("ann"), "name_taken", None),
        (HERE, register("-"), "invalid_params", {"field": "username"}),
        (HERE, register(password=""), "invalid_params", {"field": "password"}),
    ],
)
def test_register_refused(peer: Peer, message: Any, code: str, details: Any) -> None:
    @virtual
    async def run() -> None:
        async with door() as d:
            client = await d.connect(peer=peer)
            error = (await client.say(message))[0]
            assert (error["code"], error["of"], error.get("details")) == (code, "register", details)
            assert (await client.hello())["type"] == "welcome", "the connection stays open"

    run()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (hello(password="wrong"), "unauthenticated"),
        (hello("nobody"), "unauthenticated"),
        ({"type": "hello"}, "unauthenticated"),
        ({"type": "hello", "token": "forged"}, "unauthenticated"),
        ({"type": "hello", "username": "ann"}, "bad_message"),
        ({"type": "hello", "password": "x"}, "bad_message"),
    ],
)
def test_hello_refused(message: Any, code: str) -> None:
    @virtual
    async def run() -> None:
        async with door() as d:
            client = await d.connect()
            error = (await client.say(message))[0]
            assert (error["code"], error["of"], error["retry"]) == (code, "hello", False)
            assert (await client.hello())["type"] == "welcome", "the connection stays open"
            assert d.bench.metrics.logins == {code: 1, "ok": 1}
            assert d.bench.metrics.refused[code] == 1

    run()


@virtual
async def test_a_token_past_its_life() -> None:
    async with door(auth=config.Auth(token_ttl=100)) as d:
        client = await d.welcome()
        token = client.socket.of("welcome")[0]["token"]
        await client.go()
        await asyncio.sleep(102)
        client = await d.connect()
        assert codes(await client.say({"type": "hello", "token": token})) == ["token_expired"]


@virtual
async def test_before_login_nothing_else_is_looked_at() -> None:
    async with door() as d:
        client = await d.connect()
        answers = await client.say(
            request(id="a"),
            {"type": "cancel", "id": "b"},
            {"type": "status"},
            {"type": "methods"},
            {"type": "ack", "seq": 1},
            {"type": "ping"},
            {"type": "bye"},
            {"type": "request", "id": "c"},
            {"type": "dance"},
        )
        assert {answer["code"] for answer in answers} == {"unauthenticated"}
        assert [(a["of"], a.get("id")) for a in answers] == [
            ("request", "a"),
            ("cancel", "b"),
            ("status", None),
            ("methods", None),
            ("ack", None),
            ("ping", None),
            ("bye", None),
            ("request", "c"),
            ("dance", None),
        ]
        assert not d.bench.registry.queues
        assert d.store.groups == []
        assert client.socket.protocol.max_message_size == 4096


@virtual
async def test_a_second_hello() -> None:
    async with door() as d:
        client = await d.welcome()
        answers = await client.say(hello(), register())
        assert [(a["code"], a["of"]) for a in answers] == [
            ("bad_message", "hello"),
            ("bad_message", "register"),
        ]
        assert d.edge.per_user == {"ann": 1}


# ---- time


@virtual
async def test_hello_has_its_time() -> None:
    async with door() as d:
        client = await d.connect()
        await asyncio.sleep(9.9)
        assert client.closed is None
        await asyncio.sleep(0.2)
        assert client.closed == (4508, "hello_timeout")


@virtual
async def test_by_hand_there_is_more() -> None:
    async with door() as d:
        client = await d.connect(hand=True)
        await asyncio.sleep(119)
        assert client.closed is None
        await asyncio.sleep(2)
        assert client.closed == (4508, "hello_timeout")


@virtual
async def test_time_stands_still_while_the_server_checks() -> None:
    async with door() as d:
        client = await d.connect()
        d.passwords.gate.clear()
        await client.say(hello())
        await asyncio.sleep(60)
        assert client.closed is None
        d.passwords.gate.set()
        await settled()
        assert client.socket.types == ["welcome"]
        await asyncio.sleep(60)
        assert client.closed is None


@virtual
async def test_after_a_refusal_it_runs_again() -> None:
    async with door() as d:
        client = await d.connect()
        await client.say(hello(password="wrong"))
        await asyncio.sleep(10.1)
        assert client.closed == (4508, "hello_timeout")


@virtual
async def test_other_messages_buy_no_time() -> None:
    async with door() as d:
        client = await d.connect()
        for _ in range(3):
            await client.say({"type": "ping"}, "nonsense")
            await asyncio.sleep(3)
        await asyncio.sleep(1.1)
        assert client.closed == (4508, "hello_timeout")


# ---- attempts


@virtual
async def test_ten_failed_logins_are_enough() -> None:
    async with door() as d:
        client = await d.connect()
        for n in range(10):
            # Each from another name: it is the connection that has had enough.
            await client.say(hello(f"u{n}"))
        assert client.closed is None
        assert codes(await client.say(hello("u10"))) == ["unauthenticated"]
        assert client.closed == (4401, "unauthenticated")


@virtual
async def test_who_is_told_to_wait_has_not_failed() -> None:
    async with door() as d:
        client = await d.connect()
        for _ in range(10):
            await client.say(hello(password="wrong"))
        client = await d.connect()
        for _ in range(30):
            answers = await client.say(hello())
            assert codes(answers) == ["rate_limited"]
            assert answers[0]["retry"] is True
            assert answers[0]["after"] == pytest.approx(60, abs=0.1)
        assert client.closed is None
        await asyncio.sleep(9)
        await client.say(hello())
        for _ in range(6):
            await asyncio.sleep(9)
            last = await client.hello()
        assert last["type"] == "welcome"


# ---- what may come between the login and the welcome


@virtual
async def test_revoked_between_login_and_welcome() -> None:
    async with door() as d:
        client = await d.connect()
        d.auth.gate.clear()
        await client.say(hello())
        assert d.edge.per_user == {"ann": 1}
        await d.store.revoke("ann")
        d.auth.gate.set()
        await settled()
        assert client.socket.types == []
        assert client.closed == (4403, "forbidden")
        assert not d.edge.per_user
        assert not d.bench.registry.queues


@virtual
async def test_cut_by_the_command_before_its_welcome() -> None:
    async with door() as d:
        session = await session_of(d)
        client = await d.connect()
        d.auth.gate.clear()
        await client.say(hello(session=session))
        d.bench.registry.revoke("ann")
        d.auth.gate.set()
        await settled(200)
        assert client.socket.types == []
        assert client.closed == (4403, "forbidden")
        assert not d.edge.per_user
        assert not d.bench.registry.queues


@virtual
async def test_the_store_goes_away_before_the_welcome() -> None:
    async with door() as d:
        session = await session_of(d)
        client = await d.connect()
        d.auth.gate.clear()
        await client.say(hello(session=session))
        d.store.away = {"user"}
        d.auth.gate.set()
        await settled(200)
        assert codes(client.socket.seen) == ["store_unavailable"]
        assert client.closed == (4503, "store_unavailable")
        assert not d.bench.registry.queues


@virtual
async def test_the_peer_goes_while_its_password_is_checked() -> None:
    async with door() as d:
        client = await d.connect()
        d.passwords.gate.clear()
        await client.say(hello())
        await client.go()
        d.passwords.gate.set()
        await settled()
        assert client.task.done()
        assert not d.edge.per_user
        assert not d.bench.registry.queues


@virtual
async def test_the_node_drains_while_a_password_is_checked() -> None:
    async with door() as d:
        client = await d.connect()
        d.passwords.gate.clear()
        await client.say(hello())
        d.bench.node.draining = True
        d.edge.dismiss()
        d.passwords.gate.set()
        await settled()
        assert client.socket.types == []
        assert client.closed == (1012, "draining")
        assert not d.bench.registry.queues


@virtual
async def test_the_node_drains_while_a_password_is_wrong() -> None:
    async with door() as d:
        client = await d.connect()
        d.passwords.gate.clear()
        await client.say(hello(password="wrong"))
        d.edge.dismiss()
        d.passwords.gate.set()
        await settled()
        assert client.socket.types == []
        assert client.closed == (1012, "draining")


@virtual
async def test_hello_while_the_node_drains() -> None:
    async with door() as d:
        client = await d.connect()
        d.bench.node.draining = True
        assert codes(await client.say(hello())) == ["draining"]
        assert client.closed == (1012, "draining")


@virtual
async def test_hello_while_the_store_is_away() -> None:
    async with door() as d:
        client = await d.connect()
        d.store.away = {"*"}
        error = (await client.say(hello()))[0]
        assert (error["code"], error["retry"], error["after"]) == ("store_unavailable", True, 1)
        assert client.closed == (4503, "store_unavailable")


@virtual
async def test_something_breaks_before_the_welcome() -> None:
    async with door() as d:
        session = await session_of(d)
        client = await d.connect()
        d.auth.broken = RuntimeError("nobody expects this")
        await client.say(hello(session=session))
        assert client.closed == (1011, "internal")
        await settled(200)
        assert not d.edge.per_user
        assert not d.bench.registry.queues, "no queue stays behind with nobody at it"


# ---- resume


@virtual
async def test_a_resume() -> None:
    async with door() as d:
        session = await session_of(d, 3)
        client = await d.connect()
        await client.say(hello(session=session, seq=1, accepted=3))
        welcome, *rest = client.socket.seen
        assert (welcome["resumed"], welcome["session"], welcome["epoch"]) == (True, session, 2)
        assert (welcome["accepted"], welcome["settled"], welcome["acked"]) == (3, 3, 1)
        assert [m["seq"] for m in rest] == [2, 3]


@virtual
async def test_a_resume_by_register_can_not_be() -> None:
    async with door() as d:
        session = await session_of(d)
        client = await d.connect()
        assert codes(await client.say(register(session=session))) == ["session_gone"]
        assert client.closed == (4410, "session_gone")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"session": "nobody's"}, "session_gone"),
        ({"name": "bob"}, "session_gone"),
        ({"seq": 4}, "history_lost"),
        ({"accepted": 4}, "history_lost"),
    ],
)
def test_a_session_that_can_not_be_had(fields: dict[str, Any], code: str) -> None:
    @virtual
    async def run() -> None:
        async with door() as d:
            session = await session_of(d, 3)
            client = await d.connect()
            error = (await client.say(hello(**({"session": session} | fields))))[0]
            assert (error["code"], error["of"]) == (code, "hello")
            assert client.closed == (4410, code)
            await settled(200)
            assert not d.edge.per_user

    run()


@virtual
async def test_a_session_that_was_ended() -> None:
    async with door() as d:
        client = await d.welcome()
        await client.say(request(seq=1))
        await client.say({"type": "bye"})
        receipt = client.socket.seen[-1]
        assert receipt["type"] == "bye"
        again = await d.connect()
        answers = await again.say(hello(session=receipt["receipt"]["session"]))
        assert answers == [receipt]
        assert again.closed == (1000, "done")


@virtual
async def test_a_resume_replaces_the_older_connection() -> None:
    async with door(limits=config.Limits(connections_per_user=1)) as d:
        old = await d.welcome()
        await old.say(request(seq=1))
        session = old.socket.of("welcome")[0]["session"]
        new = await d.welcome(session=session, seq=1)
        assert old.closed == (4409, "replaced")
        await settled()
        assert d.edge.per_user == {"ann": 1}
        await new.say(request(seq=2))
        assert new.socket.seen[-1]["seq"] == 2
        assert len(old.socket.of("result")) == 1


@virtual
async def test_a_hello_that_its_client_gave_up_replaces_nobody() -> None:
    async with door() as d:
        old = await d.welcome()
        session = old.socket.of("welcome")[0]["session"]
        for hand, word in ((False, hello(session=session)), (True, f".resume {session}")):
            late = await (d.welcome(hand=True) if hand else d.connect())
            d.auth.gate.clear()
            late.socket.say(word)
            await late.go()
            d.auth.gate.set()
            await settled(200)
            assert late.task.done()
            assert old.closed is None
        assert d.edge.per_user == {"ann": 1}


@virtual
async def test_taken_over_before_its_welcome() -> None:
    async with door() as d:
        session = await session_of(d)
        old, new = await d.connect(), await d.connect()
        d.auth.gate.clear()
        await old.say(hello(session=session))
        await new.say(hello(session=session))
        d.auth.gate.set()
        await settled()
        assert (old.socket.types, old.closed) == ([], (4409, "replaced"))
        assert new.socket.types == ["welcome", "result"]
        assert d.edge.per_user == {"ann": 1}
        await new.say(request(seq=2))
        assert new.socket.seen[-1]["seq"] == 2


@virtual
async def test_what_happens_before_the_welcome_comes_after_it_or_not_at_all() -> None:
    async def tell(request: Any) -> int:
        """Says how far it is."""
        for n in range(10):
            request.progress(n)
            await asyncio.sleep(0.01)
        return int(request.seq)

    async with door(tell) as d:
        old = await d.welcome()
        await old.say([request("tell", seq=n) for n in range(1, 6)])
        session = old.socket.of("welcome")[0]["session"]
        new = await d.connect()
        d.auth.gate.clear()
        await new.say(hello(session=session, seq=0, accepted=5))
        await asyncio.sleep(0.25)
        assert new.socket.types == []
        d.auth.gate.set()
        await asyncio.sleep(5)
        assert new.socket.types[0] == "welcome"
        assert new.socket.seen[0]["settled"] in (2, 3)
        assert [m["seq"] for m in new.socket.of("result")] == [1, 2, 3, 4, 5]


# ---- limits


@virtual
async def test_so_many_connections_a_user() -> None:
    async with door(limits=config.Limits(connections_per_user=2)) as d:
        first = await d.welcome()
        await d.welcome()
        third = await d.connect()
        await third.say(hello())
        assert third.closed == (4529, "too_many_connections")
        await d.welcome("bob")
        assert d.edge.per_user == {"ann": 2, "bob": 1}
        await first.go()
        await d.welcome()
        assert d.edge.per_user == {"ann": 2, "bob": 1}


@virtual
async def test_no_place_is_kept_by_one_that_was_refused() -> None:
    async with door(limits=config.Limits(connections_per_user=1)) as d:
        for _ in range(3):
            client = await d.connect()
            await client.say(hello(session="nobody's"))
        assert not d.edge.per_user
        await d.welcome()


# ---- tokens


@virtual
async def test_a_fresh_token_when_a_tenth_of_the_life_is_left() -> None:
    async with door(auth=config.Auth(token_ttl=1000)) as d:
        client = await d.welcome()
        old = client.socket.of("welcome")[0]["token"]
        await asyncio.sleep(899)
        assert client.socket.of("token") == []
        await asyncio.sleep(2)
        (fresh,) = client.socket.of("token")
        assert fresh["token"] != old
        assert fresh["expires_in"] == 1000
        other = await d.connect()
        assert (await other.say({"type": "hello", "token": fresh["token"]}))[0]["user"] == "ann"
        assert (await (await d.connect()).say({"type": "hello", "token": old}))[0]["user"] == "ann"
        await asyncio.sleep(900)
        assert len(client.socket.of("token")) == 2, "and again"


@virtual
async def test_no_token_by_hand_or_after_the_end() -> None:
    async with door(auth=config.Auth(token_ttl=1000)) as d:
        by_hand = await d.welcome(hand=True)
        client = await d.welcome()
        await client.go()
        await asyncio.sleep(2000)
        assert by_hand.socket.of("token") == []
        assert client.socket.of("token") == []


# ---- .resume


@virtual
async def test_resume_by_hand() -> None:
    async with door() as d:
        session = await session_of(d, 3)
        client = await d.welcome(hand=True)
        fresh = client.socket.of("welcome")[0]["session"]
        welcome, *rest = await client.say(f".resume {session} 1")
        assert (welcome["type"], welcome["session"], welcome["acked"]) == ("welcome", session, 1)
        assert [m["seq"] for m in rest] == [2, 3]
        await settled()
        assert fresh not in d.bench.registry.queues
        assert d.edge.per_user == {"ann": 1}
        assert [m["seq"] for m in await client.say("echo hi")] == [4, 4]
        await client.go()
        await settled(200)
        assert not d.bench.registry.queues


@virtual
async def test_nothing_of_the_other_session_comes_before_its_welcome() -> None:
    async def slow(request: Any) -> int:
        """Takes a while."""
        await asyncio.sleep(1)
        request.progress("nearly")
        return int(request.seq)

    async with door(slow) as d:
        old = await d.welcome()
        await old.say(request("slow", seq=1))
        session = old.socket.of("welcome")[0]["session"]
        client = await d.welcome(hand=True)
        d.store.hold("commit")
        # The outcome and the attach wait for the same commit.
        await asyncio.sleep(2)
        await client.say(f".resume {session}")
        d.store.release("commit")
        await settled()
        types = client.socket.types
        assert types == ["hint", "welcome", "welcome", "result"]
        assert old.closed == (4409, "replaced")


@virtual
async def test_resume_that_can_not_be_leaves_one_where_one_is() -> None:
    async with door() as d:
        done = await d.welcome()
        await done.say(request(seq=1), {"type": "bye"})
        ended = done.socket.of("bye")[0]["receipt"]["session"]
        client = await d.welcome(hand=True)
        own = client.socket.of("welcome")[0]["session"]
        for line, code in [
            (".resume nobodys", "session_gone"),
            (f".resume {own}", "bad_message"),
        ]:
            answers = await client.say(line)
            assert [(a["code"], a["of"]) for a in answers] == [(code, "resume")]
        assert [a["type"] for a in await client.say(f".resume {ended}")] == ["bye"]
        assert client.closed is None
        assert [a["type"] for a in await client.say("echo hi")] == ["accepted", "result"]
        answers = await client.say(".resume nobodys")
        assert codes(answers) == ["bad_message"], "something was accepted"


@virtual
async def test_resume_has_its_time() -> None:
    async with door() as d:
        client = await d.connect(hand=True)
        answers = await client.say(".resume x")
        assert [(a["code"], a["of"]) for a in answers] == [("unauthenticated", "resume")]


@virtual
async def test_resume_after_bye() -> None:
    async with door() as d:
        session = await session_of(d)
        client = await d.welcome(hand=True)
        answers = await client.say(".bye", f".resume {session}")
        assert [(a["type"], a.get("code")) for a in answers] == [
            ("error", "closing"),
            ("bye", None),
        ]
        assert client.closed == (1000, "done")


@virtual
async def test_cut_off_in_the_middle_of_a_resume() -> None:
    async with door() as d:
        session = await session_of(d)
        client = await d.welcome(hand=True)
        d.store.hold("session")
        await client.say(f".resume {session}")
        d.bench.registry.revoke("ann")
        d.store.release("session")
        await settled(200)
        assert client.closed == (4403, "forbidden")
        assert client.socket.types == ["hint", "welcome"]
        assert not d.bench.registry.queues
        assert not d.edge.per_user


@virtual
async def test_a_name_for_the_log() -> None:
    lines: list[str] = []
    sink = logger.add(lambda m: lines.append(m.record["message"]), level="DEBUG")
    async with door() as d:
        await d.welcome(client="shop/1.4")
    logger.remove(sink)
    assert "attached (shop/1.4), resumed: False" in lines
