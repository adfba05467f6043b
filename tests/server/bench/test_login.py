"""The one login of a run."""

from __future__ import annotations

import pytest
from puppet import Puppet, started, url_of
from websockets.asyncio.server import ServerConnection

import inorder
from inorder_server.bench.login import log_in

WELCOME = {"session": "s", "user": "ann", "epoch": 1, "resumed": False}
NUMBERS = {"accepted": 0, "settled": 0, "acked": 0}


async def test_a_name_and_a_password_become_a_token(puppet: Puppet) -> None:
    puppet.welcome |= WELCOME | NUMBERS | {"token": "tok", "expires_in": 60}
    assert await log_in(puppet.url, "ann", "long word") == "tok"
    assert puppet.seen[0]["username"] == "ann"
    assert puppet.seen[0]["password"] == "long word"


async def test_a_wrong_password(puppet: Puppet) -> None:
    puppet.welcome = {"type": "error", "code": "unauthenticated", "message": "no", "retry": False}
    with pytest.raises(inorder.LoginFailed, match="unauthenticated: no"):
        await log_in(puppet.url, "ann", "x")


async def test_a_server_that_goes() -> None:
    async def close(socket: ServerConnection) -> None:
        await socket.close(1000)

    async with started(close) as server:
        with pytest.raises(inorder.ConnectionLost, match="closed during the login"):
            await log_in(url_of(server), "ann", "x")


async def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inorder_server.bench.login._PATIENCE", 0.05)
    async with started(lambda socket: socket.wait_closed()) as server:
        with pytest.raises(inorder.ConnectionLost, match="no answer to the login"):
            await log_in(url_of(server), "ann", "x")


async def test_a_bad_address() -> None:
    with pytest.raises(ValueError, match="http://a"):
        await log_in("http://a", "ann", "x")
