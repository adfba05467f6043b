"""Logs: one line a record, readable on a terminal, JSON lines otherwise.

Source: design.md section 9 and style.md. Everything goes through loguru, also what the
standard ``logging`` of websockets and asyncio says. No password, token or secret is to be in
any line: nothing logs one, tracebacks come without the values of variables, and libraries
that would print headers, frames or documents are kept from doing so.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from datetime import UTC
from typing import TYPE_CHECKING, Any, Literal, TextIO

import msgspec
from loguru import logger

if TYPE_CHECKING:
    from loguru import Message, Record

_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
# At DEBUG they print headers with credentials, frames with passwords, documents with hashes.
_TALKATIVE = ("websockets", "asyncio", "pymongo")
# Control characters, line separators and the marks that reorder text. Those that JSON leaves
# as they are stand only within strings there.
_JSON_ESCAPES = {
    code: f"\\u{code:04x}"
    for code in (*range(127, 160), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
}
_ESCAPES = (
    {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
    | {code: text for code, text in _JSON_ESCAPES.items() if code > 255}
    | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
)


def setup(
    level: str,
    format: Literal["auto", "text", "json"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Sends all logging to ``stream`` (default: standard error) from ``level`` on.

    ``auto`` is text on a terminal and JSON lines otherwise. May be called again.
    """
    out = sys.stderr if stream is None else stream
    terminal = out.isatty()
    line: Callable[[Record], str]
    if format == "json" or (format == "auto" and not terminal):
        line = json_line
    elif terminal and not os.environ.get("NO_COLOR"):
        line = colour_line
    else:
        line = text_line

    def write(message: Message) -> None:
        text = line(message.record) + "\n"
        try:
            out.write(text)
        except UnicodeEncodeError:  # a lone surrogate, or a stream that isn't UTF-8
            out.write(text.encode("ascii", "backslashreplace").decode())
        out.flush()

    logger.remove()
    logger.add(write, level=level, format=lambda _: "", backtrace=False, diagnose=False)
    root = logging.getLogger()
    root.handlers[:] = [_Intercept()]
    root.setLevel(level)
    for name in _TALKATIVE:
        talkative = logging.getLogger(name)
        talkative.setLevel(max(logging.INFO, root.level))
        talkative.handlers.clear()
        talkative.propagate = True
    logging.captureWarnings(True)


def one_line(text: str) -> str:
    """Text from elsewhere, fit for a line: nothing in it can break or repaint a terminal."""
    return text.translate(_ESCAPES)


# ---- a record as a line


def json_line(record: Record) -> str:
    """``time`` (UTC), ``level``, ``message``, the bound extras, ``exception``."""
    line: dict[str, Any] = {
        "time": record["time"].astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "level": record["level"].name,
        "message": record["message"],
    }
    for key, value in record["extra"].items():
        line.setdefault(key, value)
    if trace := _trace(record):
        line["exception"] = trace
    try:
        return msgspec.json.encode(line, enc_hook=_text).decode().translate(_JSON_ESCAPES)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        return json.dumps({key: _text(value) for key, value in line.items()})


def text_line(record: Record) -> str:
    """Time (local), level, message, ``key=value`` for the extras; a traceback follows."""
    return _readable(record, "{time} {level:<8} {message}", " {key}={value}")


def colour_line(record: Record) -> str:
    """As :func:`text_line`, with colours."""
    level = f"\x1b[{_COLOURS.get(record['level'].name, '0')}m{{level:<8}}\x1b[0m"
    return _readable(
        record, f"\x1b[2m{{time}}\x1b[0m {level} {{message}}", " \x1b[36m{key}\x1b[0m={value}"
    )


def _readable(record: Record, head: str, pair: str) -> str:
    line = head.format(
        time=record["time"].strftime("%H:%M:%S.%f")[:-3],
        level=record["level"].name,
        message=one_line(record["message"]),
    )
    for key, value in record["extra"].items():
        text = one_line(_text(value))
        line += pair.format(key=key, value=json.dumps(text) if " " in text or not text else text)
    trace = _trace(record)
    return line + "".join(f"\n    {one_line(row)}" for row in trace.splitlines())


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as exc:  # whatever it is, the line matters more
        return f"<{type(value).__name__}: {type(exc).__name__}>"


def _trace(record: Record) -> str:
    caught = record["exception"]
    if caught is None or caught.type is None:
        return ""
    return "".join(traceback.format_exception(caught.type, caught.value, caught.traceback)).rstrip()


# ---- the standard library's logging


class _Intercept(logging.Handler):
    """Hands the records of ``logging`` to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        level = _level(record.levelno)
        exception = record.exc_info
        text = record.getMessage()
        if record.name.split(".")[0] == "websockets":
            if record.msg == "opening handshake failed":
                # Any port scanner causes it: not an error of ours, and no traceback.
                text, level = f"{text}{_reason(exception)}", "DEBUG"
                exception = None
            elif level == "INFO":  # "connection open" and the like: the gateway says it better
                level = "DEBUG"
        elif record.name == "py.warnings":
            text = text.split("\n", 1)[0]
        logger.bind(logger=record.name).opt(exception=exception).log(level, text)


def _level(number: int) -> str:
    for name in ("CRITICAL", "ERROR", "WARNING", "INFO"):
        if number >= getattr(logging, name):
            return name
    return "DEBUG"


def _reason(exc_info: Any) -> str:
    if not exc_info or exc_info[1] is None:
        return ""
    text = str(exc_info[1])
    # What is wrong with such a header may be the credentials themselves.
    return "" if "authorization" in text.lower() else f": {text}"
