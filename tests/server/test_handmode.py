"""What a typed line means."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from inorder import codec
from inorder.messages import MAX_INT, Ack, Bye, Cancel, Hello, MethodLine, Ping, Register, Status
from inorder.messages import Request as Ask
from inorder_server.handmode import HINT, Help, Resume, help_lines, parse


def malformed(line: str) -> codec.Malformed:
    with pytest.raises(codec.Malformed) as raised:
        parse(line)
    return raised.value


@pytest.mark.parametrize("line", ["", " ", "\t\r\n"])
def test_an_empty_line_is_nothing(line: str) -> None:
    assert parse(line) is None


@pytest.mark.parametrize(
    ("line", "method", "params"),
    [
        ("echo", "echo", UNSET),
        ("  echo  ", "echo", UNSET),
        ("echo hi there", "echo", b'"hi there"'),
        ("echo  hi ", "echo", b'"hi"'),
        ('echo {"a":1}', "echo", b'{"a":1}'),
        ("echo [1, 2]", "echo", b"[1, 2]"),
        ("echo 5", "echo", b"5"),
        ("echo null", "echo", b"null"),
        ('echo "5"', "echo", b'"5"'),
        ("echo {broken", "echo", b'"{broken"'),
        ("echo grüße", "echo", '"grüße"'.encode()),
        ("transfer.money x", "transfer.money", b'"x"'),
    ],
)
def test_a_request(line: str, method: str, params: Any) -> None:
    request = parse(line)
    assert isinstance(request, Ask)
    assert (request.method, request.id, request.seq) == (method, None, None)
    assert request.params == params if params is UNSET else bytes(request.params) == params  # type: ignore[arg-type]


def test_params_nested_too_deeply_are_text() -> None:
    deep = "[" * 5000 + "]" * 5000
    request = parse(f"echo {deep}")
    assert isinstance(request, Ask)
    assert bytes(request.params) == f'"{deep}"'.encode()  # type: ignore[arg-type]


def test_json_is_a_message_as_it_stands() -> None:
    assert isinstance(parse('{"type": "ping"}'), Ping)
    request = parse('  {"type": "request", "method": "echo", "id": "a", "seq": 3}')
    assert isinstance(request, Ask)
    assert (request.id, request.seq) == ("a", 3)


@pytest.mark.parametrize(
    "line", ['{"type": "ping"', "[1, 2]", "]", "}", '"hello"', "[]", "{}}", "[" * 100_000]
)
def test_what_begins_like_json_has_to_be_an_object(line: str) -> None:
    error = malformed(line)
    assert (error.code, error.message) == ("bad_json", "JSON must stand on one line")


def test_an_object_that_is_no_message() -> None:
    assert malformed("{}").code == "bad_message"
    error = malformed('{"type": "dance", "id": "a"}')
    assert (error.code, error.of, error.id) == ("unknown_type", "dance", "a")


def test_a_method_name_has_its_bounds() -> None:
    error = malformed("x" * 129 + " 1")
    assert (error.code, error.of) == ("bad_message", "request")


def test_half_a_surrogate_pair_is_no_text() -> None:
    assert malformed("echo \ud800").code == "bad_json"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (".login ann correct horse", Hello(username="ann", password="correct horse")),
        (".login ann a  b", Hello(username="ann", password="a  b")),
        ('.login ann "\\', Hello(username="ann", password='"\\')),
        (".login TOKEN", Hello(token="TOKEN")),
        (".register ann correct horse", Register(username="ann", password="correct horse")),
        (".status", Status()),
        (".cancel abc", Cancel(id="abc")),
        (".cancel 4", Cancel(id="#4")),
        (".cancel #4", Cancel(id="#4")),
        (".ack", Ack(seq=MAX_INT)),
        (".ack 17", Ack(seq=17)),
        (".ack 0", Ack(seq=0)),
        (".bye", Bye()),
        (".help", Help()),
        (".resume abc", Resume("abc", None)),
        (".resume abc 5", Resume("abc", 5)),
        ("  .bye  ", Bye()),
    ],
)
def test_a_control(line: str, message: Any) -> None:
    assert parse(line) == message


@pytest.mark.parametrize(
    ("line", "of"),
    [
        (".login", "login"),
        (".register", "register"),
        (".register ann", "register"),
        (".resume", "resume"),
        (".resume abc x", "resume"),
        (".resume abc -1", "resume"),
        (".cancel", "cancel"),
        (".cancel " + "x" * 65, "cancel"),
        (".ack x", "ack"),
        (".ack -1", "ack"),
        (".ack 1.5", "ack"),
        (".ack ٤", "ack"),
        (f".ack {MAX_INT + 1}", "ack"),
        (".ack " + "9" * 5000, "ack"),
    ],
)
def test_a_control_with_wrong_arguments(line: str, of: str) -> None:
    error = malformed(line)
    assert (error.code, error.of) == ("bad_message", of)
    assert len(error.message) < 200


def test_no_secret_in_what_is_said_of_a_wrong_login() -> None:
    assert "hunter2" not in malformed(".register hunter2").message


@pytest.mark.parametrize("line", [".", ".dance", ".loginann x", ".LOGIN a b", "..", "." + "x" * 99])
def test_an_unknown_control_names_help(line: str) -> None:
    error = malformed(line)
    assert error.code == "unknown_type"
    assert ".help" in error.message
    assert len(error.message) < 100


def test_help() -> None:
    methods = [MethodLine("echo", "Says it again.", {}), MethodLine("x", "", {})]
    controls = help_lines([])
    for word in ("login", "register", "resume", "status", "cancel", "ack", "bye", "help"):
        assert any(line.startswith(f".{word} ") for line in controls), word
    assert help_lines(methods)[len(controls) :] == ["echo  Says it again.", "x"]
    assert all(len(line) < 100 for line in controls)


def test_the_hint_says_how_to_begin() -> None:
    for word in (".login", ".register", ".help"):
        assert word in HINT


def test_what_is_typed_is_what_a_program_would_send() -> None:
    sent = codec.encode(parse("echo hi"))
    assert sent == b'{"type":"request","method":"echo","params":"hi"}'
