"""Opening the WebSocket: whatever goes wrong becomes an error of this library."""

from __future__ import annotations

from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from . import errors
from .errors import ConnectionLost
from .messages import SUBPROTOCOL

MAX_FRAME = 2**27
"""Bytes of a frame that is taken from a server: its batch of its largest outcomes."""


class Dialer:
    """Opens sockets to one address. ``options`` go to ``websockets``."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._url = url
        self._options = {"compression": None, "max_size": MAX_FRAME, **options}

    async def open(self) -> ClientConnection:
        """Raises ``LoginFailed`` or ``ConnectionLost``; ``ValueError`` for a bad address."""
        try:
            return await connect(
                self._url,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                open_timeout=None,
                **self._options,
            )
        except InvalidStatus as exc:
            said = (exc.response.body or b"").decode(errors="replace").strip()
            after = exc.response.headers.get("Retry-After", "")
            seconds = float(after) if after.isdecimal() else None
            raise errors.handshake(exc.response.status_code, said, seconds) from None
        except InvalidURI as exc:
            raise ValueError(str(exc)) from None
        except (InvalidHandshake, OSError, EOFError) as exc:
            # Also what answers with something else: a server that dies in mid-handshake does.
            raise ConnectionLost("unreachable", str(exc), retry=True) from exc
