"""What is decided before an upgrade, and the plain routes."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from loguru import logger
from websockets.datastructures import Headers
from websockets.exceptions import NegotiationError
from websockets.http11 import Request, Response

from inorder_server import config
from inorder_server.auth import Auth, Identity
from inorder_server.edge import Peer
from inorder_server.metrics import Metrics
from inorder_server.proxies import networks
from inorder_server.refusal import Refusal
from inorder_server.stores.port import User
from inorder_server.web import Web, identity_of, is_loopback, peer_of, select_subprotocol

UPGRADE = {"Upgrade": "websocket", "Host": "inorder.example"}


class Users:
    """A store with one user."""

    async def user(self, name: str) -> User | None:
        return User("ann", b"secret", 1, False, 0) if name == "ann" else None

    async def add_user(self, user: User) -> bool:
        raise NotImplementedError


class Passwords:
    refusal: Refusal | None = None

    async def hash(self, password: str) -> bytes:
        raise NotImplementedError

    async def check(self, password: str, hashed: bytes | None) -> bool:
        if self.refusal is not None:
            raise self.refusal
        return hashed == password.encode()


@dataclass
class Site:
    """A :class:`Web`, and what stands behind it."""

    server: config.Server = field(default_factory=config.Server)
    secrets: config.Secrets = field(default_factory=config.Secrets)
    is_ready: bool = True
    drains: bool = False
    address: Any = ("192.0.2.7", 4711)

    def __post_init__(self) -> None:
        self.passwords = Passwords()
        self.metrics = Metrics()
        auth = Auth(
            Users(),
            secret=b"0123456789abcdef",
            token_ttl=100,
            registration="open",
            passwords=self.passwords,
        )
        conf = config.Config(server=self.server, secrets=self.secrets, folder=Path())
        self.web = Web(conf, auth, self.metrics, lambda: self.is_ready, lambda: self.drains)
        self.connection: Any = None

    async def ask(
        self, path: str, headers: Any = None, method: str = "GET"
    ) -> tuple[Response | None, str]:
        request = Request(path, Headers(headers or {}), method)
        self.connection = SimpleNamespace(remote_address=self.address, request=request)
        response = await self.web.process(self.connection, request)
        return response, "" if response is None else bytes(response.body).decode()

    async def status(self, headers: Any, path: str = "/ws") -> int | None:
        """None where the upgrade goes on."""
        response, _ = await self.ask(path, headers)
        return None if response is None else response.status_code


def basic(credentials: str) -> dict[str, str]:
    return {**UPGRADE, "Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


# ---- routes


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/healthz", "text/plain; charset=utf-8"),
        ("/readyz?why=not", "text/plain; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("http://inorder.example/healthz", "text/plain; charset=utf-8"),
    ],
)
async def test_a_route(path: str, kind: str, method: str) -> None:
    response, body = await Site().ask(path, method=method)
    assert response is not None
    assert (response.status_code, response.headers["Content-Type"]) == (200, kind)
    assert bool(body) is (method == "GET")
    assert int(response.headers["Content-Length"]) > 0
    assert response.headers["Connection"] == "close"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
async def test_nothing_is_changed_here(method: str) -> None:
    response, _ = await Site().ask("/healthz", method=method)
    assert response is not None
    assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/nowhere", "/ws/", "//ws", "", "*", "//[", "http://["])
async def test_what_is_not_there(path: str) -> None:
    response, body = await Site().ask(path)
    assert response is not None
    assert response.status_code == 404
    assert "/ws" in body


async def test_the_page_says_where_to_connect() -> None:
    site = Site()
    _, body = await site.ask("/", {"Host": "inorder.example:80"})
    assert "wscat -c ws://inorder.example:80/ws" in body
    for host in ("<b>", "a/b", 'x"'):
        _, body = await site.ask("/", {"Host": host})
        assert "wscat -c ws://127.0.0.1/ws" in body
    _, body = await site.ask("/")
    assert "wscat -c ws://127.0.0.1/ws" in body


async def test_readiness() -> None:
    site = Site()
    assert await site.ask("/readyz") != (None, "")
    assert (await site.ask("/readyz"))[1] == "ready\n"
    site.is_ready = False
    response, body = await site.ask("/readyz")
    assert response is not None
    assert (response.status_code, body) == (503, "store_unavailable\n")
    site.drains = True
    assert (await site.ask("/readyz"))[1] == "draining\n"
    assert await site.status({}, "/healthz") == 200, "it lives"


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Bearer s3cret-tökenx", 401),
        ("Bearer \xff", 401),
        ("Basic s3cret-töken", 401),
        ("Bearer s3cret-töken".encode().decode("latin-1"), 200),
    ],
)
async def test_metrics_with_a_token(given: str | None, status: int) -> None:
    site = Site(secrets=config.Secrets(metrics_token="s3cret-töken"))
    response, body = await site.ask("/metrics", {} if given is None else {"Authorization": given})
    assert response is not None
    assert response.status_code == status
    assert ("inorder_ready" in body) is (status == 200)
    if status == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("name", ["Host", "Origin", "Authorization", "Upgrade"])
async def test_a_header_that_decides_stands_there_once(name: str) -> None:
    headers = [*UPGRADE.items(), (name, "a"), (name, "b")]
    response, body = await Site().ask("/ws", headers)
    assert response is not None
    assert response.status_code == 400
    assert name in body


# ---- the upgrade


async def test_an_upgrade_goes_on() -> None:
    site = Site()
    assert await site.status(UPGRADE) is None
    assert await site.status({"Upgrade": "WebSocket"}) is None
    assert await site.status(UPGRADE, "/ws?x=1") is None
    assert identity_of(site.connection) is None


async def test_no_upgrade() -> None:
    response, _ = await Site().ask("/ws")
    assert response is not None
    assert (response.status_code, response.headers["Upgrade"]) == (426, "websocket")
    assert await Site().status({"Upgrade": "h2c"}) == 426


async def test_an_upgrade_while_it_drains() -> None:
    response, body = await Site(drains=True).ask("/ws", UPGRADE)
    assert response is not None
    assert response.status_code == 503
    assert body.startswith("draining")


async def test_a_good_header() -> None:
    site = Site()
    assert await site.status(basic("ann:secret")) is None
    assert identity_of(site.connection) == Identity("ann", False, 1)
    token, _ = site.web.auth.issue(Identity("ann", False, 1))
    assert await site.status({**UPGRADE, "Authorization": f"Bearer {token}"}) is None
    assert site.metrics.logins == {"ok": 2}


@pytest.mark.parametrize(
    "authorization",
    [
        basic("ann:wrong")["Authorization"],
        basic("nobody:secret")["Authorization"],
        "Bearer forged",
        "Bearer \xff",
        "Basic ???",
        "Digest x",
        "",
    ],
)
async def test_a_header_that_is_not_good(authorization: str) -> None:
    site = Site()
    response, body = await site.ask("/ws", {**UPGRADE, "Authorization": authorization})
    assert response is not None
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Basic ")
    assert body.startswith("unauthenticated: ")
    assert site.metrics.logins == {"unauthenticated": 1}


@pytest.mark.parametrize(
    ("refusal", "status", "after"),
    [
        (Refusal("rate_limited", "m", after=17.3), 429, "17"),
        (Refusal("overloaded", "m", after=0.1), 503, "1"),
        (Refusal("store_unavailable", "m", after=1), 503, "1"),
        (Refusal("draining", "m"), 503, None),
    ],
)
async def test_a_login_that_has_to_wait(refusal: Refusal, status: int, after: str | None) -> None:
    site = Site()
    site.passwords.refusal = refusal
    response, body = await site.ask("/ws", basic("ann:secret"))
    assert response is not None
    assert (response.status_code, response.headers.get("Retry-After")) == (status, after)
    assert body == f"{refusal.code}: m\n"
    assert "WWW-Authenticate" not in response.headers


# ---- origins


NEAR, FAR = ("127.0.0.1", 1), ("192.0.2.7", 1)


@pytest.mark.parametrize(
    ("listens", "peer", "host", "origin", "good"),
    [
        # The page's own host.
        ("0.0.0.0", FAR, "inorder.example", "https://inorder.example", True),
        ("0.0.0.0", FAR, "inorder.example:3000", "http://inorder.example:3000", True),
        ("0.0.0.0", FAR, "inorder.example:3000", "http://inorder.example", False),
        ("0.0.0.0", FAR, "inorder.example", "https://evil.example", False),
        ("0.0.0.0", FAR, "inorder.example", "https://inorder.example.evil.example", False),
        # What is configured.
        ("0.0.0.0", FAR, "inorder.example", "https://shop.example", True),
        ("0.0.0.0", FAR, "inorder.example", "https://shop.example:444", False),
        ("0.0.0.0", FAR, "inorder.example", "http://shop.example", False),
        # This machine's own pages, at a loopback listener only.
        ("127.0.0.1", NEAR, "127.0.0.1:3000", "http://localhost:8080", True),
        ("127.0.0.1", NEAR, "127.0.0.1:3000", "http://127.0.0.1:8080", True),
        ("::1", NEAR, "[::1]:3000", "http://[::1]:8080", True),
        ("localhost", NEAR, "localhost:3000", "http://app.localhost", True),
        ("0.0.0.0", NEAR, "127.0.0.1:3000", "http://localhost:8080", False),
        ("0.0.0.0", FAR, "inorder.example", "http://localhost", False),
        ("127.0.0.1", NEAR, "127.0.0.1:3000", "http://localhost.evil.example", False),
        # A foreign page whose name was made to point here is no page of ours.
        ("127.0.0.1", NEAR, "evil.example:3000", "http://evil.example:3000", False),
        # No origin at all, and what is none.
        ("127.0.0.1", NEAR, "127.0.0.1:3000", "null", False),
        ("127.0.0.1", NEAR, "127.0.0.1:3000", "", False),
        ("127.0.0.1", NEAR, "127.0.0.1:3000", "http://[", False),
        ("127.0.0.1", NEAR, "127.0.0.1:3000", "\xff", False),
        ("0.0.0.0", FAR, "", "", False),
    ],
)
async def test_an_origin(listens: str, peer: Any, host: str, origin: str, good: bool) -> None:
    server = config.Server(host=listens, allowed_origins=["https://shop.example"])
    site = Site(server=server, address=peer)
    headers = {"Upgrade": "websocket", "Host": host, "Origin": origin}
    assert await site.status(headers) == (None if good else 403)


async def test_null_can_be_allowed() -> None:
    site = Site(server=config.Server(allowed_origins=["null"]))
    assert await site.status({**UPGRADE, "Origin": "null"}) is None


async def test_behind_a_proxy_on_this_machine() -> None:
    site = Site(server=config.Server(), address=NEAR)
    headers = {**UPGRADE, "Origin": "https://inorder.example"}
    assert await site.status(headers) == 403
    assert await site.status({**headers, "X-Forwarded-For": "192.0.2.7"}) is None


async def test_the_log_says_which_setting_decides() -> None:
    lines: list[str] = []
    sink = logger.add(lambda m: lines.append(m.record["message"]), level="WARNING")
    await Site().status({**UPGRADE, "Origin": "https://evil.example" + "x" * 1000})
    logger.remove(sink)
    assert len(lines) == 1
    assert "allowed_origins" in lines[0]
    assert "evil.example" in lines[0]
    assert len(lines[0]) < 400


async def test_a_foreign_origin_is_refused_before_its_password_is_looked_at() -> None:
    site = Site()
    assert await site.status({**basic("ann:secret"), "Origin": "https://evil.example"}) == 403
    assert not site.metrics.logins


# ---- subprotocols


def test_subprotocols() -> None:
    select: Any = select_subprotocol
    assert select(None, []) is None
    assert select(None, ["inorder.v1"]) == "inorder.v1"
    assert select(None, ["other", "inorder.v1"]) == "inorder.v1"
    for offered in (["inorder.v2"], ["INORDER.V1"], ["other"]):
        with pytest.raises(NegotiationError, match=r"inorder\.v1"):
            select(None, offered)


# ---- who is at the other end


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("localhost", True),
        ("a.localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("192.0.2.7", False),
        ("notlocalhost", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, near: bool) -> None:
    assert is_loopback(host) is near


@pytest.mark.parametrize(
    ("headers", "forwarded"),
    [({}, False), ({"Forwarded": "for=x"}, True), ({"X-Forwarded-For": "x"}, True)],
)
def test_a_peer(headers: dict[str, str], forwarded: bool) -> None:
    connection: Any = SimpleNamespace(
        remote_address=("::1", 1, 0, 0), request=Request("/ws", Headers(headers))
    )
    assert peer_of(connection) == Peer("::1", forwarded)


def test_a_peer_behind_a_proxy() -> None:
    headers = Headers([("X-Forwarded-For", "203.0.113.5"), ("X-Forwarded-For", "198.51.100.7")])
    connection: Any = SimpleNamespace(
        remote_address=("192.0.2.1", 1), request=Request("/ws", headers)
    )
    assert peer_of(connection) == Peer("192.0.2.1", True)
    trusted = networks(["192.0.2.1"])
    assert peer_of(connection, trusted) == Peer("198.51.100.7", True)


def test_a_peer_that_is_gone_already() -> None:
    connection: Any = SimpleNamespace(remote_address=None, request=None)
    assert peer_of(connection) == Peer("", False)
