"""A server's numbering rules in memory, a core with its far end in hand, and a scripted server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from inorder.core import Core
from inorder.credentials import Credentials, State
from inorder.events import Event

LIMITS = {
    "queue": 1000,
    "unacked": 10000,
    "message_bytes": 262144,
    "outcome_bytes": 262144,
    "batch": 256,
    "rate": 0,
    "ping": 20,
}


def welcome(**fields: Any) -> dict[str, Any]:
    limits = {**LIMITS, **fields.pop("limits", {})}
    return {
        "type": "welcome",
        "session": "s1",
        "user": "ann",
        "epoch": 1,
        "resumed": False,
        "accepted": 0,
        "settled": 0,
        "acked": 0,
        "token": "t1",
        "expires_in": 60.0,
        "limits": limits,
        **fields,
    }


def refusal(code: str, id: str, *, retry: bool = False, **fields: Any) -> dict[str, Any]:
    message = {"type": "error", "code": code, "message": code, "retry": retry}
    return {**message, "of": "request", "id": id, **fields}


class Bench:
    """A core, and what a server would see and say. Time stands until it is moved."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.now = 100.0
        self.seen: list[Event] = []

    def open(self, **fields: Any) -> Bench:
        """``hello`` and ``welcome``; also after the connection was lost."""
        self.core.hello(Credentials(token="t0"), "test")
        self.hello = self.sent()
        self.say(welcome(**fields))
        return self

    def say(self, *messages: dict[str, Any]) -> list[Event]:
        frame = messages[0] if len(messages) == 1 else list(messages)
        self.core.receive(json.dumps(frame).encode(), self.now)
        return self.events()

    def lose(self, close_code: int = 1006, reason: str = "") -> list[Event]:
        self.core.connection_lost(close_code, reason, self.now)
        return self.events()

    def accept(self, id: str, seq: int) -> list[Event]:
        return self.say({"type": "accepted", "id": id, "seq": seq, "ahead": 0})

    def result(self, id: str, seq: int, value: Any = None) -> list[Event]:
        return self.say({"type": "result", "id": id, "seq": seq, "result": value})

    def events(self) -> list[Event]:
        events = self.core.events()
        self.seen += events
        return events

    def frames(self) -> list[bytes]:
        frames = self.core.frames_to_send(self.now)
        self.events()
        return frames

    def sent(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for frame in self.frames():
            value = json.loads(frame)
            found += value if isinstance(value, list) else [value]
        return found

    def requests(self) -> list[tuple[str, int]]:
        return [(m["id"], m["seq"]) for m in self.sent() if m["type"] == "request"]


class Model:
    """SPEC.md's "Numbers" for one session, and nothing else.

    ``refuse`` gets each request that is next in line, and returns None or the fields of a refusal.
    """

    def __init__(
        self,
        refuse: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda request: None,
        **limits: Any,
    ) -> None:
        self.limits = {**LIMITS, **limits}
        self.refuse = refuse
        self.requests: list[dict[str, Any]] = []
        self.seqs: dict[str, int] = {}
        self.settled = 0
        self.acked = 0
        self.gap = False
        self.cancelled: set[str] = set()
        self.said_bye: str | None = None
        self.most = 0
        self.acks: list[int] = []
        self.verified = True

    def handle(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        return getattr(self, "_" + message["type"])(message)  # type: ignore[no-any-return]

    def _hello(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        accepted = len(self.requests)
        return [
            welcome(
                accepted=accepted,
                settled=self.settled,
                acked=self.acked,
                resumed="session" in message,
                limits=self.limits,
            ),
            *map(self._outcome, range(message.get("seq", 0) + 1, self.settled + 1)),
        ]

    _register = _hello

    def _request(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        id, seq = message["id"], message["seq"]
        if known := self.seqs.get(id):
            if known <= self.acked:
                return [refusal("already_acknowledged", id, details={"seq": known})]
            if known <= self.settled:
                return [self._outcome(known)]
            return [{"type": "accepted", "id": id, "seq": known, "ahead": 0}]
        if self.said_bye:
            return [refusal("closing", id, details={"seq": seq})]
        expected = len(self.requests) + 1
        if seq != expected:
            if self.gap:
                return []
            self.gap = True
            details = {"expected": expected, "seq": seq}
            return [refusal("out_of_order", id, retry=True, after=0, details=details)]
        unsettled = len(self.requests) - self.settled
        full = unsettled >= self.limits["queue"]
        full = full or len(self.requests) - self.acked >= self.limits["unacked"]
        no = {"code": "queue_full", "retry": True, "after": 1.0} if full else self.refuse(message)
        if no:
            self.gap = True
            return [refusal(no.pop("code"), id, details={"seq": seq}, **no)]
        self.gap = False
        self.requests.append(message)
        self.seqs[id] = seq
        self.most = max(self.most, unsettled + 1)
        return [{"type": "accepted", "id": id, "seq": seq, "ahead": unsettled}]

    def _outcome(self, seq: int) -> dict[str, Any]:
        request = self.requests[seq - 1]
        base = {"id": request["id"], "seq": seq}
        if request["id"] in self.cancelled:
            failed = {"code": "cancelled", "message": "cancelled", "retry": False}
            return {"type": "error", **base, **failed}
        return {"type": "result", **base, "result": request.get("params")}

    def settle(self) -> list[dict[str, Any]]:
        if self.settled == len(self.requests):
            return []
        self.settled += 1
        return [self._outcome(self.settled)]

    def _cancel(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        id = message["id"]
        if self.seqs.get(id, 0) <= self.settled:
            not_found = {"code": "not_found", "message": "not found", "retry": False}
            return [{"type": "error", **not_found, "of": "cancel", "id": id}]
        self.cancelled.add(id)
        return [{"type": "cancelling", "id": id, "seq": self.seqs[id]}]

    def _ack(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        assert message["seq"] <= self.settled
        self.acked = message["seq"]
        self.acks.append(self.acked)
        return []

    def _ping(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**message, "type": "pong"}]

    def _methods(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        line = {"name": "echo", "doc": "Says it again.", "params": {}}
        return [{"type": "methods", "methods": [line]}]

    def _status(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        counts = {"accepted": len(self.requests), "settled": self.settled, "acked": self.acked}
        queued = len(self.requests) - self.settled
        return [{"type": "status", "session": "s1", "epoch": 1, **counts, "queued": queued}]

    def _bye(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        self.said_bye = message.get("mode", "finish")
        if self.said_bye == "cancel":
            self.cancelled |= {r["id"] for r in self.requests[self.settled :]}
        out = []
        while self.settled < len(self.requests):
            out += self.settle()
        return [*out, {"type": "bye", "receipt": self.receipt()}]

    def receipt(self) -> dict[str, Any]:
        total, cancelled = len(self.requests), len(self.cancelled)
        return {
            "session": "s1",
            "accepted": total,
            "done": total - cancelled,
            "failed": 0,
            "cancelled": cancelled,
            "pending": 0,
            "verified": self.verified,
        }


class Peer:
    """The server's end of a connection in a test."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.waiting: list[dict[str, Any]] = []

    async def get(self) -> dict[str, Any]:
        """The next message."""
        while not self.waiting:
            value = json.loads(await self.socket.recv())
            self.waiting = value if isinstance(value, list) else [value]
        return self.waiting.pop(0)

    async def say(self, *messages: dict[str, Any]) -> None:
        if messages:
            frame = messages[0] if len(messages) == 1 else list(messages)
            await self.socket.send(json.dumps(frame))

    async def follow(self, model: Model) -> None:
        """Does as the model says, and runs everything at once; methods that begin with
        ``wait`` stay at the head."""
        while model.said_bye is None:
            await self.say(*model.handle(await self.get()))
            while model.settled < len(model.requests):
                head = model.requests[model.settled]
                if head["method"].startswith("wait") and head["id"] not in model.cancelled:
                    break
                await self.say(*model.settle())
        await self.socket.close(1000)


@pytest.fixture(scope="session")
def make_bench() -> Callable[..., Bench]:
    def make(window: int = 256, resume: State | None = None, **options: Any) -> Bench:
        return Bench(Core(window, resume, prefix="r", **options))

    return make


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench().open()


@pytest.fixture(scope="session")
def model() -> type[Model]:
    return Model


@pytest.fixture(scope="session")
def refused() -> Callable[..., dict[str, Any]]:
    return refusal


@pytest.fixture(scope="session")
def greeting() -> Callable[..., dict[str, Any]]:
    return welcome


@pytest.fixture
async def far_end() -> AsyncIterator[Callable[..., Any]]:
    """``url = await far_end(script)``: a server whose connections run ``script(peer)``."""
    async with contextlib.AsyncExitStack() as stack:
        failures: list[BaseException] = []

        async def start(script: Callable[[Peer], Any], **options: Any) -> str:
            async def handle(socket: ServerConnection) -> None:
                try:
                    await script(Peer(socket))
                except ConnectionClosed:
                    pass
                except Exception as exc:
                    failures.append(exc)
                    raise

            options = {"subprotocols": ["inorder.v1"], "close_timeout": 0.2, **options}
            server = await stack.enter_async_context(serve(handle, "127.0.0.1", 0, **options))
            return f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"

        yield start
        await asyncio.sleep(0)
        assert not failures
