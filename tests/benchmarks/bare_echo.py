"""What one compares with: ``websockets`` sends back whatever comes, and that is all it does.

The same event loop and the same settings as the server's. A process that prints its address.
"""

from __future__ import annotations

import asyncio
import sys

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed


async def echo(socket: ServerConnection) -> None:
    """One connection."""
    try:
        async for message in socket:
            await socket.send(message)
    except ConnectionClosed:
        pass


async def main() -> None:
    """Serves until it is ended."""
    options = {"compression": None, "max_size": 2**27, "ping_interval": 20, "server_header": None}
    async with serve(echo, "127.0.0.1", 0, subprotocols=["inorder.v1"], **options) as server:
        port = server.sockets[0].getsockname()[1]
        print(f"ws://127.0.0.1:{port}/ws", flush=True)
        await server.wait_closed()


if __name__ == "__main__":
    if sys.platform == "win32":
        asyncio.run(main())
    else:
        import uvloop

        uvloop.run(main())
