"""From a function's signature to a decoder of its params, and to their JSON Schema.

Source: design.md section 7; SPEC.md, "request": an object holds named params, an array
positional ones, anything else is the one argument; absent or null means none.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import msgspec
from loguru import logger

from .api import HandlerError, Request, WholeParams

Arguments = dict[str, Any]

# Stands for a param that was not sent: the function's own default holds then.
_ABSENT: Any = object()
_MISSING = re.compile(r"Object missing required field `([^`]+)`")
_SURPLUS = re.compile(r"Object contains unknown field `([^`]+)`")
_MESSAGE_CHARACTERS = 1000
_decode = msgspec.json.Decoder().decode
_raw_items = msgspec.json.Decoder(list[msgspec.Raw])
_WRONG_JSON = (msgspec.DecodeError, UnicodeError, RecursionError)


class InvalidParams(Exception):
    """Params that the method can't take: ``message`` says which, for the client."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Signature:
    """The params of one handler. ``schema`` is their JSON Schema.

    Raises :class:`HandlerError` for a function whose params can't be named or checked.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        parameters, hints = _parameters(function)
        whole = [p.name for p in parameters if WholeParams in get_args(hints[p.name])[1:]]
        if whole and len(parameters) > 1:
            raise HandlerError(f"`{whole[0]}` takes the params whole: there can be no others")
        self._whole = whole[0] if whole else None
        self._whole_has_default = bool(whole) and _has_default(parameters[0])
        self._positional = [
            msgspec.json.encode(p.name) for p in parameters if p.kind is not p.KEYWORD_ONLY
        ]
        self._has_defaults = any(_has_default(p) for p in parameters)
        self.schema: dict[str, Any] = {}
        if not whole:
            try:
                struct = _struct(function.__name__, parameters, hints)
                self._decoder = msgspec.json.Decoder(struct)
                self.schema = _schema(struct, parameters)
            except (TypeError, ValueError, RecursionError) as exc:
                raise HandlerError(f"its params: {' '.join(str(exc).split())}") from exc

    def check(self, params: bytes | None) -> None:
        """Raises :class:`InvalidParams` for params that the function can't take. Whether they
        are JSON is not looked into where they are taken whole."""
        if self._whole is None:
            self._decoded(b"" if params is None else params.strip())

    def arguments(self, params: bytes | None) -> Arguments:
        """The keyword arguments that encoded ``params`` stand for.

        Raises :class:`InvalidParams`.
        """
        whole = self._whole
        if whole is not None:
            value = None
            if params is not None:
                try:
                    value = _decode(params)
                except _WRONG_JSON as exc:
                    if params.strip():
                        raise _not_json(exc) from None
            return {} if value is None and self._whole_has_default else {whole: value}
        text = b"" if params is None else params.strip()
        arguments = msgspec.structs.asdict(self._decoded(text))
        if self._has_defaults:
            return {name: value for name, value in arguments.items() if value is not _ABSENT}
        return arguments

    def _decoded(self, text: bytes) -> msgspec.Struct:
        if not text or text == b"null":
            text = b"{}"
        elif not text.startswith(b"{"):
            text = self._named(text)
        try:
            return self._decoder.decode(text)
        except msgspec.ValidationError as exc:
            raise InvalidParams(_plain(str(exc))) from None
        except _WRONG_JSON as exc:
            raise _not_json(exc) from None
        except Exception as exc:
            # A `__post_init__` of the author's failed: that text is not the client's.
            logger.opt(exception=exc).warning("params could not be built")
            raise InvalidParams("these params can't be used") from None

    def _named(self, text: bytes) -> bytes:
        """An array of positional params, or the one argument, as an object: so that every
        message names the param, however it was sent."""
        items: list[Any] = [text]
        if text.startswith(b"["):
            try:
                items = _raw_items.decode(text)
            except _WRONG_JSON as exc:
                raise _not_json(exc) from None
        most = len(self._positional)
        if len(items) > most:
            count = f"at most {most}" if most else "no"
            raise InvalidParams(f"takes {count} param{'' if most == 1 else 's'}")
        pairs = zip(self._positional, items, strict=False)
        return b"{" + b",".join(name + b":" + bytes(item) for name, item in pairs) + b"}"


def _not_json(exc: Exception) -> InvalidParams:
    if isinstance(exc, RecursionError):
        return InvalidParams("nested too deeply")
    return InvalidParams(f"not JSON: {exc}")


def _plain(message: str) -> str:
    """msgspec's words for the params as a whole, shorter; the others as they are. What a
    client called its params may be long."""
    if found := _MISSING.fullmatch(message):
        return f"missing `{found[1]}`"
    if found := _SURPLUS.fullmatch(message):
        return f"unexpected `{found[1][:_MESSAGE_CHARACTERS]}`"
    return message[:_MESSAGE_CHARACTERS]


def _has_default(parameter: inspect.Parameter) -> bool:
    return parameter.default is not parameter.empty


def _parameters(function: Callable[..., Any]) -> tuple[list[inspect.Parameter], dict[str, Any]]:
    """The parameters after the request, and the types of all."""
    function = inspect.unwrap(function)
    parameters = list(inspect.signature(function).parameters.values())
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise HandlerError(f"`{parameter}`: params must be named one by one")
    if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise HandlerError("its first parameter must take the request")
    request, *others = parameters
    if _has_default(request):
        raise HandlerError(f"`{request.name}` takes the request: it can't have a default")
    for parameter in others:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise HandlerError(f"`{parameter.name}` is positional-only: clients could not name it")
        if parameter.annotation is parameter.empty:
            raise HandlerError(f"`{parameter.name}` needs an annotation")
    hints = _hints(function, [p for p in parameters if p.annotation is not p.empty])
    if hints.get(request.name, Request) not in (Request, Any):
        raise HandlerError(f"its first parameter takes the request, `{request.name}` can't")
    return others, hints


def _hints(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> dict[str, Any]:
    # The annotation of what is returned is left out: it may be there for checkers only.
    annotated = SimpleNamespace(__annotations__={p.name: p.annotation for p in parameters})
    try:
        return get_type_hints(annotated, function.__globals__, include_extras=True)
    except Exception as exc:
        raise HandlerError(f"an annotation can't be resolved: {exc}") from exc


def _struct(
    name: str, parameters: list[inspect.Parameter], hints: dict[str, Any]
) -> type[msgspec.Struct]:
    fields: list[Any] = []
    for parameter in parameters:
        fields.append((parameter.name, hints[parameter.name]))
        if _has_default(parameter):
            # By a factory, because msgspec looks closely at plain defaults.
            fields[-1] += (msgspec.field(default_factory=lambda: _ABSENT),)
    return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)


def _schema(struct: type[msgspec.Struct], parameters: list[inspect.Parameter]) -> dict[str, Any]:
    (top,), parts = msgspec.json.schema_components([struct])
    schema: dict[str, Any] = parts.pop(top["$ref"].removeprefix("#/$defs/"))
    if parts:
        schema["$defs"] = parts
    for parameter in parameters:
        if _has_default(parameter):
            # A default that JSON can't show, such as a sentinel of the author's, stays out.
            with contextlib.suppress(Exception):
                default = msgspec.json.decode(msgspec.json.encode(parameter.default))
                schema["properties"][parameter.name]["default"] = default
    return schema
