"""Servers that can be made to misbehave, as far as a load generator sees them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

LIMITS = {
    "queue": 1000,
    "unacked": 10000,
    "message_bytes": 262144,
    "outcome_bytes": 262144,
    "batch": 256,
    "rate": 0,
    "ping": 20,
}
Json = dict[str, Any]


class Puppet:
    """Accepts everything and gives every request its outcome, but where it was told otherwise.

    ``outcomes``: what is sent for a request; ``receipt``: changes the receipt; ``seen``: all
    messages that came. Answers travel in one frame for each that came.
    """

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[Json] = []
        self.frames: list[Any] = []
        self.outcomes: Callable[[Json], list[Json]] = lambda request: [result(request)]
        self.receipt: Callable[[Json], Json] = lambda receipt: receipt
        self.welcome: Json = {"type": "welcome", "session": "s", "limits": LIMITS}
        self.close_at: int | None = None

    async def serve(self, socket: ServerConnection) -> None:
        done = 0
        try:
            async for frame in socket:
                decoded = json.loads(frame)
                self.frames.append(decoded)
                messages = decoded if isinstance(decoded, list) else [decoded]
                self.seen += messages
                answers: list[Json] = []
                for message in messages:
                    if message["type"] == "hello":
                        answers.append(self.welcome)
                    elif message["type"] == "request":
                        answers += self.outcomes(message)
                        done += 1
                    elif message["type"] == "bye":
                        answers.append(self._bye(done))
                    if done == self.close_at:
                        await socket.close(1011, "internal")
                        return
                if answers:
                    await socket.send(json.dumps(answers))
                if messages[-1]["type"] == "bye":
                    return
        except ConnectionClosed:
            pass

    def _bye(self, done: int) -> Json:
        rest = {"failed": 0, "cancelled": 0, "pending": 0, "verified": True}
        return {"type": "bye", "receipt": self.receipt({"accepted": done, "done": done, **rest})}


def result(request: Json) -> Json:
    return {"type": "result", "id": request["id"], "seq": request["seq"], "result": None}


def started(handler: Callable[[ServerConnection], Awaitable[None]], **more: Any) -> serve:
    """Any handler of `websockets`, as a server on a free port."""
    return serve(handler, "127.0.0.1", 0, subprotocols=[Subprotocol("inorder.v1")], **more)


def url_of(server: Server) -> str:
    return f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/ws"
