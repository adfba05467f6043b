"""What one might build instead: a socket server that keeps each session's requests in a Redis
Stream, with a consumer group for each, and ``appendfsync always``.

A request is on the disk when XADD has answered, and it is handled (sent back) and acknowledged by
the one consumer of its stream. There is no deduplication, no resume and no durable outcome. A
process that starts a Redis of its own in the folder it is given, and prints its address and the
Redis' process id.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import uvloop
from redis.asyncio import Redis
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

_GROUP, _CONSUMER = "handlers", "one"
_AT_ONCE = 256
_numbers = itertools.count()


async def session(redis: Redis, socket: ServerConnection) -> None:
    """One connection and its stream."""
    stream = f"session:{next(_numbers)}"
    await redis.xgroup_create(stream, _GROUP, mkstream=True)
    consumer = asyncio.create_task(consume(redis, stream, socket))
    try:
        async for message in socket:
            await redis.xadd(stream, {"m": message})
    except ConnectionClosed:
        pass
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
        await redis.delete(stream)


async def consume(redis: Redis, stream: str, socket: ServerConnection) -> None:
    """The only consumer of a stream."""
    while True:
        found = await redis.xreadgroup(_GROUP, _CONSUMER, {stream: ">"}, count=_AT_ONCE, block=0)
        for _, entries in found:
            for _, fields in entries:
                await socket.send(fields[b"m"], text=True)
            ids = [id for id, _ in entries]
            async with redis.pipeline(transaction=False) as pipe:
                pipe.xack(stream, _GROUP, *ids)
                pipe.xdel(stream, *ids)
                await pipe.execute()


async def main(folder: Path) -> None:
    """Serves until it is ended; its Redis ends with it."""
    path = folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--dir", str(folder), "--save", ""]
    options += ["--appendonly", "yes", "--appendfsync", "always"]
    child = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        while not path.exists():
            await asyncio.sleep(0.02)
        redis = Redis(unix_socket_path=str(path), max_connections=10_000)
        async with serve(
            lambda socket: session(redis, socket),
            "127.0.0.1",
            0,
            subprotocols=["inorder.v1"],
            compression=None,
            max_size=2**27,
        ) as server:
            port = server.sockets[0].getsockname()[1]
            print(f"ws://127.0.0.1:{port}/ws {child.pid}", flush=True)
            ended = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
            await ended.wait()
            # A blocking read of redis-py may swallow a cancellation: nobody is waited for.
            child.kill()
            child.wait()
            os._exit(0)
    finally:
        child.kill()
        child.wait()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
