"""One login for a whole run: hundreds of password checks would be a load of their own."""

from __future__ import annotations

import asyncio

from websockets.exceptions import ConnectionClosed

from inorder import codec, errors
from inorder.dialing import Dialer
from inorder.messages import Error, Hello, Welcome

_PATIENCE = 30.0


async def log_in(url: str, username: str, password: str) -> str:
    """A token for the user.

    The session that it takes accepts nothing, and so ends with its connection. Raises
    ``InorderError``; ``ValueError`` for a bad URL.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            socket = await Dialer(url, {}).open()
            async with socket:
                hello = Hello(username=username, password=password, client="inorder bench")
                await socket.send(codec.encode(hello), text=True)
                async for frame in socket:
                    for message in codec.decode_server(frame):
                        if isinstance(message, Welcome) and isinstance(message.token, str):
                            return message.token
                        if isinstance(message, Error):
                            raise errors.LoginFailed(message.code, message.message)
    except ConnectionClosed:
        pass
    except TimeoutError:
        raise errors.ConnectionLost("connection_lost", "no answer to the login") from None
    raise errors.ConnectionLost("connection_lost", "the server closed during the login")
