"""The HTTP side of the port: what is decided before an upgrade, and the plain routes.

Source: design.md sections 4 and 9; SPEC.md, "Before the upgrade". websockets hands over every
request here; a response that is returned is sent, None lets the upgrade go on.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from urllib.parse import SplitResult, urlsplit

from loguru import logger
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import NegotiationError
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from inorder.messages import SUBPROTOCOL

from .assets import Asset, client_module, console
from .auth import Auth, Identity
from .config import Config
from .edge import Peer
from .metrics import Metrics
from .proxies import Networks, client_address, networks
from .refusal import Refusal
from .wire import Wire

WS_PATH = "/ws"

# Headers that decide something: which of two would count is anybody's guess.
_ONCE = ("Host", "Origin", "Authorization", "Upgrade")
# The refusals of a login, as HTTP has them.
_STATUS = {
    "rate_limited": HTTPStatus.TOO_MANY_REQUESTS,
    "overloaded": HTTPStatus.SERVICE_UNAVAILABLE,
    "draining": HTTPStatus.SERVICE_UNAVAILABLE,
    "store_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
}


def select_subprotocol(
    _connection: ServerConnection, offered: Sequence[Subprotocol]
) -> Subprotocol | None:
    """Program mode where ``inorder.v1`` is offered, hand mode where nothing is; else 400."""
    if not offered:
        return None
    if SUBPROTOCOL in offered:
        return Subprotocol(SUBPROTOCOL)
    raise NegotiationError(f"unknown subprotocol: this server speaks {SUBPROTOCOL}")


@dataclass(slots=True)
class Web:
    """Answers everything that comes before, or instead of, an upgrade."""

    config: Config
    auth: Auth
    metrics: Metrics
    ready: Callable[[], bool]
    """Whether new work is taken: false while draining and while the store is away."""
    draining: Callable[[], bool]
    assets: Mapping[str, Asset] = field(default_factory=lambda: client_module() | console())
    _trusted: Networks = field(init=False)

    def __post_init__(self) -> None:
        self._trusted = networks(self.config.server.trusted_proxies)

    async def process(self, connection: ServerConnection, request: Request) -> Response | None:
        """websockets' ``process_request``."""
        response = await self._decide(connection, request)
        if response is not None and request.method == "HEAD":
            response.body = b""  # whatever it says: RFC 9110, 9.3.2
        return response

    async def _decide(self, connection: ServerConnection, request: Request) -> Response | None:
        path, headers = _split(request.path).path, request.headers
        if twice := next((name for name in _ONCE if len(headers.get_all(name)) > 1), None):
            return _text(HTTPStatus.BAD_REQUEST, f"{twice} can't stand there twice")
        if path == WS_PATH:
            return await self._upgrade(connection, request)
        answer = self._answer_to(path)
        if answer is None:
            return _text(HTTPStatus.NOT_FOUND, f"nothing here; WebSockets connect to {WS_PATH}")
        if request.method not in ("GET", "HEAD"):
            return _not_allowed("only GET and HEAD")
        return answer(request)

    # ---- the upgrade

    async def _upgrade(self, connection: ServerConnection, request: Request) -> Response | None:
        headers = request.headers
        if headers.get("Upgrade", "").lower() != "websocket":
            response = _text(HTTPStatus.UPGRADE_REQUIRED, "this is a WebSocket endpoint")
            response.headers["Upgrade"] = "websocket"
            return response
        if self.draining():
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, "draining: the server is going down")
        peer = peer_of(connection, self._trusted)
        refused = self._check_origin(headers, peer)
        if refused is not None:
            return refused
        authorization = headers.get("Authorization")
        if authorization is None:
            return None
        try:
            identity = await self.auth.by_header(authorization, peer.address)
        except Refusal as refusal:
            self.metrics.logins[refusal.code] += 1
            return _refused(refusal)
        self.metrics.logins["ok"] += 1
        connection.identity = identity  # type: ignore[attr-defined]
        return None

    def _check_origin(self, headers: Headers, peer: Peer) -> Response | None:
        origin = headers.get("Origin")
        if origin is None:
            return None
        allowed = self.config.server.allowed_origins
        parts = _split(origin)
        near = is_loopback(parts.hostname or "")
        own = bool(parts.netloc) and parts.netloc == headers.get("Host")
        # A foreign page can have its name resolve to this machine, and is its own host then
        # (DNS rebinding). Only a proxy has a reason to come from here under another name.
        if own and not near and is_loopback(peer.address) and not peer.forwarded:
            own = False
        if origin in allowed or own or (near and is_loopback(self.config.server.host)):
            return None
        logger.warning(
            "refused the foreign origin {!r}: [server] allowed_origins in config.toml decides, "
            "and has {}",
            origin[:200],
            allowed,
        )
        return _text(HTTPStatus.FORBIDDEN, "this origin is not allowed")

    # ---- the routes

    def _answer_to(self, path: str) -> Callable[[Request], Response] | None:
        if route := _ROUTES.get(path):
            return partial(route, self)
        asset = self.assets.get(path)
        return None if asset is None else asset.answer

    def _home(self, request: Request) -> Response:
        host = request.headers.get("Host", "")
        if not all(c.isalnum() or c in ".:-[]" for c in host):
            host = ""
        page = self.assets["/"]
        body = page.body.replace(b"{host}", (host or self.config.server.host).encode())
        return replace(page, body=body).answer(request)

    def _health(self, _request: Request) -> Response:
        return _text(HTTPStatus.OK, "ok")

    def _readiness(self, _request: Request) -> Response:
        if self.ready():
            return _text(HTTPStatus.OK, "ready")
        why = "draining" if self.draining() else "store_unavailable"
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, why)

    def _metrics(self, request: Request) -> Response:
        token = self.config.secrets.metrics_token
        if token is not None:
            # The bytes as they came: a header is read as ISO-8859-1.
            given = request.headers.get("Authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, f"Bearer {token}".encode()):
                response = _text(HTTPStatus.UNAUTHORIZED, "metrics need their bearer token")
                response.headers["WWW-Authenticate"] = "Bearer"
                return response
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return _response(HTTPStatus.OK, self.metrics.exposition(), kind)


# Of a body of known, and of unknown length.
_BODIES = ("unsupported request body", "transfer codings aren't supported")
_ROUTES: dict[str, Callable[[Web, Request], Response]] = {
    "/": Web._home,
    "/healthz": Web._health,
    "/readyz": Web._readiness,
    "/metrics": Web._metrics,
}


class PlainSocket(Wire):
    """A connection that answers also what websockets drops without a word: a request that has a
    body. Nothing here takes one, so it is answered as any method that is not allowed."""

    def send_data(self) -> None:
        failed = self.protocol.handshake_exc
        if failed is not None and str(failed.__cause__) in _BODIES:
            failed.__cause__ = None  # it is answered once
            response = _not_allowed("only GET and HEAD, without a body")
            self.transport.write(response.serialize())
        super().send_data()


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def identity_of(connection: ServerConnection) -> Identity | None:
    """Who the handshake's Authorization header said it is, if it had one."""
    return getattr(connection, "identity", None)


def peer_of(connection: ServerConnection, trusted: Networks = ()) -> Peer:
    """The client's address as far as ``trusted`` proxies tell, and whether any stands before."""
    address = connection.remote_address
    headers = connection.request.headers if connection.request is not None else Headers()
    forwarded = "Forwarded" in headers or "X-Forwarded-For" in headers
    peer = str(address[0]) if address else ""
    if forwarded:
        peer = client_address(peer, headers.get_all("X-Forwarded-For"), trusted)
    return Peer(peer, forwarded)


def _split(url: str) -> SplitResult:
    """The parts of a URL or path; all are empty where it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _refused(refusal: Refusal) -> Response:
    status = _STATUS.get(refusal.code, HTTPStatus.UNAUTHORIZED)
    response = _text(status, f"{refusal.code}: {refusal.message}")
    if status is HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Basic realm="inorder", charset="UTF-8"'
    if refusal.after is not None:
        response.headers["Retry-After"] = str(max(1, round(refusal.after)))
    return response


def _not_allowed(why: str) -> Response:
    response = _text(HTTPStatus.METHOD_NOT_ALLOWED, why)
    response.headers["Allow"] = "GET, HEAD"
    return response


def _text(status: HTTPStatus, text: str) -> Response:
    return _response(status, f"{text}\n".encode(), "text/plain; charset=utf-8")


def _response(status: HTTPStatus, body: bytes, kind: str) -> Response:
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Connection": "close",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
    )
    return Response(status.value, status.phrase, headers, body)
