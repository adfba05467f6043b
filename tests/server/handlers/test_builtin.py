"""The methods that come with the server."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from inorder_server import Request, User
from inorder_server.handlers import builtin
from inorder_server.handlers.methods import InvalidParams, load
from inorder_server.handlers.runner import Done


@pytest.mark.parametrize(
    ("params", "body"),
    [
        (None, b"null"),
        (b"null", b"null"),
        (b'{"a": [1, "x"]}', b'{"a":[1,"x"]}'),
        (b"[1]", b"[1]"),
        (b'"hi there"', b'"hi there"'),
    ],
)
async def test_echo(bench: Any, params: bytes | None, body: bytes) -> None:
    assert await bench.call(builtin.echo, params) == Done(body)


async def test_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    told: list[Any] = []
    now = 0.0

    async def pretend(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds + 0.01

    monkeypatch.setattr(asyncio, "sleep", pretend)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    request = Request(User("ada"), emit=told.append)
    assert await builtin.sleep(request, 2.0) == {"slept": 2.0}
    assert len(told) == 10
    assert told[0] == {"slept": 0.2, "of": 2.0}
    assert told[-1] == {"slept": 2.0, "of": 2.0}
    assert sum(slept) == pytest.approx(2.0 - 9 * 0.01)


async def test_sleep_for_no_time(bench: Any) -> None:
    assert await bench.call(builtin.sleep, b"0") == Done(b'{"slept":0.0}')
    assert len(bench.progress) == 10


def test_sleep_takes_a_sensible_number(tmp_path: Any) -> None:
    method = load([], tmp_path, builtin=True).get("sleep")
    assert method is not None
    assert method.bind(None) == {}
    assert method.bind(b"2") == {"seconds": 2.0}
    assert inspect.signature(builtin.sleep).parameters["seconds"].default == 1.0
    for wrong in (b"-1", b"3601", b"NaN", b"1e999", b'"1"'):
        with pytest.raises(InvalidParams):
            method.bind(wrong)
    assert method.timeout > 3600
