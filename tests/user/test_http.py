"""The plain routes beside the WebSocket: health, readiness, metrics, and what is not there."""

from __future__ import annotations

import http.client
import re
import socket
from urllib.parse import urlsplit

from frames import RawClient, request
from vector_server import ServerProcess

_SAMPLE = re.compile(r"(\w+(?:\{[^}]*\})?) (\S+)")


def ask(
    server: ServerProcess, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, str]:
    """The answer, and its body."""
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=15)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response, body


def metrics(server: ServerProcess) -> dict[str, float]:
    """The samples, by name and labels as they stand there."""
    response, body = ask(server, "/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain")
    samples = [line for line in body.splitlines() if not line.startswith("#")]
    found = [_SAMPLE.fullmatch(line) for line in samples]
    return {match[1]: float(match[2]) for match in found if match is not None}


async def test_routes(serve) -> None:
    server = await serve()
    for path, word in (("/healthz", "ok\n"), ("/readyz", "ready\n"), ("/healthz?x=1", "ok\n")):
        response, body = ask(server, path)
        assert (response.status, body) == (200, word)
    response, body = ask(server, "/")
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert f"wscat -c ws://127.0.0.1:{urlsplit(server.url).port}/ws" in body
    response, body = ask(server, "/", Host="<script>alert(1)</script>")
    assert "<script>" not in body


async def test_the_browsers_module(serve) -> None:
    server = await serve()
    response, body = ask(server, "/inorder.js?x=1")
    assert (response.status, response.headers["Content-Type"]) == (
        200,
        "text/javascript; charset=utf-8",
    )
    paths = re.findall(r'from "\.(/inorder/\w+\.js)"', body)
    assert len(paths) >= 5
    for path in ("/inorder.js", *paths):
        response, _ = ask(server, path)
        assert response.status == 200, path
        tag = response.headers["ETag"]
        for method in ("GET", "HEAD"):
            response, body = ask(server, path, method, **{"If-None-Match": tag})
            assert (response.status, body) == (304, "")
    for path in ("/inorder/", "/inorder", "/inorder/../inorder.js", "/inorder/%2e%2e/errors.py"):
        assert ask(server, path)[0].status == 404, path


async def test_the_console(serve) -> None:
    server = await serve()
    response, body = ask(server, "/")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    paths = re.findall(r'(?:href|src)="(/console/[^"]+)"', body)
    assert len(paths) == 5
    for path in ("/", *paths):
        response, _ = ask(server, path)
        assert (response.status, response.headers["X-Content-Type-Options"]) == (200, "nosniff")
        tag = {"If-None-Match": response.headers["ETag"]}
        assert ask(server, path, **tag)[0].status == 304
    other, _ = ask(server, "/", Host="elsewhere:80")
    assert other.headers["ETag"] != ask(server, "/")[0].headers["ETag"], "it says another address"
    for path in ("/console/", "/console", "/console/index.html", "/console/../web.py"):
        assert ask(server, path)[0].status == 404, path


async def test_head(serve) -> None:
    server = await serve()
    for path in ("/", "/healthz", "/readyz", "/metrics", "/inorder.js"):
        response, body = ask(server, path, "HEAD")
        assert (response.status, body) == (200, "")
        assert int(response.headers["Content-Length"]) > 0, "that of the body it would have"


async def test_what_is_not_there(serve) -> None:
    server = await serve()
    for path in (
        "/nowhere",
        "/healthz/",
        "//healthz",
        "/ws/",
        "/WS",
        "/../etc/passwd",
        "/%2e%2e/x",
    ):
        response, body = ask(server, path)
        assert response.status == 404, path
        assert "/ws" in body
    response, _ = ask(server, "/ws")
    assert response.status == 426
    assert response.headers["Upgrade"] == "websocket"


async def test_head_is_never_followed_by_a_body(serve) -> None:
    server = await serve()
    for path, status in (("/", 200), ("/nowhere", 404), ("/ws", 426), ("/healthz", 200)):
        answer = converse(server, f"HEAD {path} HTTP/1.1\nHost: a\n\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert (int(head.split()[1]), body) == (status, b""), path


async def test_every_answer_has_the_headers_that_keep_a_page_in_its_place(serve) -> None:
    server = await serve()
    for path in ("/", "/console/lane.js", "/nowhere", "/healthz", "/metrics", "/ws"):
        for method in ("GET", "HEAD", "POST"):
            response, _ = ask(server, path, method)
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy, path
            assert "frame-ancestors 'none'" in policy, path
            assert response.headers["X-Content-Type-Options"] == "nosniff", path
            assert response.headers["Referrer-Policy"] == "no-referrer", path


def talk(server: ServerProcess, text: str) -> int:
    """The status of the answer to what no HTTP library would send."""
    return int(converse(server, text).split()[1])


def converse(server: ServerProcess, text: str) -> bytes:
    """The whole answer to a request, as it is written here."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=15) as raw:
        raw.sendall(text.replace("\n", "\r\n").encode())
        answer = b""
        while part := raw.recv(65536):
            answer += part
    return answer


async def test_requests_that_are_none(serve) -> None:
    """They are refused, and are no error of the server's: anybody can send them."""
    server = await serve({"log": {"level": "DEBUG"}})
    upgrade = "GET /ws HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: websocket\n"
    key = "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\n"
    for text, status in (
        ("GET //[x HTTP/1.1\nHost: a\n\n", 404),
        ("GET http://[/ws HTTP/1.1\nHost: a\n\n", 404),
        ("GET / HTTP/1.1\nHost: a\nHost: b\n\n", 400),
        (f"{upgrade}{key}Origin: http://[x\n\n", 403),
        (f"{upgrade}{key}Origin: http://a\nOrigin: http://b\n\n", 400),
        (f"{upgrade}{key}Host: b\n\n", 400),
        (f"{upgrade}{key}Authorization: Basic YTpi\nAuthorization: Bearer x\n\n", 400),
        (f"{upgrade}{key}Upgrade: h2c\n\n", 400),
        (f"{upgrade}\n", 400),
        (f"{upgrade}Sec-WebSocket-Version: 8\nSec-WebSocket-Key: AAAA\n\n", 400),
        (f"GET /{'a' * 20_000} HTTP/1.1\n\n", 414),
        ("GET / HTTP/1.1\n" + "A: b\n" * 300 + "\n", 431),
    ):
        assert talk(server, text) == status, text
    assert "ERROR" not in server.output()
    assert "Traceback" not in server.output()
    assert ask(server, "/healthz")[0].status == 200


async def test_methods_that_are_not_allowed(serve) -> None:
    server = await serve()
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        for path in ("/", "/healthz", "/metrics", "/inorder.js"):
            response, _ = ask(server, path, method)
            assert response.status == 405, method
            assert response.headers["Allow"] == "GET, HEAD"
    chunked = "Transfer-Encoding: chunked\n\n3\nabc\n0\n\n"
    for body in ("Content-Length: 3\n\nabc", f"Content-Length: 300000\n\n{'a' * 300_000}", chunked):
        answer = converse(server, f"POST /inorder.js HTTP/1.1\nHost: a\n{body}").decode()
        assert answer.startswith("HTTP/1.1 405 "), body[:30]
        assert "Allow: GET, HEAD\r\n" in answer
        assert answer.count("HTTP/1.1") == 1
        assert answer.endswith("\r\n\r\nonly GET and HEAD, without a body\n")
    assert "ERROR" not in server.output()
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")


async def test_the_token_of_the_metrics(serve) -> None:
    server = await serve(env={"INORDER_METRICS_TOKEN": "metrics-token"})
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "metrics-token"},
        {"Authorization": "Basic metrics-token"},
        {"Authorization": "Bearer metrics-token2"},
    ):
        response, body = ask(server, "/metrics", **headers)
        assert response.status == 401, headers
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert "inorder_" not in body
    response, body = ask(server, "/metrics", Authorization="Bearer metrics-token")
    assert response.status == 200
    assert "inorder_accepted_total 0.0" in body
    assert ask(server, "/healthz")[0].status == 200, "only the metrics need it"


async def test_metrics_count_right(serve) -> None:
    server = await serve({"session": {"queue": 3}})
    fresh = metrics(server)
    assert fresh["inorder_ready"] == 1
    assert {fresh[name] for name in ("inorder_connections", "inorder_sessions")} == {0}
    async with RawClient(server.url) as ann, RawClient(server.url) as eve:
        await ann.send({"type": "hello", "token": "forged"}, {"type": "ping"})
        await ann.register("ann", "correct horse")
        await eve.register("eve", "correct horse")
        await eve.send(request("no_such_method"), request("no_such_method"), request("strict"))
        await eve.send(request("echo", 1), request("echo", 2), request("fail"))
        await eve.until_outcome(3)
        await ann.send(request("tell", {"values": [1]}), request("echo"), request("echo"))
        await ann.until("progress")
        await ann.send(request("echo", "one too many"))
        await ann.until(lambda message: message.get("code") == "queue_full")

        now = metrics(server)
        assert now["inorder_connections"] == 2
        assert now["inorder_connections_opened_total"] == 2
        assert now["inorder_sessions"] == 2
        assert now["inorder_queue_depth"] == 3
        assert now['inorder_logins_total{result="ok"}'] == 2
        assert now['inorder_logins_total{result="unauthenticated"}'] == 1
        assert now["inorder_accepted_total"] == 6
        assert now['inorder_settled_total{outcome="done"}'] == 2
        assert now['inorder_settled_total{outcome="failed"}'] == 1
        assert 'inorder_settled_total{outcome="cancelled"}' not in now
        assert refusals(now) == {
            "unauthenticated": 2,
            "unknown_method": 2,
            "invalid_params": 1,
            "queue_full": 1,
        }
        assert now["inorder_ran_seconds_count"] == 3
        assert now["inorder_waited_seconds_count"] == 4
        assert now["inorder_receipts_verified_total"] == 0

        await ann.send({"type": "cancel", "id": "#1"})
        await ann.until_outcome(3)
        for client in (ann, eve):
            assert (await client.bye())["verified"] is True
            await client.until_closed()

    for _ in range(500):
        now = metrics(server)
        if not now["inorder_connections"]:
            break
    assert {now[f"inorder_{name}"] for name in ("connections", "sessions", "queue_depth")} == {0}
    assert now['inorder_settled_total{outcome="done"}'] == 4
    assert now['inorder_settled_total{outcome="cancelled"}'] == 1
    assert now["inorder_receipts_verified_total"] == 2
    assert now["inorder_violations_total"] == 0
    # Each commit took something, and all that was taken is counted.
    commits = now["inorder_commits_total"]
    assert now["inorder_commit_writes_count"] == commits > 0
    assert now["inorder_commit_writes_sum"] >= now["inorder_accepted_total"] + 6
    for name in ("ran", "waited"):
        assert now[f"inorder_{name}_seconds_count"] == 6
        assert now[f'inorder_{name}_seconds_bucket{{le="+Inf"}}'] == 6
        assert 0 < now[f"inorder_{name}_seconds_sum"] < 60


def refusals(samples: dict[str, float]) -> dict[str, float]:
    pattern = re.compile(r'inorder_refused_total\{code="(\w+)"\}')
    found = [(pattern.fullmatch(name), value) for name, value in samples.items()]
    return {match[1]: value for match, value in found if match is not None}


async def test_every_family_is_described(serve) -> None:
    server = await serve()
    _, body = ask(server, "/metrics")
    described = dict(re.findall(r"# TYPE (\w+) (\w+)", body))
    assert described == {
        "inorder_ready": "gauge",
        "inorder_connections": "gauge",
        "inorder_connections_opened_total": "counter",
        "inorder_sessions": "gauge",
        "inorder_queue_depth": "gauge",
        "inorder_logins_total": "counter",
        "inorder_accepted_total": "counter",
        "inorder_settled_total": "counter",
        "inorder_refused_total": "counter",
        "inorder_waited_seconds": "histogram",
        "inorder_ran_seconds": "histogram",
        "inorder_commits_total": "counter",
        "inorder_commit_writes": "histogram",
        "inorder_receipts_verified_total": "counter",
        "inorder_violations_total": "counter",
    }
    helped = set(re.findall(r"# HELP (\w+) \w", body))
    assert helped == described.keys()
