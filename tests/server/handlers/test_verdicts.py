"""What is made of what a handler left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from inorder_server import Request, RequestError, Retry, User, handler
from inorder_server.handlers.methods import Method
from inorder_server.handlers.verdicts import (
    HANDLER_FAILED,
    Again,
    Done,
    Failed,
    judge_exception,
    judge_result,
    judge_timeout,
)

REQUEST = Request(User("ada"), "s", "id1", 1)
AGAIN = Again(None, "handler_failed")


def function(request: Request) -> None: ...


@pytest.fixture
def plain(method: Callable[..., Method]) -> Method:
    return method(handler(function))


def test_a_result_becomes_json() -> None:
    assert judge_result(REQUEST, {"a": [1, None]}, 100) == Done(b'{"a":[1,null]}')
    assert judge_result(REQUEST, None, 4) == Done(b"null")


def test_a_result_has_a_bound(logs: list[Any]) -> None:
    assert judge_result(REQUEST, "x" * 8, 10) == Done(b'"xxxxxxxx"')
    failed = judge_result(REQUEST, "x" * 9, 10)
    assert failed == Failed("result_too_large", "the result has 11 bytes, more than 10")
    assert logs[0]["extra"]["seq"] == 1


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


@pytest.mark.parametrize("value", [object(), _circle(), "\ud800", {1.5j: 1}], ids=range(4))
def test_a_result_that_is_no_json(value: Any, logs: list[Any]) -> None:
    assert judge_result(REQUEST, value, 10**6) is HANDLER_FAILED
    assert logs[0]["level"].name == "ERROR"
    assert logs[0]["exception"].value is not None


def test_a_request_error_is_the_answer(plain: Method) -> None:
    error = RequestError("no_luck", "try your aunt", {"aunts": [1]})
    for last in (True, False):
        verdict = judge_exception(REQUEST, plain, error, last, 100)
        assert verdict == Failed("no_luck", "try your aunt", {"aunts": [1]})
    assert judge_exception(REQUEST, plain, RequestError("x", "y"), True, 1) == Failed("x", "y")


def test_a_request_error_is_cut_to_size(plain: Method, logs: list[Any]) -> None:
    long = judge_exception(REQUEST, plain, RequestError("x", "m" * 2000), True, 10**6)
    assert isinstance(long, Failed)
    assert long.message == "m" * 1000
    big = RequestError("x", "m", "d" * 100)
    assert judge_exception(REQUEST, plain, big, True, 100) == Failed("x", "m")
    assert judge_exception(REQUEST, plain, big, True, 200) == Failed("x", "m", "d" * 100)
    wrong = RequestError("x", "m", object())
    assert judge_exception(REQUEST, plain, wrong, True, 100) == Failed("x", "m")
    assert [record["level"].name for record in logs] == ["WARNING"] * 2
    half = RequestError("x", "a\ud800b")
    assert judge_exception(REQUEST, plain, half, True, 100) == Failed("x", "a?b")


def test_a_request_error_of_a_class_that_cheats(plain: Method, logs: list[Any]) -> None:
    class Cheat(RequestError):
        def __init__(self) -> None:
            self.code = "cancelled"

    class Empty(RequestError):
        def __init__(self) -> None: ...

    for cheat in (Cheat(), Empty()):
        assert judge_exception(REQUEST, plain, cheat, False, 100) is HANDLER_FAILED
    assert len(logs) == 2


def test_another_attempt_is_for_what_retry_on_names(
    method: Callable[..., Method], logs: list[Any]
) -> None:
    keys = method(handler(attempts=2, retry_on=KeyError)(function))
    assert judge_exception(REQUEST, keys, KeyError("secret"), False, 100) == AGAIN
    assert judge_exception(REQUEST, keys, KeyError("secret"), True, 100) is HANDLER_FAILED
    assert judge_exception(REQUEST, keys, ValueError("secret"), False, 100) is HANDLER_FAILED
    assert [record["level"].name for record in logs] == ["WARNING", "ERROR", "ERROR"]
    assert all("secret" in str(record["exception"].value) for record in logs)
    assert "secret" not in HANDLER_FAILED.message


def test_retry_bears_its_wish(method: Callable[..., Method], logs: list[Any]) -> None:
    never = method(handler(retry_on=())(function))
    assert judge_exception(REQUEST, never, Retry(5), False, 100) == Again(5, "handler_failed")
    assert judge_exception(REQUEST, never, Retry(), False, 100) == AGAIN
    assert judge_exception(REQUEST, never, Retry(5), True, 100) is HANDLER_FAILED
    assert logs[0]["exception"] is None


@pytest.mark.parametrize(
    "exc", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()]
)
def test_a_way_out_is_a_failure_and_never_tried_again(
    exc: BaseException, method: Callable[..., Method], plain: Method, logs: list[Any]
) -> None:
    assert judge_exception(REQUEST, plain, exc, False, 100) is HANDLER_FAILED
    if not isinstance(exc, GeneratorExit):
        every = method(handler(retry_on=BaseException)(function))
        assert judge_exception(REQUEST, every, exc, False, 100) is HANDLER_FAILED
    assert logs[0]["exception"].value is exc


def test_a_timeout(method: Callable[..., Method], plain: Method, logs: list[Any]) -> None:
    failed = Failed("timed_out", "it took more than 1.5 s")
    assert judge_timeout(REQUEST, plain, 1.5, True) == failed
    assert judge_timeout(REQUEST, plain, 1.5, False) == Again(None, "timed_out")
    for retry_on, verdict in [
        (OSError, Again(None, "timed_out")),
        (TimeoutError, Again(None, "timed_out")),
        (KeyError, failed),
        ((), failed),
    ]:
        found = method(handler(retry_on=retry_on)(function))
        assert judge_timeout(REQUEST, found, 1.5, False) == verdict
    assert len(logs) == 6
