"""``inorder call`` and ``inorder token``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import inorder
from inorder_server.cli.call import default_url
from inorder_server.config import Config, Server, load, secret
from inorder_server.tokens import Tokens


class Client:
    """Stands for ``inorder.connect`` and for the session that it gives."""

    def __init__(self) -> None:
        self.url = ""
        self.login: dict[str, Any] = {}
        self.request: tuple[Any, ...] = ()
        self.answer: Any = {"é": [1]}
        self.refuses: Exception | None = None
        self.left: list[type[BaseException] | None] = []

    def __call__(self, url: str, **login: Any) -> Client:
        self.url = url
        self.login = {key: value for key, value in login.items() if value is not None}
        return self

    async def __aenter__(self) -> Client:
        if self.refuses is not None:
            raise self.refuses
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.left.append(kind)

    async def submit(self, method: str, params: Any, *, timeout: float | None) -> Any:
        self.request = (method, params, timeout)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()
    monkeypatch.setattr(inorder, "connect", client)
    monkeypatch.setenv("INORDER_TOKEN", "tok")
    return client


def test_a_result(client: Client, cli: Any, answer: Any) -> None:
    result = cli("call", "echo", '{"a": 1}')
    assert result.stdout == '{\n  "é": [\n    1\n  ]\n}\n'
    assert client.request == ("echo", {"a": 1}, None)
    assert client.login == {"token": "tok"}
    assert answer("call echo --timeout 2.5") == {"é": [1]}
    assert client.request == ("echo", None, 2.5)
    assert client.left == [None, None]


@pytest.mark.parametrize(
    ("text", "params"),
    [("[1, 2]", [1, 2]), ("3", 3), ("null", None), ("hi there", "hi there"), ('"x"', "x")],
)
def test_params(text: str, params: Any, client: Client, cli: Any) -> None:
    assert cli("call", "echo", text).exit_code == 0
    assert client.request[1] == params


@pytest.mark.parametrize("text", ["{to: eve}", "[1", '"x', " }", "[" * 100_000])
def test_params_that_are_no_json(text: str, client: Client, failed: Any) -> None:
    line = failed("call", "echo", text, status=2)
    assert line.startswith("call: Invalid value for PARAMS: not JSON: ")
    assert client.request == ()


def test_by_password(client: Client, cli: Any) -> None:
    assert cli("call echo --user eve --password-stdin", stdin="pass\n").exit_code == 0
    assert client.login == {"username": "eve", "password": "pass"}


def test_without_credentials(client: Client, failed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INORDER_TOKEN", "")
    assert failed("call echo", status=2).startswith("call: who are you?")
    assert failed("call echo --user eve", status=2).startswith("call: there is no terminal")


def test_where_it_calls(client: Client, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("call echo")
    assert client.url == "ws://127.0.0.1:0/ws"
    monkeypatch.setenv("INORDER_URL", "wss://example.org/ws")
    cli("call echo")
    assert client.url == "wss://example.org/ws"
    cli("call echo --url ws://h/ws")
    assert client.url == "ws://h/ws"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "ws://127.0.0.1:3000/ws"),
        ("0.0.0.0", "ws://127.0.0.1:3000/ws"),
        ("::", "ws://[::1]:3000/ws"),
        ("example.org", "ws://example.org:3000/ws"),
    ],
)
def test_default_url(host: str, url: str, tmp_path: Path) -> None:
    assert default_url(Config(folder=tmp_path, server=Server(host=host))) == url


@pytest.mark.parametrize(
    "exc",
    [
        inorder.HandlerFailed("handler_failed", "it broke\nbadly"),
        inorder.Refused("unknown_method", "no method"),
    ],
)
def test_an_outcome_that_is_an_error_ends_the_session(
    exc: inorder.InorderError, client: Client, failed: Any
) -> None:
    client.answer = exc
    assert failed("call x") == f"{exc.code}: {' '.join(exc.message.split())}"
    assert client.left == [None]  # closed, not left to be resumed


@pytest.mark.parametrize(
    ("exc", "line"),
    [
        (inorder.LoginFailed("unauthenticated", "wrong"), "unauthenticated: wrong"),
        (inorder.ConnectionLost("unreachable", "refused"), "unreachable: refused"),
        (ValueError("that isn't a URL"), "that isn't a URL"),
    ],
)
def test_no_session(exc: Exception, line: str, client: Client, failed: Any) -> None:
    client.refuses = exc
    assert failed("call x") == line


# ---- token


def test_token(folder: Path, cli: Any, answer: Any) -> None:
    cli("user add eve --password-stdin", stdin="x\n")
    token = cli("token eve").stdout.strip()
    config = load(None, {}, {})
    assert Tokens(secret(config), 60).read(token)[0] == "eve"
    made = answer("token eve")
    assert made["expires_in"] == 604800
    assert Tokens(secret(config), 60).read(made["token"])[0] == "eve"


def test_a_token_for_nobody(folder: Path, cli: Any, failed: Any) -> None:
    assert failed("token eve") == f"{folder / 'inorder.db'}: no such database"
    cli("user add eve --password-stdin", stdin="x\n")
    assert failed("token bob") == "bob: no such user"
    assert not (folder / "inorder.db.secret").exists()


def test_json_keeps_what_a_terminal_shows(client: Client, cli: Any) -> None:
    client.answer = "x\u2028"
    assert json.loads(cli("call echo").stdout) == "x\u2028"
