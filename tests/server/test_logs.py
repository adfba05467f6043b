"""Logs: one line a record, whatever is in it, from loguru and from ``logging`` alike."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger
from websockets.exceptions import InvalidHeader, InvalidUpgrade

from inorder_server import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("NO_COLOR", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs._TALKATIVE}
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    logger.remove()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.fixture
def out() -> io.StringIO:
    stream = io.StringIO()
    logs.setup("DEBUG", "json", stream)
    return stream


# ---- JSON


def test_a_json_line_has_time_level_message_and_extras(out: io.StringIO) -> None:
    logger.bind(user="eve", session="s1", id="a", seq=3).info("accepted {}", 1)
    (line,) = lines(out)
    assert list(line) == ["time", "level", "message", "user", "session", "id", "seq"]
    assert line["time"].endswith("Z")
    assert len(line["time"]) == len("2026-01-01T00:00:00.000Z")
    assert line["level"] == "INFO"
    assert line["message"] == "accepted 1"
    assert (line["user"], line["seq"]) == ("eve", 3)


def test_extras_can_not_pose_as_the_record(out: io.StringIO) -> None:
    logger.bind(level="x", message="y", time="z").info("true")
    (line,) = lines(out)
    assert (line["level"], line["message"]) == ("INFO", "true")
    assert line["time"] != "z"


@pytest.mark.parametrize("message", ["a\nb", '{"a": 1}', "\x1b[31m", "\ud800", "{} {x}", "é\u2028"])
def test_any_text_is_one_line(message: str, out: io.StringIO) -> None:
    logger.bind(id=message).info("{}", message)
    assert out.getvalue().count("\n") == 1
    (line,) = lines(out)
    assert line["message"] == line["id"] == message


def test_any_extra_is_logged(out: io.StringIO) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    class Odd:
        def __str__(self) -> str:
            return "odd"

    logger.bind(a=Odd(), b={"x": [1, None]}, c=float("nan")).info("x")
    logger.bind(deep=deep, big=2**70).info("y")
    first, second = lines(out)
    assert (first["a"], first["b"], first["c"]) == ("odd", {"x": [1, None]}, None)
    assert second["message"] == "y"
    assert second["deep"] == "<list: RecursionError>"


def test_a_stream_that_is_not_utf8() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    logs.setup("INFO", "text", stream)
    logger.info("é")
    assert rb"\xe9" in raw.getvalue()


def test_an_exception_is_a_field_without_the_values_of_variables(out: io.StringIO) -> None:
    password = "hunter" + "2"
    try:
        raise ValueError("no " + str(len(password)))
    except ValueError:
        logger.exception("it failed")
    (line,) = lines(out)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: no 7")
    assert password not in out.getvalue()


# ---- text


def test_text_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    logs.setup("INFO", "text", out)
    logger.bind(user="eve", note="two words", empty="").warning("line\nbreak")
    line = out.getvalue()
    assert line.count("\n") == 1
    assert line[12:] == ' WARNING  line\\nbreak user=eve note="two words" empty=""\n'
    assert "\x1b" not in line


def test_a_traceback_follows_as_one_block() -> None:
    out = io.StringIO()
    logs.setup("INFO", "text", out)
    try:
        raise ValueError("a\x1bb")
    except ValueError:
        logger.exception("it failed")
    first, *rest = out.getvalue().splitlines()
    assert first.endswith("it failed")
    assert all(row.startswith("    ") for row in rest)
    assert rest[-1] == "    ValueError: a\\x1bb"


def test_auto_is_colours_on_a_terminal_and_json_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    logs.setup("INFO", "auto", terminal)
    logger.bind(a=1).error("x")
    assert "\x1b[31mERROR   \x1b[0m x \x1b[36ma\x1b[0m=1" in terminal.getvalue()
    logs.setup("INFO", "auto", pipe)
    logger.error("y")
    assert lines(pipe)[0]["message"] == "y"
    assert "y" not in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    logs.setup("INFO", "auto", plain)
    logger.error("z")
    assert "\x1b" not in plain.getvalue()


def test_standard_error_is_where_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("WARNING")
    logger.info("no")
    logger.warning("yes")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["message"] == "yes"


def test_one_line() -> None:
    assert logs.one_line("a\n\t\r\x00\x1b\x7f\x9b\u2028\u202eé") == (
        "a\\n\\t\\r\\x00\\x1b\\x7f\\x9b\\u2028\\u202eé"
    )


# ---- the standard library's logging


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (5, None),
        (10, "DEBUG"),
        (20, "INFO"),
        (25, "INFO"),
        (30, "WARNING"),
        (40, "ERROR"),
        (60, "CRITICAL"),
    ],
)
def test_logging_goes_the_same_way(level: int, name: str | None, out: io.StringIO) -> None:
    logging.getLogger("some.library").log(level, "%s {braces} %d", "text", 1)
    found = [(line["level"], line["message"], line["logger"]) for line in lines(out)]
    assert found == ([(name, "text {braces} 1", "some.library")] if name else [])


def test_exceptions_of_logging(out: io.StringIO) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("asyncio").exception("Task exception was never retrieved")
    (line,) = lines(out)
    assert line["exception"].endswith("ValueError: why")


@pytest.mark.parametrize(
    "name", ["websockets.server", "websockets.client", "asyncio", "pymongo.command"]
)
def test_what_would_print_headers_frames_or_documents_is_never_at_debug(
    name: str, out: io.StringIO
) -> None:
    talkative = logging.getLogger(name)
    assert not talkative.isEnabledFor(logging.DEBUG)
    talkative.debug("> Authorization: Basic hunter2")
    assert out.getvalue() == ""


def test_talkative_loggers_follow_a_higher_level() -> None:
    logs.setup("ERROR", "json", io.StringIO())
    assert not logging.getLogger("websockets").isEnabledFor(logging.WARNING)
    logs.setup("DEBUG", "json", io.StringIO())
    assert logging.getLogger("websockets").isEnabledFor(logging.INFO)


def failed_handshake(exc: BaseException | None) -> None:
    info = None if exc is None else (type(exc), exc, None)
    logging.getLogger("websockets.server").error("opening handshake failed", exc_info=info)


def test_a_failed_handshake_is_a_short_line_at_debug(out: io.StringIO) -> None:
    failed_handshake(InvalidUpgrade("Connection", None))
    failed_handshake(InvalidHeader("Authorization", "Basic hunter2"))
    failed_handshake(None)
    found = lines(out)
    assert {line["level"] for line in found} == {"DEBUG"}
    assert [line["message"] for line in found] == [
        "opening handshake failed: missing Connection header",
        "opening handshake failed",
        "opening handshake failed",
    ]
    assert not any("exception" in line for line in found)


def test_websockets_chatter_is_debug_and_its_errors_stay(out: io.StringIO) -> None:
    logging.getLogger("websockets.server").info("connection open")
    logging.getLogger("websockets.server").error("connection handler failed")
    assert [line["level"] for line in lines(out)] == ["DEBUG", "ERROR"]


def test_warnings_are_one_line(out: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logs.setup("DEBUG", "json", out)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = lines(out)
    assert line["level"] == "WARNING"
    assert line["message"].endswith("DeprecationWarning: old")


def test_setting_up_again_doubles_nothing(out: io.StringIO) -> None:
    logs.setup("DEBUG", "json", out)
    logger.info("a")
    logging.getLogger("b").info("b")
    assert [line["message"] for line in lines(out)] == ["a", "b"]
    assert sys.stderr is not out
