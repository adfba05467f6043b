"""The runner of the conversations sees what is wrong: a fake server says what it is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from vector_format import Words
from vector_runner import Broken, Run
from websockets.asyncio.server import ServerConnection, serve

CONNECT = {"connect": "a", "subprotocols": ["inorder.v1"]}
HELLO = {"send": {"type": "hello"}}
ACCEPTED = {"type": "accepted", "id": "a", "seq": 1, "ahead": 0}
RESULT = {"type": "result", "id": "a", "seq": 1, "result": 1}


def _refusal(code: str) -> dict[str, Any]:
    return {"type": "error", "code": code, "message": "", "retry": False, "of": "hello"}


class Fake:
    """Answers the first message with a script: messages, an array of them, or a close code."""

    def __init__(self) -> None:
        self.url = ""
        self.script: list[Any] = []

    async def serve(self, socket: ServerConnection) -> None:
        await socket.recv()
        for line in self.script:
            if isinstance(line, int):
                await socket.close(line, "words")
            else:
                await socket.send(json.dumps(line))
        async for _ in socket:
            pass

    async def stop(self) -> None: ...

    async def kill(self) -> None: ...

    async def start(self) -> None: ...


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[Fake]:
    made = Fake()

    async def run(socket: ServerConnection) -> None:
        await made.serve(socket)

    async with serve(run, "127.0.0.1", 0, subprotocols=["inorder.v1"]) as server:  # type: ignore[list-item]
        port = next(iter(server.sockets)).getsockname()[1]
        made.url = f"ws://127.0.0.1:{port}/ws"
        yield made


async def _play(
    fake: Fake, script: list[Any], *steps: dict[str, Any], mode: str = "program"
) -> None:
    fake.script = script
    conversation = {"name": "x", "mode": mode, "steps": [CONNECT, HELLO, *steps]}
    await Run(conversation, fake, Words()).play()


def _expect(*patterns: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"expect": pattern} for pattern in patterns]


async def test_frames_mean_nothing(fake: Fake) -> None:
    await _play(fake, [[ACCEPTED, RESULT]], *_expect(ACCEPTED, RESULT))
    await _play(fake, [ACCEPTED, RESULT], *_expect(ACCEPTED, RESULT))


async def test_rows_are_free_of_each_other(fake: Fake) -> None:
    refused = _refusal("unknown_method")
    await _play(fake, [refused, ACCEPTED, RESULT], *_expect(ACCEPTED, RESULT, refused))


async def test_accepted_may_be_left_out_in_program_mode(fake: Fake) -> None:
    await _play(fake, [RESULT], *_expect(ACCEPTED, RESULT))
    later = {**ACCEPTED, "id": "b", "seq": 2}
    await _play(fake, [later], *_expect(ACCEPTED, later))


@pytest.mark.parametrize(("mode", "strict"), [("hand", False), ("program", True)])
async def test_accepted_may_not_be_left_out(fake: Fake, mode: str, strict: bool) -> None:
    steps = [{"expect": ACCEPTED, "strict": strict, "within": 0.2}]
    with pytest.raises(Broken, match="nothing came"):
        await _play(fake, [RESULT], *steps, mode=mode)


async def test_progress_may_be_left_over(fake: Fake) -> None:
    progress = {"type": "progress", "id": "a", "seq": 1, "attempt": 1, "n": 1, "progress": 0}
    await _play(fake, [ACCEPTED, progress, RESULT], *_expect(ACCEPTED, RESULT))
    await _play(fake, [ACCEPTED, progress, RESULT], *_expect(ACCEPTED, progress, RESULT))


@pytest.mark.parametrize(
    ("script", "step", "words"),
    [
        ([ACCEPTED], {"expect": {**ACCEPTED, "ahead": 1}}, "ahead: expected 1, got 0"),
        ([ACCEPTED, RESULT], {"expect": ACCEPTED}, None),
        ([RESULT, ACCEPTED], {"expect": RESULT}, None),
        ([RESULT, {**RESULT, "seq": 3}], {"expect": RESULT}, None),
        ([_refusal("a"), _refusal("b")], {"expect": _refusal("b")}, "code: expected 'b'"),
        ([], {"expect": RESULT, "within": 0.1}, "nothing came"),
        ([RESULT, 1000], {"closed": 1000}, "not expected"),
        ([1012], {"closed": 1000}, "closed with 1012"),
        ([1012], {"closed": 1012, "reason": "other"}, "closed with 1012 'words'"),
        ([], {"closed": 1012, "within": 0.1}, "not closed"),
        ([ACCEPTED], {"some": RESULT, "within": 0.1}, "did not come"),
        ([ACCEPTED], {"expect_any_order": [ACCEPTED, RESULT], "within": 0.1}, "did not come"),
    ],
)
async def test_what_is_wrong_is_seen(
    fake: Fake, script: list[Any], step: dict[str, Any], words: str | None
) -> None:
    # Without words of its own: what is left over is seen by the close that follows.
    after = [] if words else [{"closed": 1000}]
    with pytest.raises(Broken, match=words or "not expected|after its outcome|left out"):
        await _play(fake, script if words else [*script, 1000], step, *after)


async def test_the_handshake_is_looked_at(fake: Fake) -> None:
    with pytest.raises(Broken, match="HTTP 401 expected"):
        await _play(fake, [], {"connect": "b", "http": 401})


async def test_some_of_a_kind_may_go_on(fake: Fake) -> None:
    hints = [{"type": "hint", "message": str(n)} for n in range(3)]
    some = {"some": {"type": "hint"}, "among": [{"type": "hint", "message": "1"}]}
    await _play(fake, [*hints, 1000], some, {"closed": 1000})
