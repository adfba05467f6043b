"""What is logged: of secrets nothing, of a request whose it is."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from frames import Json, RawClient, request
from kept import kept
from vector_server import ServerProcess
from websockets.exceptions import InvalidStatus

HANDLERS = Path(__file__).parents[1] / "user_handlers.py"
COMMAND = [sys.executable, "-m", "inorder_server"]
MARK = "Geheim"


class Secrets:
    """Makes marked secrets, and remembers others that must not be seen either."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def new(self, what: str) -> str:
        """A secret; its mark says where it was planted."""
        made = f"{MARK}-{what}-7f3a"
        self.known[what] = made
        return made

    def seen_in(self, output: str) -> list[str]:
        """Which of them can be read there: as they are, and in base64."""
        found = [what for what, secret in self.known.items() if secret in output]
        if MARK in output:
            found.append("a part of one")
        words = set(re.findall(r"[A-Za-z0-9+/_-]{8,}", output))
        return found + [f"base64: {word}" for word in words if MARK.encode() in decoded(word)]


def decoded(word: str) -> bytes:
    """What base64 it may be, wherever that begins."""
    plain = word.replace("-", "+").replace("_", "/")
    parts = (plain[start : len(plain) - (len(plain) - start) % 4] for start in range(4))
    return b" ".join(base64.b64decode(part) for part in parts)


def basic(name: str, password: str) -> dict[str, str]:
    pair = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


async def log_in_every_way(server: ServerProcess, secrets: Secrets, password: str) -> None:
    """Well and badly, as a program and by hand."""
    url = server.url
    async with RawClient(url) as client:
        for message in (
            {"type": "hello", "username": "ann", "password": secrets.new("wrong")},
            {"type": "hello", "username": "nobody", "password": secrets.new("nobodys")},
            {"type": "hello", "username": secrets.new("as-a-name"), "password": "x"},
            {"type": "hello", "token": secrets.new("forged-token")},
            {"type": "hello", "username": "ann", "password": [secrets.new("in-a-list")]},
            {"type": "hello", "password": secrets.new("alone")},
            {"type": "register", "username": "ann", "password": secrets.new("name-taken")},
            {"type": "register", "username": "bob", "password": secrets.new("long") + "x" * 72},
            {"type": "register", "username": "b b", "password": secrets.new("bad-name")},
            {"type": "login", "password": secrets.new("unknown-type")},
            {"type": "request", "method": secrets.new("early"), "params": secrets.new("early-p")},
        ):
            await client.send(message)
            assert (await client.next() or {})["type"] == "error"
        await client.send('{"type": "hello", "password": "' + secrets.new("broken-json"))
        await client.next()
        welcome = await client.hello(username="ann", password=password)
        secrets.known["token"] = token = welcome["token"]
        # The middle part says nothing but the name and a number; the signature is the secret.
        secrets.known["signature"] = token.rsplit(".", 1)[1]
        await client.send({"type": "hello", "token": secrets.new("second-hello")})
        await client.until("error")
    async with RawClient(url) as client:
        await client.register("eve", secrets.new("registered"))
    async with RawClient(url, headers={"Authorization": f"Bearer {token}"}) as client:
        await client.hello()
    async with RawClient(url, headers=basic("ann", password)) as client:
        await client.hello()
    for headers in (
        basic("ann", secrets.new("basic-wrong")),
        {"Authorization": f"Bearer {secrets.new('bearer-forged')}"},
        {"Authorization": f"Basic {secrets.new('basic-raw')}"},
        {"Authorization": secrets.new("no-scheme")},
    ):
        with pytest.raises(InvalidStatus, match="401"):
            await RawClient(url, headers=headers).__aenter__()
    async with RawClient(url, hand=True) as person:
        for line in (
            f".login ann {secrets.new('hand-wrong')}",
            f".login {secrets.new('hand-forged')}",
            f".register eve {secrets.new('hand-taken')}",
            f".logn ann {secrets.new('hand-mistyped')}",
            f"login ann {secrets.new('hand-without-dot')}",
            f'{{"type": "hello", "password": "{secrets.new("hand-half")}',
        ):
            await person.send(line)
            await person.until("error")
        await person.send(f".login {token}")
        await person.until("welcome")
    async with RawClient(url, hand=True) as person:
        await person.send(f".register kim {secrets.new('hand-registered')}")
        await person.until("welcome")


def knock_rudely(server: ServerProcess, secrets: Secrets) -> None:
    """Handshakes that are none, with credentials."""
    address = urlsplit(server.url)
    for path, headers in (
        ("/ws", {"Authorization": f"Bearer {secrets.new('no-upgrade')}"}),
        ("/ws", {"Upgrade": "websocket", **basic("ann", secrets.new("half-a-handshake"))}),
        ("/metrics", {"Authorization": f"Bearer {secrets.new('metrics-wrong')}"}),
        (f"/nowhere?token={secrets.new('in-a-path')}", {}),
    ):
        http_client = http.client.HTTPConnection(address.hostname or "", address.port)
        http_client.request("GET", path, headers=headers)
        assert http_client.getresponse().status >= 400
        http_client.close()
    # Not even HTTP: the header has a sign that no header may have.
    for junk in ("Authorization: Bearer \x01", "Authorization "):
        raw = http.client.HTTPConnection(address.hostname or "", address.port)
        raw.connect()
        raw.sock.sendall(f"GET /ws HTTP/1.1\r\n{junk}{secrets.new('junk')}\r\n\r\n".encode())
        while raw.sock.recv(4096):
            pass
        raw.close()


def command_line(folder: Path, secrets: Secrets, env: dict[str, str]) -> Iterator[str]:
    """What commands say that are given secrets."""
    token = secrets.known["token"]
    for arguments, typed, extra in (
        (["user", "add", "ann"], secrets.new("cli-taken"), {}),
        (["user", "add", "zoe", "--admin"], secrets.new("cli-added"), {}),
        (["user", "passwd", "zoe"], secrets.new("cli-changed"), {}),
        (["user", "list"], None, {}),
        (["config"], None, {"MONGODB_URI": f"mongodb://me:{secrets.new('mongodb')}@db/x"}),
        (["serve"], None, {"MONGODB_URI": f"mongodb://me:{secrets.new('mongodb-serve')}@db/x"}),
        (["call", "echo", "1"], None, {"INORDER_TOKEN": token}),
        (["call", "echo", "1"], None, {"INORDER_TOKEN": secrets.new("cli-forged")}),
        (["call", "echo", "1", "--user", "ann"], secrets.new("cli-wrong"), {}),
    ):
        more = [] if typed is None else ["--password-stdin"]
        config = [] if arguments[0] == "config" else ["--log-level", "DEBUG"]
        done = subprocess.run(
            [*COMMAND, *arguments, *more, *config],
            cwd=folder,
            env={**os.environ, **env, **extra},
            input=None if typed is None else f"{typed}\n",
            capture_output=True,
            text=True,
            timeout=30,
        )
        yield done.stdout + done.stderr


@pytest.mark.slow
async def test_no_secret_in_any_line(serve, tmp_path: Path) -> None:
    secrets = Secrets()
    env = {
        "SESSION_SECRET": secrets.new("session-secret"),
        "INORDER_METRICS_TOKEN": secrets.new("metrics-token"),
    }
    shutil.copy(HANDLERS, tmp_path)
    password = secrets.new("ann")
    server = await serve(
        {
            "log": {"level": "DEBUG"},
            "handlers": {"modules": ["user_handlers", "vector_handlers"]},
        },
        env=env,
    )
    server.add_user("ann", password, admin=False)
    await log_in_every_way(server, secrets, password)
    knock_rudely(server, secrets)
    async with RawClient(server.url) as client:
        await client.hello(username="ann", password=password)
        # The traceback of what fails has no values of variables in it.
        await client.send(request("stumble", {"text": secrets.new("a-variable")}, seq=1))
        assert (await client.until_outcome(1))["code"] == "handler_failed"
        await client.bye()
    said = list(command_line(tmp_path, secrets, {**env, "INORDER_URL": server.url}))
    await server.stop()
    assert await server.ended() == 0

    for name, hashed in kept(server).passwords().items():
        assert hashed.startswith(b"$2b$")
        secrets.known[f"the hash of {name}"] = hashed.decode()
    output = server.output()
    assert "DEBUG" in output, "everything is logged"
    assert "stumbled" in output
    assert len(secrets.known) > 35
    assert secrets.seen_in(output) == []
    for text in said:
        assert secrets.seen_in(text) == [], text


def test_a_secret_that_is_seen_is_found() -> None:
    secrets = Secrets()
    made = secrets.new("a")
    for lead in ("", "a", "ab", "abc"):
        header = base64.b64encode(f"{lead}:{made}".encode()).decode()
        assert secrets.seen_in(f"Authorization: Basic {header}"), lead
    assert secrets.seen_in(f"x {made} y") == ["a", "a part of one"]
    assert not secrets.seen_in("Authorization: ***")


def lines_of(output: str, about: dict[str, object]) -> list[Json]:
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [line for line in lines if about.items() <= line.items()]


async def test_every_line_of_a_request_says_whose_it_is(serve, tmp_path: Path) -> None:
    shutil.copy(HANDLERS, tmp_path)
    server = await serve(
        {
            "log": {"level": "DEBUG"},
            "limits": {"outcome_bytes": 4096},
            "handlers": {"modules": ["user_handlers", "vector_handlers"]},
        }
    )
    wanted = {
        "speak": {"spoken: one": 4},
        "speak_thread": {"spoken: two": 1},
        "stumble": {"attempt 1 failed, another follows": 1, "the handler failed": 1},
        "fail": {"the handler failed": 1},
        "odd": {"the handler's result is no JSON value": 1},
        "big": {"a result of 5002 bytes, over 4096": 1},
        "once": {"the handler took over 0.05 s": 1},
    }
    calls = [
        request("speak", "one", id="i1", seq=1),
        request("speak_thread", "two", id="i2", seq=2),
        request("stumble", "", id="i3", seq=3),
        request("fail", id="i4", seq=4),
        request("odd", id="i5", seq=5),
        request("big", 5000, id="i6", seq=6),
        request("once", id="i7", seq=7, timeout=0.05),
    ]
    async with RawClient(server.url) as ann, RawClient(server.url) as eve:
        whose = {}
        for name, client in (("ann", ann), ("eve", eve)):
            whose[name] = (await client.register(name, "correct horse"))["session"]
            await client.send(*calls)
        for client in (ann, eve):
            await client.until_outcome(len(calls))
    await server.stop()
    await server.ended()

    output = server.output()
    for name, session in whose.items():
        for seq, texts in enumerate(wanted.values(), 1):
            tags = {"user": name, "session": session, "id": f"i{seq}", "seq": seq}
            found = [line["message"] for line in lines_of(output, tags)]
            assert {text: found.count(text) for text in texts} == texts
    spoken = [line["level"] for line in lines_of(output, {"message": "spoken: one", "user": "ann"})]
    assert spoken == ["DEBUG", "INFO", "WARNING", "ERROR"]
    for line in lines_of(output, {}):
        if "seq" in line or "id" in line or "handler" in line["message"]:
            assert {"user", "session", "id", "seq"} <= line.keys(), line
        assert {"time", "level", "message"} <= line.keys()
    assert "MARKED-PRIVATE-TEXT" in output, "the log has all that the client is not told"
    assert not [m for m in (*ann.seen, *eve.seen) if "MARKED" in json.dumps(m)]
    others = [line for line in output.splitlines() if not line.startswith("{")]
    assert len(others) == 4, "beside the log only what is announced at the start"


@pytest.mark.sqlite("with MongoDB the secret must be given")
async def test_the_secret_that_is_made_is_kept_to_itself(serve, tmp_path: Path) -> None:
    server = await serve({"log": {"level": "DEBUG"}})
    secret = tmp_path / "inorder.db.secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    async with RawClient(server.url) as client:
        token = (await client.register("ann", "correct horse"))["token"]
    await server.stop()
    await server.ended()
    assert secret.read_text().strip() not in server.output()
    await server.start()
    async with RawClient(server.url) as client:
        assert (await client.hello(token=token))["user"] == "ann", "it outlives a restart"
