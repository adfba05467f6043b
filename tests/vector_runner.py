"""Runs one conversation of protocol/vectors against a server.

Source: protocol/vectors/README.md. Knows a server by its address only; the caller brings
what starts and stops it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from vector_format import OPTIONAL, SUBPROTOCOL, Conversation, Words, kind_of, row_of
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

PATIENCE = 10.0
"""Seconds to wait for a message or a close."""


class Broken(AssertionError):
    """The server did not say what the conversation says."""


class Server(Protocol):
    """What the runner needs of a server."""

    url: str

    async def stop(self) -> None:
        """Asks it to end, and does not wait."""

    async def kill(self) -> None:
        """Ends it at once."""

    async def start(self) -> None:
        """Waits for its end, and starts it on the same files."""


class Peer:
    """One connection: what came, unmatched, and what holds on every connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.unmatched: list[dict[str, Any]] = []
        self.logged_in = False
        self.closed: tuple[int, str] | None = None
        self.passed_over: Any = None
        """A pattern of messages that may be left over: a list that was asked for."""
        self.covered = 0
        """Up to here acceptance was said by a higher `accepted` or an outcome."""
        self._outcome = 0
        self._outcomes: set[int] = set()

    async def read(self, deadline: float) -> bool:
        """Waits for a frame. False: none came, or the connection is closed."""
        if self.closed is not None:
            return False
        try:
            async with asyncio.timeout_at(deadline):
                frame = await self.socket.recv()
        except TimeoutError:
            return False
        except ConnectionClosed:
            self.closed = (self.socket.close_code or 1006, self.socket.close_reason or "")
            return False
        if isinstance(frame, bytes):
            raise Broken("the server sent a binary frame")
        content = json.loads(frame)
        for message in content if isinstance(content, list) else [content]:
            self._take(message)
        return True

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "welcome":
            self.logged_in = True
        seq = message.get("seq", 0)
        if message["type"] == "accepted":
            if seq in self._outcomes:
                raise Broken(f"accepted after its outcome: {message}")
            self.covered = max(self.covered, seq - 1)
        elif row_of(message) == "outcome" and message["type"] != "cancelling":
            if self._outcome and seq > self._outcome + 1:
                raise Broken(f"an outcome was left out before {message}")
            self._outcome = max(self._outcome, seq)
            self._outcomes.add(seq)
            self.covered = max(self.covered, seq)
        self.unmatched.append(message)

    def leftovers(self, words: Words, also: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """What came and was not expected."""
        allowed = [*also, self.passed_over] if self.passed_over else also
        return [
            message
            for message in self.unmatched
            if message["type"] not in OPTIONAL
            and not any(words.mismatch(pattern, message) is None for pattern in allowed)
        ]


class Run:
    """One run of a conversation, with users that are ``words``'."""

    def __init__(self, conversation: Conversation, server: Server, words: Words) -> None:
        self._conversation = conversation
        self._server = server
        self._words = words
        self._hand = conversation["mode"] == "hand"
        self._peers: dict[str, Peer] = {}
        self._pings = itertools.count()

    async def play(self) -> None:
        """Raises :class:`Broken`, with the number of the step, where the server differs."""
        try:
            for number, step in enumerate(self._conversation["steps"], 1):
                try:
                    await self._step(step)
                except Broken as exc:
                    shown = json.dumps(step, ensure_ascii=False)[:300]
                    raise Broken(f"step {number} {shown}\n  {exc}") from None
            for name, peer in self._peers.items():
                try:
                    await self._end(peer)
                except Broken as exc:
                    raise Broken(f"at the end, {name}: {exc}") from None
        finally:
            for peer in self._peers.values():
                await self._cut(peer)

    async def _step(self, step: dict[str, Any]) -> None:
        kind = kind_of(step)
        if kind == "call":
            return
        if kind == "pause":
            await asyncio.sleep(step["pause"])
        elif kind == "server":
            await getattr(self._server, step["server"])()
        elif kind in ("connect", "login", "resume"):
            await getattr(self, f"_{kind}")(step)
        elif kind in ("drop", "leave"):
            peer = self._peers.pop(step[kind])
            if left := peer.leftovers(self._words):
                raise Broken(f"not expected: {left}")
            await (self._cut(peer) if kind == "drop" else peer.socket.close())
        else:
            await getattr(self, f"_{kind}")(self._peers[step.get("on", "a")], step)

    # ---- opening and closing

    async def _connect(self, step: dict[str, Any]) -> None:
        offered = step.get("subprotocols", [] if self._hand else [SUBPROTOCOL])
        headers = self._words.fill(step.get("headers", {}))
        opening = connect(
            self._server.url.removesuffix("/ws") + step.get("path", "/ws"),
            subprotocols=[Subprotocol(name) for name in offered] or None,
            additional_headers=headers,
            max_size=None,
            proxy=None,
            compression=None,
            close_timeout=2,
        )
        try:
            socket = await opening
        except InvalidStatus as exc:
            status = exc.response.status_code
            if status != step.get("http"):
                raise Broken(f"HTTP {status}") from None
            return
        self._peers[step["connect"]] = Peer(socket)
        if "http" in step:
            raise Broken(f"HTTP {step['http']} expected, but it was let in")
        if SUBPROTOCOL in offered and socket.subprotocol != SUBPROTOCOL:
            raise Broken(f"selected the subprotocol {socket.subprotocol!r}")

    def _first_user(self) -> str:
        first = (self._conversation.get("users") or ["ann"])[0]
        return str(first["name"] if isinstance(first, dict) else first)

    async def _login(self, step: dict[str, Any]) -> None:
        name = step["login"]
        user = step.get("user", self._first_user())
        await self._connect({"connect": name})
        peer = self._peers[name]
        welcome = {
            "type": "welcome",
            "session": f"$capture:session.{name}",
            "user": f"$user:{user}",
            "epoch": "$int",
            "resumed": False,
            "accepted": 0,
            "settled": 0,
            "acked": 0,
        }
        if self._hand:
            await self._expect(peer, {"expect": {"type": "hint", "message": "$string"}})
            await self._send(peer, {"send": f".login $user:{user} $password:{user}"})
        else:
            credentials = {"username": f"$user:{user}", "password": f"$password:{user}"}
            await self._send(peer, {"send": {"type": "hello", **credentials}})
            welcome |= {"token": f"$capture:token.{name}", "expires_in": "$number"}
            welcome |= {"limits": "$object"}
        await self._expect(peer, {"expect": welcome})

    async def _resume(self, step: dict[str, Any]) -> None:
        await self._connect({"connect": step["resume"]})
        peer = self._peers[step["resume"]]
        user = self._first_user()
        hello = {
            "type": "hello",
            "username": f"$user:{user}",
            "password": f"$password:{user}",
            "session": step.get("session", "$ref:session.a"),
            **{field: step[field] for field in ("seq", "accepted") if field in step},
        }
        await self._send(peer, {"send": hello})
        welcome = {"type": "welcome", "resumed": True, **step.get("welcome", {})}
        await self._expect(peer, {"expect": welcome})

    async def _closed(self, peer: Peer, step: dict[str, Any]) -> None:
        deadline = _deadline(step)
        while await peer.read(deadline):
            pass
        if left := peer.leftovers(self._words, step.get("may", [])):
            raise Broken(f"not expected: {left}")
        peer.unmatched.clear()
        if peer.closed is None:
            raise Broken("it was not closed")
        code, reason = peer.closed
        if code != step["closed"] or reason != step.get("reason", reason):
            raise Broken(f"it was closed with {code} {reason!r}")

    async def _cut(self, peer: Peer) -> None:
        peer.socket.transport.abort()
        with suppress(ConnectionClosed):
            await peer.socket.wait_closed()

    async def _end(self, peer: Peer) -> None:
        if peer.logged_in and peer.closed is None:
            await self._quiet(peer, {})
        elif left := peer.leftovers(self._words):
            raise Broken(f"not expected: {left}")

    # ---- sending

    async def _send(self, peer: Peer, step: dict[str, Any]) -> None:
        message = self._words.fill(step["send"])
        if "pad" in step:
            bare = len(json.dumps(message | {step["pad"]: ""}).encode())
            message = message | {step["pad"]: "x" * (step["bytes"] - bare)}
        if "copies" in step:
            message = [message] * step["copies"]
        text = message if isinstance(message, str) else json.dumps(message)
        # A connection that was closed meanwhile is a matter for the next steps.
        with suppress(ConnectionClosed):
            for _ in range(step.get("times", 1)):
                await peer.socket.send(text)

    async def _send_binary(self, peer: Peer, step: dict[str, Any]) -> None:
        await peer.socket.send(bytes.fromhex(step["send_binary"]))

    async def _send_text_bytes(self, peer: Peer, step: dict[str, Any]) -> None:
        await peer.socket.send(bytes.fromhex(step["send_text_bytes"]), text=True)

    # ---- expecting

    async def _expect(self, peer: Peer, step: dict[str, Any]) -> None:
        for _ in range(step.get("times", 1)):
            await self._expect_one(peer, step["expect"], step)

    async def _expect_one(self, peer: Peer, pattern: dict[str, Any], step: dict[str, Any]) -> None:
        may_lack = (
            pattern["type"] == "accepted" and not self._hand and not step.get("strict", False)
        )
        deadline = _deadline(step)
        while True:
            message = self._next(peer, pattern)
            trouble = None
            if message is not None:
                trouble = self._words.mismatch(pattern, message)
                if trouble is None:
                    peer.unmatched.remove(message)
                    return
            if may_lack and self._words.fill(pattern["seq"]) <= peer.covered:
                return
            if trouble is not None:
                raise Broken(f"{trouble}\n  in {message}")
            if not await peer.read(deadline):
                raise Broken(f"nothing came; {peer.unmatched}, closed: {peer.closed}")

    def _next(self, peer: Peer, pattern: dict[str, Any]) -> dict[str, Any] | None:
        """The first unmatched message of the pattern's row."""
        row = row_of(pattern)
        for message in peer.unmatched:
            if row_of(message) != row:
                continue
            if row in OPTIONAL and self._words.mismatch(pattern, message) is not None:
                continue
            skipped = peer.passed_over
            if skipped and self._words.mismatch(skipped, message) is None:
                continue
            return message
        return None

    async def _expect_any_order(self, peer: Peer, step: dict[str, Any]) -> None:
        deadline = _deadline(step)
        for pattern in step["expect_any_order"]:
            while (found := self._first(peer, pattern)) is None:
                if not await peer.read(deadline):
                    raise Broken(f"{pattern} did not come; {peer.unmatched}")
            peer.unmatched.remove(found)

    def _first(self, peer: Peer, pattern: Any) -> dict[str, Any] | None:
        """The first unmatched message, of any row, that matches."""
        fits = (m for m in peer.unmatched if self._words.mismatch(pattern, m) is None)
        return next(fits, None)

    async def _some(self, peer: Peer, step: dict[str, Any]) -> None:
        deadline = _deadline(step)
        # One message may be the first of its kind and one of those looked for, too.
        missing = [step["some"], *step.get("among", [])]
        while missing := [p for p in missing if self._first(peer, p) is None]:
            if not await peer.read(deadline):
                raise Broken(f"{missing} did not come; {peer.unmatched}")
        peer.passed_over = step["some"]

    async def _poll(self, peer: Peer, step: dict[str, Any]) -> None:
        deadline = _deadline(step)
        answer: dict[str, Any] | None = None
        while asyncio.get_running_loop().time() < deadline:
            await self._send(peer, {"send": step["poll"]})
            answer = None
            while (answer := self._next(peer, {"type": "an answer"})) is None:
                if not await peer.read(deadline):
                    raise Broken(f"no answer; closed: {peer.closed}")
            peer.unmatched.remove(answer)
            if self._words.mismatch(step["until"], answer) is None:
                return
            await asyncio.sleep(0.02)
        raise Broken(f"it never came to this; last: {answer}")

    async def _quiet(self, peer: Peer, step: dict[str, Any]) -> None:
        data = f"quiet {next(self._pings)}"
        await self._send(peer, {"send": {"type": "ping", "data": data}})
        pong = {"type": "pong", "data": data}
        deadline = _deadline(step)
        while (found := self._first(peer, pong)) is None:
            if not await peer.read(deadline):
                raise Broken(f"no pong; {peer.unmatched}, closed: {peer.closed}")
        peer.unmatched.remove(found)
        if left := peer.leftovers(self._words):
            raise Broken(f"not expected: {left}")


def _deadline(step: dict[str, Any]) -> float:
    return asyncio.get_running_loop().time() + float(step.get("within", PATIENCE))


async def register(url: str, name: str, password: str) -> None:
    """Makes an account, and leaves nothing else behind."""
    async with connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)], proxy=None) as socket:
        hello = {"type": "register", "username": name, "password": password}
        await socket.send(json.dumps(hello))
        answer = json.loads(await socket.recv())
        if answer["type"] != "welcome":
            raise Broken(f"{name} was not registered: {answer}")
