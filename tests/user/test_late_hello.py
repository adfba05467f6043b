"""A hello that its client gave up long ago, and that the server reads after the newer one."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress

from frames import RawClient, request
from websockets.exceptions import ConnectionClosed


async def test_who_has_hung_up_takes_no_session_over(serve) -> None:
    """What a paused server finds in a socket: a hello, and that nobody is there any more."""
    server = await serve()
    async with RawClient(server.url) as newer, RawClient(server.url) as older:
        welcome = await newer.register("ann", "correct horse")
        await newer.send(request("echo", 1, seq=1))
        await newer.until_outcome(1)
        hello = {"type": "hello", "token": welcome["token"], "session": welcome["session"]}
        os.kill(server.process.pid, signal.SIGSTOP)
        await older.send(json.dumps(hello))
        older.socket.transport.close()
        await older.socket.wait_closed()
        os.kill(server.process.pid, signal.SIGCONT)
        for n in range(20):
            with suppress(ConnectionClosed):
                await newer.send({"type": "ping", "data": n})
            assert await newer.next() == {"type": "pong", "data": n}, newer.closed
        assert (await newer.bye())["done"] == 1
