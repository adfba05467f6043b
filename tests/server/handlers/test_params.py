"""From a signature to checked arguments."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import pytest
from msgspec import Meta, Struct

from inorder_server import Params, Request
from inorder_server.handlers.api import HandlerError
from inorder_server.handlers.params import InvalidParams, Signature


class Point(Struct):
    x: int
    y: int = 0


@dataclass
class Box:
    size: float
    color: Literal["red", "blue"] = "red"

    def __post_init__(self) -> None:
        if self.size == 13:
            raise ValueError("an unlucky size")
        if self.size == 14:
            raise KeyError("the author's secret")


def transfer(request: Request, to: str, amount: int, note: str = "-") -> None: ...


def bind(function: Any, params: bytes | None) -> Any:
    return Signature(function).arguments(params)


def refused(function: Any, params: bytes | None) -> str:
    with pytest.raises(InvalidParams) as caught:
        bind(function, params)
    assert str(caught.value) == caught.value.message
    return caught.value.message


def test_an_object_is_named() -> None:
    assert bind(transfer, b' {"amount": 5, "to": "eve"} ') == {"to": "eve", "amount": 5}
    assert bind(transfer, b'{"to":"eve","amount":5,"note":"x"}')["note"] == "x"


def test_an_array_is_positional() -> None:
    assert bind(transfer, b'["eve", 5]') == {"to": "eve", "amount": 5}
    assert bind(transfer, b'["eve", 5, "x"]')["note"] == "x"


@pytest.mark.parametrize("text", [b'"eve"', b"5", b"true", b"1.5"])
def test_anything_else_is_the_one_argument(text: bytes) -> None:
    def one(request: Request, thing: Any, other: int = 1) -> None: ...

    assert bind(one, text) == {"thing": json.loads(text)}


@pytest.mark.parametrize("params", [None, b"null", b" null ", b"", b"{}", b"[]"])
def test_absent_or_null_is_none(params: bytes | None) -> None:
    def none(request: Request) -> None: ...

    def default(request: Request, a: int = 1, *, b: int | None = None) -> None: ...

    assert bind(none, params) == {}
    assert bind(default, params) == {}
    assert refused(transfer, params) == "missing `to`"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (b'{"to":"eve","amount":"5"}', "Expected `int`, got `str` - at `$.amount`"),
        (b'["eve","5"]', "Expected `int`, got `str` - at `$.amount`"),
        (b"5", "Expected `str`, got `int` - at `$.to`"),
        (b'{"to":"eve"}', "missing `amount`"),
        (b'["eve"]', "missing `amount`"),
        (b'{"to":"eve","amount":5,"x":1}', "unexpected `x`"),
        (b'["eve",5,"n",4]', "takes at most 3 params"),
        (b'{"to":"eve","amount":null}', "Expected `int`, got `null` - at `$.amount`"),
    ],
)
def test_the_message_says_which(params: bytes, message: str) -> None:
    assert refused(transfer, params) == message


def test_too_many() -> None:
    def none(request: Request, *, named: int = 1) -> None: ...

    def one(request: Request, a: int) -> None: ...

    assert refused(none, b"1") == "takes no params"
    assert refused(none, b"[1]") == "takes no params"
    assert refused(one, b"[1,2]") == "takes at most 1 param"
    assert bind(none, b'{"named": 2}') == {"named": 2}


def test_a_message_is_not_longer_than_it_need_be() -> None:
    name = "x" * 5000
    assert refused(transfer, json.dumps({name: 1}).encode()) == f"unexpected `{'x' * 1000}`"
    assert len(refused(transfer, json.dumps({"to": 1, "`" + name: 1}).encode())) <= 1000


def test_the_types_that_are_known() -> None:
    def many(
        request: Request,
        d: dict,  # type: ignore[type-arg]
        items: list[int],
        point: Point,
        box: Box,
        mode: Literal["a", "b"],
        percent: Annotated[int, Meta(ge=0, le=100)],
        maybe: Optional[int],  # noqa: UP045
        either: int | str = 3,
    ) -> None: ...

    good: dict[str, Any] = {
        "d": {"any": [1]},
        "items": [1, 2],
        "point": {"x": 1},
        "box": {"size": 2, "color": "blue"},
        "mode": "b",
        "percent": 100,
        "maybe": None,
    }
    arguments = bind(many, json.dumps(good).encode())
    assert arguments == good | {"point": Point(1), "box": Box(2, "blue")}
    for name, wrong, message in [
        ("d", [], "Expected `object`, got `array` - at `$.d`"),
        ("items", [1, "x"], "Expected `int`, got `str` - at `$.items[1]`"),
        ("point", {}, "Object missing required field `x` - at `$.point`"),
        ("box", {"size": 1, "color": "green"}, "Invalid enum value 'green' - at `$.box.color`"),
        ("box", {"size": 13}, "an unlucky size - at `$.box`"),
        ("mode", "c", "Invalid enum value 'c' - at `$.mode`"),
        ("percent", 101, "Expected `int` <= 100 - at `$.percent`"),
    ]:
        assert refused(many, json.dumps(good | {name: wrong}).encode()) == message


def test_what_an_authors_class_raises_stays_in_the_log(logs: list[Any]) -> None:
    def boxed(request: Request, box: Box) -> None: ...

    message = refused(boxed, b'{"box": {"size": 14}}')
    assert message == "these params can't be used"
    assert "secret" in str(logs[0]["exception"].value)


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b'{"to":"eve","amount":5} x',
        b'{"to":"\\ud800","amount":5}',
        b'{"to":"\xff","amount":5}',
        b"[1",
        b'["\xff",1]',
        b"nope",
        b'["eve",5',
    ],
)
def test_what_is_no_json(text: bytes) -> None:
    assert refused(transfer, text).startswith("not JSON: ")
    assert refused(_whole, text).startswith("not JSON: ")


def test_too_deep() -> None:
    def anything(request: Request, a: Any) -> None: ...

    deep = b"[" * 100_000 + b"]" * 100_000
    assert refused(_whole, deep) == "nested too deeply"
    assert refused(anything, b'{"a":' + deep + b"}") == "nested too deeply"
    assert refused(anything, b"[" + deep + b"]")
    assert refused(anything, deep)


async def _whole(request: Request, params: Params) -> None: ...


@pytest.mark.parametrize("text", [b'{"a":1}', b"[1,2]", b'"x"', b"5", b"false"])
def test_params_whole(text: bytes) -> None:
    assert bind(_whole, text) == {"params": json.loads(text)}
    assert Signature(_whole).schema == {}


def test_params_whole_and_absent() -> None:
    async def default(request: Request, params: Params = 7) -> None: ...

    assert bind(_whole, None) == {"params": None}
    assert bind(_whole, b"null") == {"params": None}
    assert bind(default, None) == {}
    assert bind(default, b"1") == {"params": 1}


def test_the_schema_is_of_the_params_alone() -> None:
    sentinel = object()

    def function(
        request: Request,
        point: Point,
        width: Annotated[int, Meta(ge=1)] = 200,
        tags: list[str] = ["a"],  # noqa: B006
        other: Any = sentinel,
    ) -> None: ...

    assert Signature(function).schema == {
        "title": "function",
        "type": "object",
        "properties": {
            "point": {"$ref": "#/$defs/Point"},
            "width": {"type": "integer", "minimum": 1, "default": 200},
            "tags": {"type": "array", "items": {"type": "string"}, "default": ["a"]},
            "other": {},
        },
        "required": ["point"],
        "additionalProperties": False,
        "$defs": {
            "Point": {
                "title": "Point",
                "type": "object",
                "properties": {"x": {"type": "integer"}, "y": {"type": "integer", "default": 0}},
                "required": ["x"],
            }
        },
    }
    assert "$defs" not in Signature(transfer).schema


def test_a_type_of_the_same_name_as_the_function() -> None:
    def Point_(request: Request, a: Point) -> None: ...

    Point_.__name__ = "Point"
    schema = Signature(Point_).schema
    assert schema["properties"]["a"]["$ref"].removeprefix("#/$defs/") in schema["$defs"]
    assert bind(Point_, b'{"a":{"x":1}}') == {"a": Point(1)}


def test_the_request_may_be_positional_only_or_without_annotation() -> None:
    def only(request: Request, /, a: int) -> None: ...

    def bare(request, a: int):  # type: ignore[no-untyped-def]
        ...

    def any_(request: Any, a: int) -> None: ...

    for function in (only, bare, any_):
        assert bind(function, b"[1]") == {"a": 1}


def test_what_a_decorator_wrapped_is_looked_through() -> None:
    @functools.wraps(transfer)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    assert bind(wrapper, b'["eve",1]') == {"to": "eve", "amount": 1}


def test_a_return_type_for_checkers_only_does_not_matter() -> None:
    def function(request: Request, a: int) -> Unknown:  # type: ignore[name-defined]  # noqa: F821
        ...

    assert bind(function, b"1") == {"a": 1}


def _functions() -> list[tuple[Any, str]]:
    def nothing() -> None: ...

    def keyword(*, request: Request) -> None: ...

    def args(request: Request, *args: int) -> None: ...

    def kwargs(request: Request, **kwargs: int) -> None: ...

    def no_annotation(request: Request, a) -> None:  # type: ignore[no-untyped-def]
        ...

    def positional(request: Request, a: int, /) -> None: ...

    def no_request(a: int, b: int) -> None: ...

    def default_request(request: Request = None) -> None:  # type: ignore[assignment]
        ...

    def unresolved(request: Request, a: Unknown) -> None:  # type: ignore[name-defined]  # noqa: F821
        ...

    def alien(request: Request, a: complex) -> None: ...

    def whole_and_more(request: Request, params: Params, a: int) -> None: ...

    def two_structs(request: Request, a: Point | _Other) -> None: ...

    return [
        (nothing, "must take the request"),
        (keyword, "must take the request"),
        (args, r"`\*args: .*named one by one"),
        (kwargs, r"`\*\*kwargs: .*named one by one"),
        (no_annotation, "`a` needs an annotation"),
        (positional, "`a` is positional-only"),
        (no_request, "`a` can't"),
        (default_request, "can't have a default"),
        (unresolved, "'Unknown' is not defined"),
        (alien, "complex"),
        (whole_and_more, "`params` takes the params whole"),
        (two_structs, "its params: .*union"),
    ]


class _Other(Struct):
    z: int


@pytest.mark.parametrize(("function", "message"), _functions(), ids=lambda f: str(f)[:30])
def test_functions_that_cannot_be_served(function: Any, message: str) -> None:
    with pytest.raises(HandlerError, match=message):
        Signature(function)
