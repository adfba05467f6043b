"""Frames in, messages handed over: one connection from its greeting to its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from edge_bench import door, hello, request
from loguru import logger
from node_bench import settled, tasks
from virtual_time import virtual

from inorder_server import config
from inorder_server.auth import Identity


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What was logged."""
    found: list[str] = []
    sink = logger.add(lambda m: found.append(m.record["message"]), level="DEBUG")
    yield found
    logger.remove(sink)


async def wait(request: Any, seconds: float = 1) -> int:
    """Takes a while."""
    await asyncio.sleep(seconds)
    return int(request.seq)


async def big(request: Any, size: int) -> str:
    """A large result."""
    return "x" * size


def bigs(start: int, stop: int) -> list[dict[str, Any]]:
    return [request("big", 200_000, seq=n) for n in range(start, stop)]


def codes(answers: list[dict[str, Any]]) -> list[str]:
    return [answer["code"] for answer in answers]


# ---- the greeting


@virtual
async def test_a_program_is_told_nothing() -> None:
    async with door() as d:
        client = await d.connect()
        assert client.socket.types == []
        assert client.socket.protocol.max_message_size == 4096
        assert d.bench.metrics.connections == 1


@virtual
async def test_a_person_is_told_what_to_type() -> None:
    async with door() as d:
        client = await d.connect(hand=True)
        assert client.socket.types == ["hint"]


@virtual
async def test_so_many_connections() -> None:
    async with door(limits=config.Limits(connections=1)) as d:
        first = await d.connect()
        second = await d.connect()
        assert first.closed is None
        assert second.closed == (4529, "too_many_connections")
        assert second.task.done()
        await first.go()
        assert (await d.connect()).closed is None
        assert d.bench.metrics.connections_opened == 3


@virtual
async def test_who_comes_while_the_node_drains() -> None:
    async with door() as d:
        d.bench.node.draining = True
        client = await d.connect(hand=True)
        assert client.socket.types == []
        assert client.closed == (1012, "draining")


@virtual
async def test_a_header_over_the_limit_of_its_user() -> None:
    async with door(limits=config.Limits(connections_per_user=1)) as d:
        await d.welcome()
        client = await d.connect(hand=True, identity=Identity("ann", False, 1))
        assert client.closed == (4529, "too_many_connections")
        assert d.edge.per_user == {"ann": 1}


# ---- program mode and hand mode


@virtual
async def test_a_json_hello_makes_a_program_of_it() -> None:
    async with door() as d:
        client = await d.connect(hand=True)
        await client.say("", "  \n")
        welcome = (await client.say(hello()))[0]
        assert welcome["token"]
        assert welcome["limits"]
        answers = await client.say([request(seq=1), request(seq=2)])
        assert [m["seq"] for m in answers if m["type"] == "result"] == [1, 2]
        assert codes(await client.say("echo hi")) == ["bad_json"]


@virtual
async def test_a_json_hello_that_is_malformed_makes_a_program_of_it_too() -> None:
    async with door() as d:
        client = await d.connect(hand=True)
        answers = await client.say({"type": "hello", "token": 1})
        assert [(a["code"], a["of"]) for a in answers] == [("bad_message", "hello")]
        assert (await client.hello())["token"]


@virtual
async def test_any_other_first_line_is_a_persons() -> None:
    async with door() as d:
        client = await d.connect(hand=True)
        assert codes(await client.say(".status")) == ["unauthenticated"]
        welcome = (await client.say(hello()))[0]
        assert "token" not in welcome
        assert [a["type"] for a in await client.say("echo hi")] == ["accepted", "result"]


@virtual
async def test_by_hand() -> None:
    async with door(wait) as d:
        client = await d.welcome(hand=True)
        first, second = await client.say('echo {"value": [1]}')
        assert (first["type"], first["id"], first["ahead"]) == ("accepted", "#1", 0)
        assert second["result"] == [1]
        assert await client.say("", "   ") == []
        assert codes(await client.say('{"type": "ping"', "[1, 2]")) == ["bad_json"] * 2
        assert [a["type"] for a in await client.say('{"type": "ping", "data": 1}')] == ["pong"]
        assert (await client.say(".status"))[0]["accepted"] == 1
        answers = await client.say(".dance")
        assert (answers[0]["code"], answers[0]["of"]) == ("unknown_type", ".dance")
        assert ".help" in answers[0]["message"]
        await client.say("wait 10")
        assert [a["type"] for a in await client.say(".cancel 2")] == ["cancelling", "error"]
        for frame in client.socket.frames:
            assert frame.startswith(b'{"type":'), "one object a frame, type first"


@virtual
async def test_help_says_more_after_the_login() -> None:
    async with door(wait) as d:
        client = await d.connect(hand=True)
        before = await client.say(".help")
        assert {line["type"] for line in before} == {"hint"}
        await client.say(".login ann correct horse")
        after = [line["message"] for line in await client.say(".help")]
        assert len(after) == len(before) + 2
        assert "wait  Takes a while." in after


@virtual
async def test_acknowledging_by_hand() -> None:
    async with door() as d:
        client = await d.welcome(hand=True)
        await client.say("echo 1", "echo 2", "echo 3")
        await client.say(".ack 2")
        assert (await client.say(".status"))[0]["acked"] == 2
        await client.say(".ack")
        assert (await client.say(".status"))[0]["acked"] == 3
        await client.say("echo 4", ".bye")
        receipt = client.socket.seen[-1]["receipt"]
        assert (receipt["accepted"], receipt["done"], receipt["verified"]) == (4, 4, True)
        assert client.closed == (1000, "done")


@pytest.mark.parametrize("word", [".ack", ".bye"])
def test_by_hand_what_was_not_sent_is_not_acknowledged(word: str) -> None:
    @virtual
    async def run() -> None:
        async with door(big) as d:
            d.bench.runner.outcome_bytes = 1 << 20
            client = await d.welcome(hand=True)
            client.socket.stop_reading()
            for _ in range(20):
                await client.say("big 200000")
            await settled(300)
            assert len(client.socket.of("result")) < 3
            # It is looked at when the peer has read enough to ask for more.
            client.socket.say(word)
            client.socket.read_on()
            await settled(500)
            assert [m["seq"] for m in client.socket.of("result")] == list(range(1, 21))

    run()


# ---- frames


@virtual
async def test_an_array_is_handled_in_order() -> None:
    async with door() as d:
        client = await d.welcome()
        answers = await client.say(
            json.dumps([{"type": "ping", "data": 1}, 5, [], {"type": "ping", "data": 2}])
        )
        assert [a.get("data", a.get("code")) for a in answers] == [
            1,
            "bad_message",
            "bad_message",
            2,
        ]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("nonsense", "bad_json"),
        ("[1,", "bad_json"),
        ("[]", "bad_message"),
        (json.dumps([{"type": "ping"}] * 5), "bad_message"),
        ("{}", "bad_message"),
        ('"hello"', "bad_message"),
        ('{"type": "dance"}', "unknown_type"),
        ('{"type": "cancel"}', "bad_message"),
        ("[" * 100_000, "bad_json"),
    ],
)
def test_what_is_no_message(frame: str, code: str) -> None:
    @virtual
    async def run() -> None:
        async with door(limits=config.Limits(batch=4)) as d:
            client = await d.welcome()
            assert codes(await client.say(frame)) == [code], "once for the whole frame"
            assert [a["type"] for a in await client.say({"type": "ping"})] == ["pong"]

    run()


@virtual
async def test_an_array_may_begin_with_hello() -> None:
    async with door() as d:
        client = await d.connect()
        answers = await client.say([request(id="a"), hello(), request(id="b")])
        assert [a["type"] for a in answers if a["type"] != "accepted"] == [
            "error",
            "welcome",
            "result",
        ]
        assert answers[-1]["id"] == "b"


@virtual
async def test_a_binary_frame() -> None:
    async with door() as d:
        client = await d.welcome()
        client.socket.say(b"\x00")
        await settled()
        assert client.closed == (1003, "binary")
        await settled()
        assert not d.edge.per_user


@virtual
async def test_a_hundred_bad_messages_are_enough() -> None:
    async with door() as d:
        client = await d.welcome()
        answers = await client.say(*["nonsense", "{}", '{"type": "dance"}'] * 33, "nonsense")
        assert len(answers) == 100
        assert client.closed is None
        await client.say({"type": "ping"})
        await client.say(*["nonsense"] * 100)
        assert client.closed is None, "a good one between"
        answers = await client.say("nonsense", {"type": "ping"})
        assert codes(answers) == ["bad_json"], "and nothing after it"
        assert client.closed == (4400, "bad_message")


@virtual
async def test_the_rest_of_an_array_counts_for_nothing_after_the_close() -> None:
    async with door() as d:
        client = await d.welcome()
        answers = await client.say(json.dumps([*range(101), {"type": "ping"}, request(seq=1)]))
        assert codes(answers) == ["bad_message"] * 101
        assert client.closed == (4400, "bad_message")
        assert d.store.groups == []


@virtual
async def test_bad_messages_before_the_login_count_too() -> None:
    async with door() as d:
        client = await d.connect(hand=True)
        await client.say(*["{"] * 101)
        assert client.closed == (4400, "bad_message")


# ---- messages


@virtual
async def test_every_message_has_its_answer() -> None:
    async with door(wait) as d:
        client = await d.welcome()
        assert await client.say({"type": "ping"}) == [{"type": "pong"}]
        assert await client.say({"type": "ping", "data": None}) == [{"type": "pong", "data": None}]
        names = [m["name"] for m in (await client.say({"type": "methods"}))[0]["methods"]]
        assert names == ["echo", "wait"]
        await client.say(request("wait", id="a", seq=1), request(id="b", seq=2))
        (status,) = await client.say({"type": "status", "from": 1})
        assert status["running"]["id"] == "a"
        assert [line["state"] for line in status["requests"]] == ["running", "waiting"]
        assert await client.say({"type": "cancel", "id": "b"}) == [
            {"type": "cancelling", "id": "b", "seq": 2}
        ]
        await asyncio.sleep(2)
        assert [m["seq"] for m in client.socket.seen if m["type"] in ("result", "error")] == [1, 2]
        await client.say({"type": "ack", "seq": 99})
        assert (await client.say({"type": "status"}))[0]["acked"] == 2
        assert codes(await client.say({"type": "cancel", "id": "b"})) == ["not_found"]


@virtual
async def test_requests_and_acknowledgements_are_taken_as_they_come() -> None:
    async with door(wait) as d:
        client = await d.welcome()
        client.socket.say([request(id="a", seq=1), request(id="b", seq=2)])
        (queue,) = d.edge.registry.queues.values()
        assert queue.session.last == 2, "without a turn of the loop"
        await settled()
        client.socket.say({"type": "ack", "seq": 1})
        assert queue.session.acked == 1
        client.socket.say([request(id="c", seq=3), {"type": "ping"}])
        assert queue.session.last == 2, "what else there is comes in its order, by the reader"
        client.socket.say(request(id="d", seq=4))
        assert queue.session.last == 2, "and so does what comes behind it"
        await settled()
        assert client.socket.types.count("pong") == 1
        assert [m["seq"] for m in client.socket.of("result")] == [1, 2, 3, 4]
        client.socket.say(request(id="e", seq=5))
        assert queue.session.last == 5


@virtual
async def test_nothing_is_taken_while_the_peer_has_too_much_to_read() -> None:
    async with door(big) as d:
        d.bench.runner.outcome_bytes = 1 << 20
        client = await d.welcome()
        client.socket.stop_reading()
        await client.say(bigs(1, 9))
        await settled(500)
        (queue,) = d.edge.registry.queues.values()
        client.socket.say(request(seq=9))
        assert queue.session.last == 8
        client.socket.read_on()
        await settled(1000)
        assert queue.session.last == 9


@virtual
async def test_a_fault_of_ours_in_what_is_taken_closes_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with door() as d:
        client = await d.welcome()
        (queue,) = d.edge.registry.queues.values()
        monkeypatch.setattr(queue, "request", lambda message: 1 / 0)
        client.socket.say(request(seq=1))
        await settled()
        assert client.socket.closed == (1011, "internal")


@virtual
async def test_repeats_are_answers_in_the_order_of_their_messages() -> None:
    async with door(wait) as d:
        client = await d.welcome()
        await client.say(request(id="a", seq=1), request("wait", id="b", seq=2))
        answers = await client.say(
            request(id="a", seq=1),
            {"type": "ping"},
            request("wait", id="b", seq=2),
            request(id="a", seq=1),
            request("wait", id="a"),
        )
        assert [(a["type"], a.get("id")) for a in answers if a["type"] != "accepted"] == [
            ("result", "a"),
            ("pong", None),
            ("result", "a"),
            ("error", "a"),
        ]
        assert answers[-1]["code"] == "id_conflict"
        assert [a["id"] for a in answers if a["type"] == "accepted"] == ["b"]


@virtual
async def test_methods_for_admins() -> None:
    from inorder_server.handlers import handler

    @handler(admin=True)
    async def wipe(request: Any) -> None:
        """Everything."""

    async with door(wipe) as d:
        d.user("root", admin=True)
        root, ann = await d.welcome("root"), await d.welcome("ann")

        async def names(client: Any) -> list[str]:
            answer = (await client.say({"type": "methods"}))[0]
            return [m["name"] for m in answer["methods"]]

        assert await names(root) == ["echo", "wipe"]
        assert await names(ann) == ["echo"]
        by_hand = await d.welcome("root", hand=True)
        assert "wipe  Everything." in [m["message"] for m in await by_hand.say(".help")]


@virtual
async def test_work_holds_up_no_answer() -> None:
    async with door(wait) as d:
        client = await d.welcome()
        await client.say(request("wait", 3600, id="a", seq=1))
        assert [a["type"] for a in await client.say({"type": "ping"})] == ["pong"]
        assert [a["type"] for a in await client.say({"type": "cancel", "id": "a"})] == [
            "cancelling",
            "error",
        ]


# ---- bye


@virtual
async def test_bye_waits_for_what_is_due() -> None:
    async with door(wait) as d:
        client = await d.welcome()
        await client.say(request("wait", seq=1), request("wait", seq=2), {"type": "bye"})
        assert "bye" not in client.socket.types
        answers = await client.say(
            {"type": "bye"},
            request(seq=3),
            {"type": "ping"},
            {"type": "status"},
            {"type": "methods"},
            {"type": "ack", "seq": 0},
        )
        assert codes(answers[:2]) == ["closing", "closing"]
        assert [a["type"] for a in answers[2:]] == ["pong", "status", "methods"]
        await asyncio.sleep(3)
        assert [m["seq"] for m in client.socket.of("result")] == [1, 2]
        receipt = client.socket.seen[-1]["receipt"]
        assert (receipt["done"], receipt["pending"], receipt["verified"]) == (2, 0, True)
        assert client.closed == (1000, "done")


@virtual
async def test_bye_that_cancels() -> None:
    async with door(wait) as d:
        client = await d.welcome()
        await client.say(request("wait", 3600, seq=1), request(seq=2))
        await client.say({"type": "bye", "mode": "cancel"})
        receipt = client.socket.seen[-1]["receipt"]
        assert (receipt["done"], receipt["cancelled"], receipt["verified"]) == (0, 2, True)


@virtual
async def test_bye_of_a_session_that_accepted_nothing() -> None:
    async with door() as d:
        client = await d.welcome()
        (answer,) = await client.say({"type": "bye"})
        assert answer["receipt"]["accepted"] == 0
        assert answer["receipt"]["verified"] is True
        assert client.closed == (1000, "done")
        assert d.store.groups == []


@virtual
async def test_bye_comes_after_everything_a_slow_peer_is_owed() -> None:
    async with door(big) as d:
        d.bench.runner.outcome_bytes = 1 << 20
        client = await d.welcome()
        session = client.socket.of("welcome")[0]["session"]
        await client.say(bigs(1, 4))
        client.socket.stop_reading()
        await client.say([*bigs(4, 31), {"type": "bye"}])
        await settled(500)
        assert d.database_state(session) == "live", "the end would take its outcomes along"
        client.socket.read_on()
        await settled(1000)
        assert [m["seq"] for m in client.socket.of("result")] == list(range(1, 31))
        assert client.socket.types[-1] == "bye"
        assert client.closed == (1000, "done")
        assert d.database_state(session) == "ended"


@virtual
async def test_a_slow_peer_that_goes_after_bye_can_come_back() -> None:
    async with door(big) as d:
        d.bench.runner.outcome_bytes = 1 << 20
        client = await d.welcome()
        session = client.socket.of("welcome")[0]["session"]
        client.socket.stop_reading()
        await client.say([*bigs(1, 31), {"type": "bye"}])
        await settled(500)
        await client.go()
        await settled(200)
        held = len(client.socket.of("result"))
        assert held < 30
        assert d.database_state(session) == "live"
        again = await d.welcome(session=session, seq=held)
        await settled(1000)
        assert [m["seq"] for m in again.socket.of("result")] == list(range(held + 1, 31))


@virtual
async def test_a_slow_peer_that_said_bye_is_no_hindrance_to_its_resume() -> None:
    async with door(big) as d:
        d.bench.runner.outcome_bytes = 1 << 20
        old = await d.welcome()
        session = old.socket.of("welcome")[0]["session"]
        old.socket.stop_reading()
        await old.say([*bigs(1, 31), {"type": "bye"}])
        await settled(500)
        new = await d.connect()
        await new.say(hello(session=session, seq=0))
        await settled(1000)
        assert old.closed == (4409, "replaced")
        assert new.socket.seen[0]["resumed"] is True
        assert [m["seq"] for m in new.socket.of("result")] == list(range(1, 31))


@virtual
async def test_a_slow_peer_that_said_bye_holds_up_no_drain() -> None:
    async with door(big, drain=5) as d:
        d.bench.runner.outcome_bytes = 1 << 20
        client = await d.welcome()
        session = client.socket.of("welcome")[0]["session"]
        client.socket.stop_reading()
        await client.say([*bigs(1, 31), {"type": "bye"}])
        await settled(500)
        began = asyncio.get_running_loop().time()
        assert await d.bench.registry.drain(5) == []
        assert asyncio.get_running_loop().time() - began < 6
        await settled()
        assert client.closed == (1012, "draining")
        assert d.database_state(session) == "live"


# ---- a peer that is behind


@virtual
async def test_a_slow_peer_gets_every_outcome_once_and_in_order() -> None:
    async with door(big) as d:
        d.bench.runner.outcome_bytes = 1 << 20
        client = await d.welcome()
        for first in range(1, 61, 20):
            client.socket.stop_reading()
            await client.say([request("big", 150_000, seq=n) for n in range(first, first + 20)])
            await settled(300)
            client.socket.read_on()
            await settled(500)
        assert [m["seq"] for m in client.socket.of("result")] == list(range(1, 61))


@virtual
async def test_who_asks_and_does_not_read_is_not_listened_to() -> None:
    async with door() as d:
        client = await d.welcome()
        client.socket.stop_reading()
        ping = {"type": "ping", "data": "x" * 100_000}
        client.socket.say(*[[ping] * 2 for _ in range(100)])
        await settled(1000)
        assert client.socket._incoming.qsize() > 80
        (connection,) = d.edge.connections
        assert connection.outbox._bytes < 1_500_000
        client.socket.read_on()
        await settled(1000)
        assert len(client.socket.of("pong")) == 200


@virtual
async def test_nor_is_the_rest_of_an_array() -> None:
    async with door() as d:
        client = await d.welcome()
        client.socket.stop_reading()
        client.socket.say([{"type": "ping", "data": "x" * 100_000}] * 100)
        await settled(300)
        (connection,) = d.edge.connections
        assert connection.outbox._bytes < 1_500_000
        client.socket.read_on()
        await settled(300)
        assert len(client.socket.of("pong")) == 100


@virtual
async def test_nor_are_lines() -> None:
    async with door() as d:
        client = await d.welcome(hand=True)
        client.socket.stop_reading()
        client.socket.say(*['{"type": "ping", "data": "' + "x" * 100_000 + '"}'] * 100)
        await settled(300)
        assert client.socket._incoming.qsize() > 80
        client.socket.read_on()
        await settled(300)
        assert len(client.socket.of("pong")) == 100


@virtual
async def test_a_stuck_client_is_cut_off_and_its_outcomes_stay(lines: list[str]) -> None:
    async with door(wait) as d:
        loop = asyncio.get_running_loop()
        client = await d.welcome()
        session = client.socket.of("welcome")[0]["session"]
        client.socket.stop_reading()
        await client.say(request(seq=1))
        await asyncio.sleep(20)
        d.edge.close_slow(loop.time())
        assert client.closed is None
        await asyncio.sleep(11)
        d.edge.close_slow(loop.time())
        d.edge.close_slow(loop.time())
        await settled()
        assert client.closed == (4510, "slow_client")
        assert len([line for line in lines if "slow client" in line]) == 1
        await asyncio.sleep(6)
        assert client.socket.aborted
        assert client.task.done()
        again = await d.welcome(session=session, seq=0)
        await settled()
        assert [m["seq"] for m in again.socket.of("result")] == [1]


@virtual
async def test_a_stuck_client_that_is_to_be_closed_is_cut_off_too() -> None:
    async with door() as d:
        client = await d.welcome()
        client.socket.stop_reading()
        await client.say({"type": "ping"})
        await client.say({"type": "bye"})
        await client.say(*["nonsense"] * 101)
        assert client.closed is None
        await asyncio.sleep(31)
        d.edge.close_slow(asyncio.get_running_loop().time())
        await settled()
        assert client.closed == (4510, "slow_client")


# ---- what is said without being asked


@virtual
async def test_the_node_goes_down() -> None:
    async with door(wait, drain=5) as d:
        client, guest = await d.welcome(), await d.connect()
        await client.say(request("wait", seq=1))
        drain = asyncio.create_task(d.bench.registry.drain(5))
        await settled()
        assert client.socket.seen[-1] == {"type": "draining", "deadline": 5}
        assert codes(await client.say(request(seq=2))) == ["draining"]
        assert await drain == []
        await settled()
        assert client.socket.seen[-1]["type"] == "result"
        assert client.closed == (1012, "draining")
        assert guest.socket.types == []


@virtual
async def test_before_the_welcome_a_drain_says_nothing() -> None:
    async with door() as d:
        client = await d.connect()
        d.auth.gate.clear()
        await client.say(hello())
        (queue,) = d.bench.registry.queues.values()
        assert queue.link is not None
        queue.link.draining(5)
        assert client.socket.types == []
        d.auth.gate.set()


@virtual
async def test_a_cancel_of_the_connection_before() -> None:
    async with door(wait) as d:
        old = await d.welcome()
        session = old.socket.of("welcome")[0]["session"]
        await old.say(request("wait", id="a", seq=1))
        new = await d.connect()
        d.auth.gate.clear()
        d.store.hold("commit")
        await old.say({"type": "cancel", "id": "a"})
        await new.say(hello(session=session))
        d.store.release("commit")
        await settled()
        assert new.socket.types == [], "it is told after a resume when it asks again"
        d.auth.gate.set()
        await settled()
        assert new.socket.types == ["welcome", "error"]


@virtual
async def test_another_owner_has_the_session() -> None:
    async with door() as d:
        client = await d.welcome()
        await client.say(request(seq=1))
        session = client.socket.of("welcome")[0]["session"]
        d.store.take_away(session)
        await client.say(request(seq=2))
        await settled()
        assert client.closed == (4509, "moved")
        assert len(client.socket.of("result")) == 1


# ---- the end


@pytest.mark.parametrize("policy", ["finish", "hold", "cancel"])
def test_a_connection_that_is_lost(policy: Any) -> None:
    @virtual
    async def run() -> None:
        async with door(wait, on_disconnect=policy) as d:
            client = await d.welcome()
            session = client.socket.of("welcome")[0]["session"]
            await client.say([request("wait", seq=n) for n in (1, 2, 3)])
            await client.go()
            assert client.task.done()
            await asyncio.sleep(5)
            assert session not in d.bench.registry.queues
            endings = [d.store.row(session, n).ending for n in (1, 2, 3)]
            assert (
                endings
                == {
                    "finish": ["done"] * 3,
                    "hold": ["done", None, None],
                    "cancel": ["cancelled"] * 3,
                }[policy]
            )

    run()


@virtual
async def test_what_was_sent_before_the_loss_counts() -> None:
    async with door() as d:
        client = await d.welcome()
        client.socket.say(request(id="a", seq=1), request(id="b", seq=2))
        client.socket.go()
        await settled(200)
        session = client.socket.of("welcome")[0]["session"]
        assert d.store.row(session, 2).ending == "done"


@virtual
async def test_a_fault_of_ours_closes_that_one_connection(lines: list[str]) -> None:
    async with door() as d:
        other = await d.welcome("bob")
        client = await d.welcome()
        client.socket.break_with(RuntimeError("unexpected"))
        await settled()
        assert client.closed == (1011, "internal")
        assert "a connection failed" in lines
        assert [a["type"] for a in await other.say({"type": "ping"})] == ["pong"]


@virtual
async def test_what_comes_after_the_close_is_read_and_counts_for_nothing() -> None:
    async with door() as d:
        client = await d.welcome()
        client.socket.answers_close = False
        await client.say(*["nonsense"] * 101)
        assert client.closed == (4400, "bad_message")
        client.socket.say(*[request(seq=n) for n in range(1, 100)])
        await settled()
        assert client.socket._incoming.empty(), "unread it would hold up the close"
        assert d.store.groups == []
        assert not d.edge.per_user, "its place is free already"
        assert not client.task.done()
        await client.go()
        assert client.task.done()


@virtual
async def test_nothing_waits_for_a_writer_that_waits_for_the_store() -> None:
    async with door() as d:
        client = await d.welcome()
        await client.say(request(seq=1))
        session = client.socket.of("welcome")[0]["session"]
        d.store.hold("outcomes")
        again = await d.connect()
        await again.say(hello(session=session, seq=0))
        await again.go()
        assert again.task.done()
        d.store.release("outcomes")


@virtual
async def test_dismissed_when_the_node_goes_down() -> None:
    async with door() as d:
        client, guest = await d.welcome(), await d.connect(hand=True)
        d.edge.dismiss()
        await settled()
        assert guest.closed == (1012, "draining")
        assert client.closed is None


@virtual
async def test_a_handler_that_is_cancelled_leaves_nothing() -> None:
    async with door() as d:
        client = await d.welcome()
        client.task.cancel()
        await settled(200)
        assert client.task.cancelled()
        assert not d.edge.per_user
        assert not d.bench.registry.queues
        assert "writer" not in tasks()
        d.clients.clear()
