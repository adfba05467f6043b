"""Hand mode: what a person types at ``wscat`` and the like.

Source: SPEC.md, "Hand mode". A line is a JSON object, a control that begins with a dot, or
shorthand for a request. Nothing here touches a socket.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from inorder import codec
from inorder.messages import (
    MAX_INT,
    Ack,
    Bye,
    ClientMessage,
    Hello,
    MethodLine,
    Register,
    Request,
    Status,
)

HINT = (
    "inorder: type .login NAME PASSWORD or .register NAME PASSWORD; then a method and its "
    "params, such as: echo hi; .help lists everything"
)

_CONTROLS = (
    ".login NAME PASSWORD    or .login TOKEN",
    ".register NAME PASSWORD make an account and log in",
    ".resume SESSION [SEQ]   go on with a session; SEQ is the last outcome you hold",
    ".status                 how your session stands",
    ".cancel ID              cancel a request; 4 means #4",
    ".ack [SEQ]              outcomes up to SEQ (or all) may be forgotten",
    ".bye                    finish what is queued, get the receipt, and leave",
    ".help                   this",
    "METHOD [PARAMS]         a request; params are JSON, or else taken as text",
)


@dataclass(frozen=True, slots=True)
class Resume:
    """``.resume SESSION [SEQ]``"""

    session: str
    seq: int | None


@dataclass(frozen=True, slots=True)
class Help:
    """``.help``"""


def help_lines(methods: list[MethodLine]) -> list[str]:
    """A short line for each control and each method."""
    width = max((len(method.name) for method in methods), default=0)
    return [
        *_CONTROLS,
        *(f"{method.name:<{width}}  {method.doc}".rstrip() for method in methods),
    ]


def parse(line: str) -> ClientMessage | Resume | Help | None:
    """What a line means; None for an empty one. Raises :class:`inorder.codec.Malformed`."""
    line = line.strip()
    if not line:
        return None
    if line[0] in '[]{}"':
        return _json(line)
    if line[0] == ".":
        word, _, rest = line.partition(" ")
        return _control(word, rest.strip())
    method, _, rest = line.partition(" ")
    return _message({"type": "request", "method": method, **_params(rest.strip())})


def _json(line: str) -> ClientMessage:
    try:
        whole = isinstance(msgspec.json.decode(line), dict)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        whole = False
    if not whole:
        raise codec.Malformed("bad_json", "JSON must stand on one line")
    return codec.decode_client(line)


def _params(text: str) -> dict[str, object]:
    if not text:
        return {}
    try:
        msgspec.json.decode(text)
        return {"params": msgspec.Raw(text.encode())}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {"params": text}


def _message(fields: dict[str, object]) -> ClientMessage:
    """Through the codec, so that hand mode has the bounds of program mode."""
    try:
        return codec.decode_client(codec.encode(fields))
    except (UnicodeError, OverflowError):
        raise codec.Malformed("bad_json", "not UTF-8 text, or a number too large") from None


def _control(word: str, rest: str) -> ClientMessage | Resume | Help:
    match word:
        case ".login":
            name, password = _split(word, rest, "NAME PASSWORD, or TOKEN", least=1)
            if not password:
                return _typed(Hello, token=name)
            return _typed(Hello, username=name, password=password)
        case ".register":
            name, password = _split(word, rest, "NAME PASSWORD", least=2)
            return _typed(Register, username=name, password=password)
        case ".resume":
            session, seq = _split(word, rest, "SESSION [SEQ]", least=1)
            return Resume(session, _number(word, seq) if seq else None)
        case ".status":
            return Status()
        case ".cancel":
            id, _ = _split(word, rest, "ID", least=1)
            return _message({"type": "cancel", "id": f"#{id}" if id.isdecimal() else id})
        case ".ack":
            return Ack(seq=_number(word, rest) if rest else MAX_INT)
        case ".bye":
            return Bye()
        case ".help":
            return Help()
    raise codec.Malformed(
        "unknown_type", f"unknown control {word[:40]!r}; .help lists them", word[:40]
    )


def _typed(kind: type[Hello] | type[Register], **fields: str) -> ClientMessage:
    return _message({"type": "hello" if kind is Hello else "register", **fields})


def _split(word: str, rest: str, usage: str, *, least: int) -> tuple[str, str]:
    first, _, second = rest.partition(" ")
    second = second.strip()
    if not first or (least == 2 and not second):
        raise codec.Malformed("bad_message", f"usage: {word} {usage}", word[1:])
    return first, second


def _number(word: str, text: str) -> int:
    # int() refuses what is far too long with an error of its own.
    if not text.isascii() or not text.isdecimal() or len(text) > 99 or int(text) > MAX_INT:
        raise codec.Malformed("bad_message", f"{word}: {text[:20]!r} is no number", word[1:])
    return int(text)


__all__ = ["HINT", "Help", "Request", "Resume", "help_lines", "parse"]
