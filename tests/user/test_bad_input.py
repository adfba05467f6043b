"""Bad input: each has its named error, and the connection is usable where the contract says so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from frames import Json, RawClient, request
from kept import kept
from vector_server import ServerProcess

WORDS: list[Any] = [7, 1.5, True, ["a"], {"a": 1}]
NUMBERS: list[Any] = ["1", 1.5, 1.0, True, [1], {"a": 1}, -1, 2**53, 2**64]
COUNT = NUMBERS
SEQ: list[Any] = [*NUMBERS, 0]

NAMED = {"username": "ann", "password": "correct horse"}
ATTACHING: dict[str, tuple[Json, list[Any]]] = {
    "token": ({}, WORDS),
    "username": ({"password": "x"}, WORDS),
    "password": ({"username": "ann"}, WORDS),
    "session": (NAMED, WORDS),
    "client": (NAMED, [*WORDS, "x" * 201]),
    "seq": ({**NAMED, "session": "s"}, COUNT),
    "accepted": ({**NAMED, "session": "s"}, COUNT),
}
REGISTERING = {
    **{field: rule for field, rule in ATTACHING.items() if field != "token"},
    # Not to be left out there, so null is no better.
    "username": ({"password": "x"}, [*WORDS, None]),
    "password": ({"username": "eve"}, [*WORDS, None]),
}
# For each message and field: the other fields, and values that won't do.
FIELDS: dict[str, dict[str, tuple[Json, list[Any]]]] = {
    "hello": ATTACHING,
    "register": REGISTERING,
    "request": {
        "method": ({"id": "a"}, [*WORDS, None, "", "x" * 129]),
        "id": ({"method": "echo"}, [*WORDS, "", "x" * 65, "#1"]),
        "seq": ({"method": "echo", "id": "a"}, SEQ),
        "timeout": (
            {"method": "echo", "id": "a"},
            ["1", True, [1], {"a": 1}, 0, -1, 1e10],
        ),
        "traceparent": ({"method": "echo", "id": "a"}, [*WORDS, "x" * 129]),
    },
    "cancel": {"id": ({}, [*WORDS, None, "", "x" * 65])},
    "status": {"from": ({}, SEQ)},
    "ack": {"seq": ({}, [*COUNT, None])},
    "bye": {"mode": ({}, [*WORDS, None, "", "now", "Finish"])},
}
MISSING = [
    ("register", NAMED, "username"),
    ("register", NAMED, "password"),
    ("request", {"method": "echo", "id": "a"}, "method"),
    ("cancel", {"id": "a"}, "id"),
    ("ack", {"seq": 1}, "seq"),
]
EVERY_TYPE: list[Json] = [
    request("echo", "x", id="r", seq=1),
    {"type": "cancel", "id": "r"},
    {"type": "status", "from": 1},
    {"type": "methods"},
    {"type": "ack", "seq": 1},
    {"type": "ping", "data": 1},
    {"type": "bye"},
    {"type": "bye", "mode": "cancel"},
]
LIMITS = {"message_bytes": 8192, "outcome_bytes": 4096}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """One server for all: nothing that a client sends may harm the next one."""
    started = ServerProcess(tmp_path_factory.mktemp("server"), {"limits": LIMITS})
    started.add_user("ann", "correct horse", admin=False)
    await started.start()
    yield started
    await started.close()


async def usable(client: RawClient) -> None:
    """The connection answers, after everything that was sent before."""
    await client.send({"type": "ping", "data": "still there"})
    pong = await client.until("pong")
    assert pong["data"] == "still there"


async def refused(client: RawClient, message: Any, code: str, of: str | None) -> Json:
    """Sends it, and takes its refusal."""
    await client.send(message if isinstance(message, str) else json.dumps(message))
    answer = await client.next()
    assert answer is not None, client.closed
    assert (answer["type"], answer.get("code"), answer.get("of")) == ("error", code, of), message
    assert answer["retry"] is False
    assert answer["message"]
    assert "seq" not in answer, "it is no outcome"
    return answer


@pytest.mark.parametrize(
    ("type", "field"), [(type, field) for type in FIELDS for field in FIELDS[type]]
)
async def test_a_wrong_type_for_each_field(server, type: str, field: str) -> None:
    others, values = FIELDS[type][field]
    before_login = type in ("hello", "register")
    before = kept(server).everything()
    async with RawClient(server.url) as client:
        if not before_login:
            await client.hello(**NAMED)
        for value in values:
            message = {"type": type, **others, field: value}
            answer = await refused(client, message, "bad_message", type)
            if type == "request" and field != "id":
                assert answer["id"] == "a"
        if before_login:
            await client.hello(**NAMED)
        await usable(client)
        await client.send(request("echo", "first", seq=1, id="b"))
        assert (await client.until_outcome(1))["result"] == "first", "nothing took a number"
        assert (await client.bye())["accepted"] == 1
    after = kept(server).everything()
    assert after["users"] == before["users"]
    assert len(after["sessions"]) - len(before["sessions"]) == 1


@pytest.mark.parametrize(("type", "fields", "field"), MISSING)
async def test_a_field_that_is_missing(server, type: str, fields: Json, field: str) -> None:
    async with RawClient(server.url) as client:
        if type != "register":
            await client.hello(**NAMED)
        whole = {"type": type, **fields}
        del whole[field]
        answer = await refused(client, whole, "bad_message", type)
        assert field in answer["message"], "it says which"


@pytest.mark.parametrize(
    "frame",
    ["", "hello", "{", '{"type": "ping"', '{"type": "ping"} {"type": "ping"}', "{'type': 'ping'}",
     '{"type": "ping",}', "[", '[{"type": "ping"}', '[{"type": "ping"},]', "NaN", '"\\ud800',
     "\ufeff{}", '{"type": "ping", "data": ' + "[" * 4000],
)  # fmt: skip
async def test_what_is_not_json(server, frame: str) -> None:
    async with RawClient(server.url) as client:
        await refused(client, frame, "bad_json", None)
        await client.hello(**NAMED)
        await refused(client, frame, "bad_json", None)
        await usable(client)


@pytest.mark.parametrize(
    "frame",
    ["7", "null", "true", '"ping"', "[]", "{}", '{"typ": "ping"}', '{"type": null}', '{"type": 7}',
     '{"type": ["ping"]}', "[7]", '[[{"type": "ping"}]]', "[null]"],
)  # fmt: skip
async def test_json_that_is_no_message(server, frame: str) -> None:
    async with RawClient(server.url) as client:
        await client.hello(**NAMED)
        await refused(client, frame, "bad_message", None)
        await usable(client)


async def test_the_rest_of_an_array_is_handled(server) -> None:
    async with RawClient(server.url) as client:
        await client.hello(**NAMED)
        await client.socket.send('[7, {"type": "nope"}, [], {"type": "ping", "data": 4}, {}]')
        answers = [await client.next() for _ in range(5)]
        assert [answer.get("code", answer.get("data")) for answer in answers] == [
            "bad_message",
            "unknown_type",
            "bad_message",
            4,
            "bad_message",
        ]


async def test_types_methods_and_params_not_known(server) -> None:
    async with RawClient(server.url) as client:
        await client.hello(**NAMED)
        for type in ("requests", "Ping", "welcome", "accepted", "result", "error", "", "resume"):
            await refused(client, {"type": type}, "unknown_type", type)
        calls: list[tuple[str, Any, str, str]] = [
            ("no such method", None, "unknown_method", "no such method"),
            ("ECHO", None, "unknown_method", "ECHO"),
            ("__class__", None, "unknown_method", "__class__"),
            ("strict", None, "invalid_params", "a"),
            ("strict", {}, "invalid_params", "a"),
            ("strict", {"b": "x"}, "invalid_params", "a"),
            ("strict", [], "invalid_params", "a"),
            ("strict", {"a": 1, "c": 2}, "invalid_params", "c"),
            ("strict", {"a": 1, "request": 2}, "invalid_params", "request"),
            ("strict", [1, "x", 3], "invalid_params", "at most 2"),
            ("strict", "one", "invalid_params", "a"),
            ("strict", {"a": "1"}, "invalid_params", "a"),
            ("strict", {"a": 1.5}, "invalid_params", "a"),
            ("strict", {"a": 1, "b": None}, "invalid_params", "b"),
            ("sleep", {"seconds": -1}, "invalid_params", "seconds"),
            ("sleep", {"seconds": "1"}, "invalid_params", "seconds"),
        ]
        for n, (method, params, code, word) in enumerate(calls):
            message = request(method, params, id=f"bad-{n}", seq=1)
            answer = await refused(client, message, code, "request")
            assert answer["id"] == f"bad-{n}"
            assert answer["details"]["seq"] == 1
            assert word in answer["message"], "it says which"
        await client.send(request("strict", {"a": 1}, seq=1))
        assert (await client.until_outcome(1))["result"] == {"a": 1, "b": "x"}
        assert (await client.bye())["accepted"] == 1, "what is refused is not accepted"


@pytest.mark.parametrize("message", EVERY_TYPE, ids=lambda message: message["type"])
async def test_nothing_before_login(server, message: Json) -> None:
    before = kept(server).everything()
    async with RawClient(server.url) as client:
        answer = await refused(client, message, "unauthenticated", message["type"])
        assert answer.get("id") == message.get("id")
        # In one frame with a login that fails, and one that has none.
        await client.send(message, {"type": "hello", "username": "ann", "password": "no"}, message)
        answers = [await client.next() for _ in range(3)]
        assert [(a["code"], a["of"]) for a in answers] == [
            ("unauthenticated", message["type"]),
            ("unauthenticated", "hello"),
            ("unauthenticated", message["type"]),
        ]
        assert kept(server).everything() == before
        welcome = await client.hello(**NAMED)
        assert (welcome["accepted"], welcome["resumed"]) == (0, False)
        assert (await client.bye())["accepted"] == 0
    assert kept(server).everything() == before, "not even a session that accepted nothing"


@pytest.mark.parametrize("hand", [False, True], ids=["program", "hand"])
async def test_5_kib_before_login(server, hand: bool) -> None:
    before = kept(server).everything()
    async with RawClient(server.url, hand=hand) as client:
        await client.send({"type": "hello", **NAMED, "padding": "x" * 5 * 1024})
        assert (await client.until_closed())[0] == 1009
    async with RawClient(server.url, hand=hand) as client:
        register = {"type": "register", "username": "eve", "password": "x", "padding": ""}
        register["padding"] = "x" * (4097 - len(json.dumps(register)))
        await client.send(register)
        assert (await client.until_closed())[0] == 1009
    assert {message["type"] for message in client.seen} <= {"hint"}
    assert kept(server).everything() == before


async def test_a_frame_over_the_limit(server) -> None:
    async with RawClient(server.url) as client:
        welcome = await client.hello(**NAMED)
        assert welcome["limits"]["message_bytes"] == LIMITS["message_bytes"]
        fits = json.dumps(request("echo", "", id="a", seq=1, padding="x"))
        fits = fits.replace('"x"', '"' + "x" * (LIMITS["message_bytes"] - len(fits) + 1) + '"')
        assert len(fits) == LIMITS["message_bytes"]
        await client.send(fits)
        assert (await client.until_outcome(1))["result"] == ""
        await client.send(fits.replace('"a"', '"b"').replace(": 1", ": 2") + " ")
        assert (await client.until_closed())[0] == 1009
    async with RawClient(server.url) as client:
        back = await client.hello(**NAMED, session=welcome["session"], seq=1, accepted=1)
        assert (back["resumed"], back["accepted"]) == (True, 1), "it cost the connection only"


@pytest.mark.parametrize("logged_in", [False, True])
@pytest.mark.parametrize("hand", [False, True], ids=["program", "hand"])
async def test_a_binary_frame(server, logged_in: bool, hand: bool) -> None:
    async with RawClient(server.url, hand=hand) as client:
        if logged_in:
            await client.send(json.dumps({"type": "register", "username": "x", "password": "x"}))
            await client.send(json.dumps({"type": "hello", **NAMED}))
            await client.until("welcome")
        await client.socket.send(b'{"type": "ping"}')
        assert await client.until_closed() == (1003, "binary")
    async with RawClient(server.url) as client:
        await client.hello(**NAMED)
        await usable(client)


async def test_the_same_id_with_other_params(server) -> None:
    async with RawClient(server.url) as client:
        await client.hello(**NAMED)
        await client.send(request("tell", {"values": ["begun"]}, id="a", seq=1))
        await client.until("progress")
        for message in (
            request("tell", {"values": ["begun", 2]}, id="a", seq=1),
            request("tell", {"values": "begun"}, id="a", seq=2),
            request("echo", {"values": ["begun"]}, id="a", seq=2),
            request("tell", None, id="a"),
        ):
            answer = await refused(client, message, "id_conflict", "request")
            assert (answer["id"], answer["details"]["seq"]) == ("a", 1)
        await client.send({"type": "cancel", "id": "a"})
        assert (await client.until_outcome(1))["code"] == "cancelled"
        await refused(client, request("echo", 1, id="a", seq=2), "id_conflict", "request")
        await client.send(request("echo", "on", id="b", seq=2))
        assert (await client.until_outcome(2))["result"] == "on"
        receipt = await client.bye()
        assert (receipt["accepted"], receipt["verified"]) == (2, True)


async def test_an_outcome_over_its_bound(server) -> None:
    async with RawClient(server.url) as client:
        await client.hello(**NAMED)
        await client.send(
            request("big", {"size": LIMITS["outcome_bytes"] + 1}, id="a", seq=1),
            request("big", {"size": 100}, id="b", seq=2),
        )
        outcome = await client.until_outcome(1)
        assert (outcome["type"], outcome["code"], outcome["id"]) == (
            "error",
            "result_too_large",
            "a",
        )
        assert outcome["retry"] is False
        assert (await client.until_outcome(2))["result"] == "x" * 100
        receipt = await client.bye()
        assert (receipt["done"], receipt["failed"], receipt["verified"]) == (1, 1, True)


async def test_a_queue_over_its_bound(serve) -> None:
    server = await serve({"session": {"queue": 3}})
    async with RawClient(server.url) as client:
        welcome = await client.register("ann", "correct horse")
        assert welcome["limits"]["queue"] == 3
        await client.send(request("tell", {"values": ["begun"]}, id="r1", seq=1))
        await client.until("progress")
        await client.send(*(request("echo", n, id=f"r{n}", seq=n) for n in (2, 3, 4, 5)))
        refusal = await client.until("error")
        assert (refusal["code"], refusal["of"], refusal["id"]) == ("queue_full", "request", "r4")
        assert refusal["retry"] is True
        assert refusal["after"] > 0
        assert refusal["details"]["seq"] == 4
        # Without a number there is no gap: each is told.
        await client.send(request("echo", 5, id="r5"), request("echo", 6))
        codes = [(await client.until("error"))["code"] for _ in range(2)]
        assert codes == ["queue_full", "queue_full"]
        await usable(client)
        await client.send({"type": "cancel", "id": "r1"})
        assert [o["id"] for o in [await client.until_outcome(n) for n in (1, 2, 3)]] == [
            "r1",
            "r2",
            "r3",
        ]
        await client.send(request("echo", "again", id="r4", seq=4))
        assert (await client.until_outcome(4))["result"] == "again"
        receipt = await client.bye()
        assert (receipt["accepted"], receipt["verified"]) == (4, True)
