"""websockets' connection with what is ours: what is taken as it comes, and what by ``recv``."""

from __future__ import annotations

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from inorder_server.wire import Wire


async def test_whole_texts_are_taken_and_everything_else_is_received_in_order() -> None:
    came: list[tuple[str, str | bytes]] = []
    busy = asyncio.Event()
    go_on = asyncio.Event()

    def take(data: bytes | bytearray | memoryview) -> bool:
        text = str(data, "utf-8")
        if text.startswith("no"):
            return False
        came.append(("taken", text))
        return True

    async def converse(socket: ServerConnection) -> None:
        assert isinstance(socket, Wire)
        socket.take = take
        async for message in socket:
            came.append(("received", message))
            if message == "no, wait":
                busy.set()
                await go_on.wait()

    async with serve(converse, "127.0.0.1", 0, create_connection=Wire) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}", compression=None) as client:
            await client.send("a")
            await client.send(["b", "c"])
            await client.send(b"d")
            await client.send("e")
            await client.send("no, wait")
            await busy.wait()
            await client.send("no")
            await client.send("f")
            await (await client.ping())
            go_on.set()
            while len(came) < 7:
                await asyncio.sleep(0)
    assert came[:1] == [("taken", "a")]
    # What comes behind something that was not read yet is not taken before it.
    assert [what for _, what in came] == ["a", "bc", b"d", "e", "no, wait", "no", "f"]
    # "e" may come before its reader has gone on.
    assert {what for how, what in came if how == "taken"} <= {"a", "e"}
