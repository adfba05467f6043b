"""What the author of a handler sees."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest

import inorder_server
from inorder.codes import ERROR_CODES
from inorder_server import Request, RequestError, Retry, User, handler, lifespan
from inorder_server.handlers.api import HandlerError, Options, is_lifespan, options_of


def test_what_authors_need_is_at_the_top() -> None:
    wanted = {"Request", "RequestError", "Retry", "handler", "lifespan", "Params"}
    assert wanted <= set(inorder_server.__all__)
    assert all(hasattr(inorder_server, name) for name in wanted)


def test_a_mark_leaves_the_function_as_it_was() -> None:
    def function(request: Request, a: int) -> int:
        return a + 1

    assert handler(function) is function
    assert options_of(function) == Options()
    assert handler("other", timeout=3, retry_on=KeyError)(function) is function
    assert options_of(function) == Options("other", timeout=3, retry_on=(KeyError,))
    assert function(Request(User("ada")), 1) == 2


def test_what_is_not_marked_has_no_options() -> None:
    def function(request: Request) -> None: ...

    assert options_of(function) is None
    assert options_of(7) is None
    assert options_of(Options()) is None


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"name": "two words"}, "name"),
        ({"name": ".dot"}, "name"),
        ({"name": ""}, "name"),
        ({"name": 7}, "name"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
        ({"timeout": math.inf}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": None}, "timeout"),
        ({"attempts": 0}, "attempts"),
        ({"attempts": True}, "attempts"),
        ({"attempts": 1.5}, "attempts"),
        ({"retry_on": (7,)}, "retry_on"),
        ({"retry_on": int}, "retry_on"),
        ({"concurrency": 0}, "concurrency"),
        ({"admin": "yes"}, "admin"),
        ({"on_interrupt": "block"}, "on_interrupt"),
        ({"on_exhausted": "retry"}, "on_exhausted"),
        ({"idempotent": 1}, "idempotent"),
        ({"idempotent": True, "on_interrupt": "fail"}, "idempotent"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], word: str) -> None:
    def function(request: Request) -> None: ...

    with pytest.raises(HandlerError, match=rf"function: {word} "):
        handler(**options)(function)


def test_only_plain_functions_are_handlers() -> None:
    class Thing: ...

    def generator(request: Request) -> Any:
        yield 1

    async def async_generator(request: Request) -> Any:
        yield 1

    for wrong in (Thing, len, generator, async_generator):
        with pytest.raises(HandlerError):
            handler(wrong)
    with pytest.raises(HandlerError, match="a handler is a function"):
        handler()(7)  # type: ignore[type-var]


def test_a_lifespan_is_an_async_generator_without_parameters() -> None:
    @lifespan
    async def good() -> Any:
        yield 1

    assert is_lifespan(good)
    assert not is_lifespan(len)

    with pytest.raises(HandlerError, match="with a `yield`"):

        @lifespan  # type: ignore[arg-type]
        async def no_generator() -> None: ...

    with pytest.raises(HandlerError, match="no parameters"):

        @lifespan  # type: ignore[arg-type]
        async def parameters(x: int) -> Any:
            yield x


@pytest.mark.parametrize("code", sorted(set(ERROR_CODES) - {"forbidden"}))
def test_built_in_codes_are_the_servers(code: str) -> None:
    with pytest.raises(ValueError, match="the server's own"):
        RequestError(code, "no")


@pytest.mark.parametrize("code", ["", "two words", "x" * 65, 7, None])
def test_a_code_is_a_word(code: Any) -> None:
    with pytest.raises(ValueError, match="an error code is"):
        RequestError(code, "no")


def test_a_request_error_bears_what_it_was_given() -> None:
    error = RequestError("insufficient_funds", "too little", {"balance": 1})
    assert (error.code, error.message, error.details) == (
        "insufficient_funds",
        "too little",
        {"balance": 1},
    )
    assert str(error) == "insufficient_funds: too little"
    assert pickle.loads(pickle.dumps(error)).details == {"balance": 1}
    assert RequestError("forbidden", "not yours").details is None


def test_retry_takes_seconds() -> None:
    assert Retry().after is None
    assert Retry(after=0).after == 0
    for wrong in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="number of seconds"):
            Retry(wrong)


def test_a_request_can_be_made_in_a_test(logs: list[Any]) -> None:
    request = Request(User("ada", admin=True), "abc", "x1", 17, attempt=2)
    assert request.key == "abc:17"
    assert Request(request.user, "abc", "x1", 17, attempt=3).key == request.key
    assert request.deadline == math.inf
    assert not request.cancelled
    request.progress({"step": 1})
    request.log.info("hello")
    assert request.log is request.log
    assert logs[0]["extra"] == {"user": "ada", "session": "abc", "id": "x1", "seq": 17}
    assert repr(request) == "<Request abc:17 'x1' of 'ada', attempt 2>"
