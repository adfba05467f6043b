"""Frames to messages and back.

A frame is one JSON object or an array of them (SPEC.md, "Frames"). Decoding is strict on
the fields that the protocol knows and silent on those it doesn't.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from .messages import CLIENT_TYPES, ClientMessage, ServerMessage

_encoder = msgspec.json.Encoder()
encode = _encoder.encode
"""One message (or any JSON value) as bytes."""

_DEEPEST = 500
"""Arrays and objects in each other: more a server may not read, and would have to take the
frame, and all that is in it, for none."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(rb"[\[{}\]]")


def _plain_number(text: str) -> int | float:
    value = float(text)
    # Raises OverflowError for infinity: a number that is out of range.
    return int(value) if value.is_integer() or math.isinf(value) else value


_client_message: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
_client_messages = msgspec.json.Decoder(list[ClientMessage])
_server_message: msgspec.json.Decoder[ServerMessage] = msgspec.json.Decoder(ServerMessage)
_server_messages = msgspec.json.Decoder(list[ServerMessage])
_plain_numbers = msgspec.json.Decoder(float_hook=_plain_number).decode
_sorted = msgspec.json.Encoder(order="sorted").encode
_array = msgspec.json.Decoder(list[msgspec.Raw])


class Malformed(Exception):
    """A message that could not be understood: ``code`` is ``bad_json``, ``bad_message`` or
    ``unknown_type``; ``of`` and ``id`` are set where they could be read."""

    def __init__(
        self, code: str, message: str, of: str | None = None, id: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.of = of
        self.id = id


def split(frame: str | bytes, batch: int) -> list[msgspec.Raw | str | bytes]:
    """The messages of a frame, still encoded; at most ``batch`` of them.

    Raises :class:`Malformed` for what is no JSON at all, for ``[]`` and for too many.
    """
    if frame.lstrip()[:1] not in ("[", b"["):
        return [frame]
    try:
        parts = _array.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise Malformed("bad_json", f"not JSON: {exc}") from None
    if not parts:
        raise Malformed("bad_message", "an array needs at least one message")
    if len(parts) > batch:
        raise Malformed("bad_message", f"an array holds at most {batch} messages")
    return list(parts)


def decode_frame(frame: str | bytes, batch: int) -> Sequence[ClientMessage | Malformed]:
    """The messages of a client's frame, at most ``batch``; each may be malformed by itself.

    Raises :class:`Malformed` for what is no JSON at all, for ``[]`` and for too many.
    """
    if frame.lstrip()[:1] not in ("[", b"["):
        return [_decoded(frame)]
    try:
        messages = _client_messages.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass  # one of them is wrong: see which
    else:
        if 1 <= len(messages) <= batch:
            return messages
    return [_decoded(part) for part in split(frame, batch)]


def _decoded(part: msgspec.Raw | str | bytes) -> ClientMessage | Malformed:
    try:
        return decode_client(part)
    except Malformed as exc:
        return exc


def decode_client(message: msgspec.Raw | str | bytes) -> ClientMessage:
    """One message of a client. Raises :class:`Malformed`."""
    try:
        return _client_message.decode(message)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise _diagnose(message, exc) from None


def decode_server(frame: str | bytes) -> list[ServerMessage]:
    """The messages of a server's frame. Raises :class:`Malformed`.

    Messages of a type that is not known are skipped: a later server may send them.
    """
    try:
        if frame[:1] not in ("[", b"["):
            return [_server_message.decode(frame)]
        if messages := _server_messages.decode(frame):
            return messages
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass  # one of them is new or wrong: see which
    found: list[ServerMessage] = []
    for part in split(frame, 1 << 30):
        try:
            found.append(_server_message.decode(part))
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            trouble = _diagnose(part, exc)
            if trouble.code != "unknown_type":
                raise trouble from None
    return found


def encode_given(value: Any) -> bytes:
    """What holds a value of the program's, as bytes. Raises ``TypeError`` for what is no JSON,
    ``ValueError`` for what is nested too deep, or in itself."""
    try:
        encoded = encode(value)
    except RecursionError:
        encoded = b""
    if not encoded or _depth(encoded) > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    return encoded


def _depth(encoded: bytes) -> int:
    """How many arrays and objects are open at most at once; 0 where there are only few."""
    if encoded.count(b"[") + encoded.count(b"{") <= _DEEPEST:
        return 0
    depth = most = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", encoded)):
        depth += 1 if bracket in b"[{" else -1
        most = max(most, depth)
    return most


def join(messages: Iterable[bytes]) -> bytes:
    """Encoded messages as one array frame."""
    return b"[" + b",".join(messages) + b"]"


def canonical(raw: bytes) -> bytes:
    """JSON text made such that its bytes are equal exactly when the JSON values are.

    Key order and white space don't count, nor does ``1.0`` against ``1``.
    Raises :class:`Malformed` with ``bad_json`` where ``raw`` is not JSON.
    """
    try:
        return _sorted(_plain_numbers(raw))
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as exc:
        raise Malformed("bad_json", f"not JSON: {exc}") from None


def _diagnose(message: msgspec.Raw | str | bytes, cause: Exception) -> Malformed:
    """Says what is wrong with a message that did not decode."""
    try:
        value = msgspec.json.decode(message)
    except (msgspec.DecodeError, UnicodeError) as exc:
        return Malformed("bad_json", f"not JSON: {exc}")
    except RecursionError:
        return Malformed("bad_json", "nested too deeply")
    if not isinstance(value, dict):
        return Malformed("bad_message", "a message is a JSON object")
    kind = value.get("type")
    if not isinstance(kind, str):
        return Malformed("bad_message", "a message needs a `type`, a string")
    id = value.get("id")
    id = id if isinstance(id, str) and 1 <= len(id) <= 64 else None
    if not isinstance(cause, msgspec.ValidationError) or "`$.type`" in str(cause):
        return Malformed("unknown_type", f"unknown type {kind[:40]!r}", kind[:40], id)
    return Malformed("bad_message", str(cause), kind, id)


__all__ = [
    "CLIENT_TYPES",
    "Malformed",
    "canonical",
    "decode_client",
    "decode_frame",
    "decode_server",
    "encode",
    "encode_given",
    "join",
    "split",
]
