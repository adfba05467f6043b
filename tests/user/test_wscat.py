"""A person at the real ``wscat``, in a terminal: the first session, and the ways to log in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from frames import is_outcome
from terminal import Terminal
from tools import tool

pytestmark = [
    pytest.mark.slow,
    # A pty takes a fork; what is forked runs wscat at once.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

Wscat = Callable[..., Terminal]


@pytest.fixture
def wscat() -> Wscat:
    program = tool("wscat")
    return lambda url, *options: Terminal(program, "-c", url, *options)


async def test_a_first_session(serve, wscat: Wscat, tmp_path: Path) -> None:
    server = await serve({"handlers": {"modules": []}})
    with wscat(server.url) as person:
        person.until(r"Connected \(press CTRL\+C to quit\)")
        assert ".register NAME PASSWORD" in person.message("hint")["message"]

        person.type(".register ann correct horse")
        welcome = person.message("welcome")
        assert (welcome["user"], welcome["resumed"]) == ("ann", False)
        assert {"token", "limits"}.isdisjoint(welcome)

        person.type("echo hi")
        assert person.message("accepted") == {"type": "accepted", "id": "#1", "seq": 1, "ahead": 0}
        result = {"type": "result", "id": "#1", "seq": 1, "result": "hi"}
        assert person.message("result") == result

        for seconds in ("0.3", "0.2", "0.1"):
            person.type(f"sleep {seconds}")
        slept = [person.message("result") for _ in range(3)]
        assert [(said["seq"], said["result"]["slept"]) for said in slept] == [
            (2, 0.3),
            (3, 0.2),
            (4, 0.1),
        ]

        person.type("sleep 60")
        person.message("accepted")
        person.type(".cancel 5")
        assert person.message("cancelling") == {"type": "cancelling", "id": "#5", "seq": 5}
        cancelled = person.message("error")
        assert (cancelled["code"], cancelled["id"], cancelled["seq"]) == ("cancelled", "#5", 5)

        person.type(".status")
        status = person.message("status")
        assert (status["accepted"], status["settled"], status["acked"]) == (5, 5, 0)

        person.type(".help")
        person.until(r'< \{"type":"hint","message":"\.login NAME PASSWORD')
        person.until(r'< \{"type":"hint","message":"\.bye ')
        person.until(r'< \{"type":"hint","message":"echo +Returns what it was sent\.')
        person.until(r'< \{"type":"hint","message":"sleep ')

        person.type(".bye")
        assert person.message("bye")["receipt"] == {
            "session": welcome["session"],
            "accepted": 5,
            "done": 4,
            "failed": 0,
            "cancelled": 1,
            "pending": 0,
            "verified": True,
        }
        person.until(r'Disconnected \(code: 1000, reason: "done"\)')
        assert person.ended() == 0

    messages = [line for line in person.screen.lines if line.startswith("< ")]
    assert all(json.loads(line[2:])["type"] for line in messages), "each is one whole object"
    order = [m["seq"] for m in map(json.loads, (line[2:] for line in messages)) if is_outcome(m)]
    assert order == [1, 2, 3, 4, 5]
    (tmp_path / "session.txt").write_text("\n".join(person.screen.lines), encoding="utf-8")


async def test_credentials_on_the_command_line(serve, wscat: Wscat) -> None:
    server = await serve()
    server.add_user("ann", "correct:horse", admin=False)
    with wscat(server.url, "--auth", "ann:correct:horse") as person:
        assert person.message("welcome")["user"] == "ann"
        assert not [line for line in person.screen.lines if '"hint"' in line]
        person.type('echo {"a": [1, null]}')
        assert person.message("result")["result"] == {"a": [1, None]}
        person.type(".bye")
        assert person.message("bye")["receipt"]["verified"] is True
        person.until("Disconnected")


async def test_wrong_credentials_on_the_command_line(serve, wscat: Wscat) -> None:
    server = await serve()
    server.add_user("ann", "correct horse", admin=False)
    for credentials in ("ann:wrong", "nobody:correct horse", "ann"):
        with wscat(server.url, "--auth", credentials) as person:
            assert person.until("error: ") == "error: Unexpected server response: 401"
            assert person.ended() != 0
            assert not [line for line in person.screen.lines if line.startswith(("Conn", "<"))]


async def test_a_wrong_password_can_be_tried_again(serve, wscat: Wscat) -> None:
    server = await serve()
    server.add_user("ann", "correct horse", admin=False)
    with wscat(server.url) as person:
        person.message("hint")
        person.type(".login ann wrong horse")
        refused = person.message("error")
        assert (refused["code"], refused["of"]) == ("unauthenticated", "hello")
        person.type("echo early")
        assert person.message("error")["code"] == "unauthenticated"
        person.type(".login ann correct horse")
        assert person.message("welcome")["user"] == "ann"
        person.type("{not json")
        assert person.message("error")["message"] == "JSON must stand on one line"
        person.type(".bye")
        assert person.message("bye")["receipt"]["accepted"] == 0
