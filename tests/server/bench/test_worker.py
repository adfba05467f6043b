"""One process of the load generator, in this one, before servers that lie, stall and go."""

from __future__ import annotations

import asyncio
import http
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from puppet import Json, Puppet, result, started, url_of
from websockets.asyncio.server import ServerConnection

from inorder_server.bench import worker
from inorder_server.bench.plan import BenchError, Plan, Report
from inorder_server.bench.worker import Worker, converse, raise_file_limit


def plan(url: str, **more: Any) -> Plan:
    given = {"connections": 3, "in_flight": 4, "duration": 0.05, "warmup": 0.01} | more
    return Plan(url=url, token="t", method="echo", params="[1]", **given)


async def report_of(url: str, **more: Any) -> Report:
    made = Worker(plan(url, **more))
    try:
        await made.open()
        await made.run()
        return await made.finish()
    finally:
        made.abort()


@pytest.mark.parametrize("single", [True, False])
async def test_a_closed_loop_that_holds(puppet: Puppet, single: bool) -> None:
    report = await report_of(puppet.url, single_frames=single, idle=2)
    assert report.holds
    assert (report.sessions, report.receipts, report.wrong) == (5, 5, {})
    assert 0 < report.answered <= report.outcomes
    assert report.outcomes == sum(message["type"] == "request" for message in puppet.seen)
    assert any(isinstance(frame, list) for frame in puppet.frames) != single
    assert report.histogram.count > 0
    assert report.cpu > 0


async def test_an_open_loop_sends_as_many_as_are_due(puppet: Puppet) -> None:
    report = await report_of(puppet.url, rate=1000, warmup=0.1, duration=0.2)
    assert report.holds
    assert report.outcomes == 300
    assert report.histogram.count == 200


async def test_an_open_loop_over_a_server_that_stalls(puppet: Puppet) -> None:
    """It answers nothing before forty requests have come: then all at once."""
    kept: list[Json] = []

    def outcomes(request: Json) -> list[Json]:
        kept.append(result(request))
        if len(kept) < 40:
            return []
        told, kept[:] = kept[:], []
        return told if request["seq"] == 40 else [result(request)]

    puppet.outcomes = outcomes
    more: dict[str, Any] = {"connections": 1, "in_flight": 40, "rate": 400, "warmup": 0}
    report = await report_of(puppet.url, duration=0.1, **more)
    assert report.holds
    assert report.outcomes == 40
    # The first was due 39 steps before the fortieth, each of 2.5 ms.
    assert report.histogram.largest >= 39 * 2500


async def test_outcomes_that_come_twice(puppet: Puppet) -> None:
    puppet.outcomes = lambda request: [result(request)] * 2
    report = await report_of(puppet.url)
    assert not report.holds
    assert report.wrong == {"again": report.outcomes}
    assert report.samples[0].startswith("again: outcome 1 came after 1")


async def test_outcomes_that_never_come(puppet: Puppet) -> None:
    puppet.outcomes = lambda request: [] if request["seq"] > 20 else [result(request)]
    report = await report_of(puppet.url, patience=0.2, connections=1)
    assert not report.holds
    assert report.wrong == {"unanswered": 4, "receipt": 1}


async def test_a_receipt_that_lies(puppet: Puppet) -> None:
    puppet.receipt = lambda receipt: receipt | {"verified": False}
    report = await report_of(puppet.url)
    assert (report.receipts, report.wrong) == (0, {"receipt": 3})


async def test_a_connection_that_is_lost_is_reported(puppet: Puppet) -> None:
    quitter = Puppet()
    quitter.close_at = 5
    servers = iter([quitter, puppet])
    async with started(lambda socket: next(servers).serve(socket)) as server:
        report = await report_of(url_of(server), connections=2, patience=0.2)
    assert not report.holds
    assert report.wrong["lost"] == 1
    assert report.wrong["no receipt"] == 1
    assert "lost: 1011 internal" in report.samples
    assert report.outcomes > 0


async def test_all_connections_lost_end_the_run(puppet: Puppet) -> None:
    puppet.close_at = 5
    with pytest.raises(BenchError, match="every connection was lost: 1011 internal"):
        await report_of(puppet.url, duration=60)


@pytest.mark.parametrize("rate", [None, 100])
async def test_a_refusal_that_is_final_ends_the_run(puppet: Puppet, rate: float | None) -> None:
    puppet.outcomes = lambda request: [
        {
            "type": "error",
            "code": "unknown_method",
            "message": "no",
            "of": "request",
            "retry": False,
        }
    ]
    with pytest.raises(BenchError, match="unknown_method: no"):
        await report_of(puppet.url, duration=60, rate=rate)


async def test_a_refusal_for_now_is_waited_out(puppet: Puppet) -> None:
    refused: set[str] = set()
    behind: set[str] = set()

    def outcomes(request: Json) -> list[Json]:
        id = request["id"]
        session = id.split("-")[0]
        if request["seq"] > 2 and session in behind:
            return []  # in the gap
        if request["seq"] == 2 and id not in refused:
            refused.add(id)
            behind.add(session)
            details = {"seq": 2}
            error = {"type": "error", "code": "rate_limited", "message": "slowly", "of": "request"}
            return [error | {"id": id, "retry": True, "after": 0.02, "details": details}]
        behind.discard(session)
        return [result(request)]

    puppet.outcomes = outcomes
    puppet.receipt = lambda receipt: receipt | dict.fromkeys(("accepted", "done"), 0)
    report = await report_of(puppet.url, connections=2)
    assert report.errors == {"refused rate_limited": 2}
    assert report.wrong == {"receipt": 2}
    assert report.outcomes > 8


async def test_messages_in_fragments(puppet: Puppet) -> None:
    class Fragmenting:
        def __init__(self, socket: ServerConnection) -> None:
            self._socket = socket

        def __aiter__(self) -> Any:
            return self._socket.__aiter__()

        async def send(self, text: str) -> None:
            await self._socket.ping()
            await self._socket.send([text[:10], text[10:20], text[20:]])

    async with started(lambda socket: puppet.serve(Fragmenting(socket))) as server:  # type: ignore[arg-type]
        report = await report_of(url_of(server))
    assert report.holds


async def test_it_acknowledges_each_second(puppet: Puppet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_ACK_EVERY", 0.02)
    monkeypatch.setattr(worker, "_ACK_TURNS", 2)
    await report_of(puppet.url, connections=1, in_flight=1, rate=100, duration=0.1)
    assert sum(message["type"] == "ack" for message in puppet.seen) >= 3


async def test_connections_acknowledge_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    turns: list[list[str]] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > 4:
            raise asyncio.CancelledError

    made = Worker(plan("ws://localhost"))
    made._busy = list("abcdefgh")  # type: ignore[arg-type]
    monkeypatch.setattr(worker, "_ACK_TURNS", 3)
    monkeypatch.setattr(worker, "_acknowledge", turns.append)
    monkeypatch.setattr(worker.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await made._keep_acknowledging()
    assert turns == [["a", "d", "g"], ["b", "e", "h"], ["c", "f"], ["a", "d", "g"]]
    assert sum(slept[:3]) == pytest.approx(1.0)


async def test_what_is_held_at_the_end_of_a_run_is_acknowledged_before_the_bye(
    puppet: Puppet,
) -> None:
    made = Worker(plan(puppet.url, connections=1))
    await made.open()
    await made.run()
    while puppet.seen[-1] != {"type": "ack", "seq": made.outcomes}:
        await asyncio.sleep(0.001)
    assert not any(message["type"] == "bye" for message in puppet.seen)
    assert (await made.finish()).holds


async def test_a_bare_echo(puppet: Puppet) -> None:
    async def echo(socket: ServerConnection) -> None:
        async for frame in socket:
            await socket.send(frame)

    async with started(echo) as server:
        report = await report_of(url_of(server), bare=True)
    assert report.holds
    assert (report.receipts, report.wrong) == (3, {})
    assert report.answered > 0


# ---- what doesn't begin


async def told(url: str, **more: Any) -> str:
    with pytest.raises(BenchError) as caught:
        await report_of(url, **more)
    return str(caught.value)


async def test_nobody_listens() -> None:
    async with started(Puppet().serve) as server:
        url = url_of(server)
    assert "no connection" in await told(url)


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (lambda socket: socket.close(4529, "too_many_connections"), "4529 too_many_connections"),
        (lambda socket: socket.wait_closed(), "no answer to the login within 0.2 s"),
        (
            lambda socket: socket.send(
                '{"type":"error","of":"hello","code":"unauthenticated","message":"who?"}'
            ),
            "unauthenticated: who?",
        ),
    ],
)
async def test_a_login_that_fails(
    handler: Callable[[ServerConnection], Awaitable[None]], words: str
) -> None:
    async with started(handler) as server:
        assert words in await told(url_of(server), patience=0.2)


async def test_a_handshake_that_fails() -> None:
    async with started(
        Puppet().serve,
        process_request=lambda socket, _: socket.respond(http.HTTPStatus.FORBIDDEN, "not here\n"),
    ) as server:
        assert await told(url_of(server)) == "refused: HTTP 403 not here"


async def test_what_listens_is_no_websocket_server() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "no WebSocket" in await told(f"ws://127.0.0.1:{port}/ws")


def test_too_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    limits = [100, 1000]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(0, new[0]))
    raise_file_limit(50)
    assert limits == [100, 1000]
    raise_file_limit(900)
    assert limits == [900, 1000]
    with pytest.raises(BenchError, match="allows a process 1000 open files, and 1001 are needed"):
        raise_file_limit(1001)


# ---- the conversation


async def test_the_conversation(puppet: Puppet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_TELL_EVERY", 0.01)
    said: list[dict[str, Any]] = []
    heard = iter(["go", "finish"])

    async def hear() -> str:
        return next(heard)

    await converse(plan(puppet.url), said.append, hear)
    kinds = [next(iter(words)) for words in said]
    assert [kind for kind in kinds if kind != "count"] == ["ready", "settled", "report"]
    assert kinds.count("count") > 0
    assert said[0] == {"ready": 3}
    assert said[-1]["report"]["receipts"] == 3
