"""What came of one run of a handler, judged without clock, loop or thread.

Source: design.md section 7; SPEC.md, "Error codes". What a handler raised is told to the
client only where it is a :class:`RequestError`; the log has it all.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec import Struct

from .api import Request, RequestError, Retry, check_code
from .methods import Method

_MESSAGE_CHARACTERS = 1000

_encode = msgspec.json.Encoder().encode


class Done(Struct, frozen=True, gc=False):
    """It returned: ``body`` is the JSON of its result."""

    body: bytes


class Failed(Struct, frozen=True):
    """A final error, as it is told to the client; ``details`` is a plain JSON value."""

    code: str
    message: str
    details: Any = None


class Again(Struct, frozen=True):
    """This attempt failed with ``code``, another may be tried; ``after`` is the seconds
    that the handler asked for, if it did."""

    after: float | None
    code: str


class Cancelled(Struct, frozen=True):
    """It was asked to stop by :meth:`Attempt.cancel`, and has."""


Verdict = Done | Failed | Again | Cancelled

HANDLER_FAILED = Failed("handler_failed", "the handler failed")


def judge_result(request: Request, value: Any, outcome_bytes: int) -> Done | Failed:
    """The verdict on what a handler returned. Outcomes have at most ``outcome_bytes``."""
    body = result_body(request, value, outcome_bytes)
    return Done(body) if isinstance(body, bytes) else body


def result_body(request: Request, value: Any, outcome_bytes: int) -> bytes | Failed:
    """The JSON of what a handler returned."""
    try:
        body = _encode(value)
    except Exception as exc:
        request.log.opt(exception=exc).error("the handler's result is no JSON value")
        return HANDLER_FAILED
    if len(body) > outcome_bytes:
        request.log.warning("a result of {} bytes, over {}", len(body), outcome_bytes)
        return Failed(
            "result_too_large", f"the result has {len(body)} bytes, more than {outcome_bytes}"
        )
    return body


def judge_exception(
    request: Request, method: Method, exc: BaseException, last: bool, outcome_bytes: int
) -> Failed | Again:
    """The verdict on what a handler raised; ``last``: no other attempt will be made."""
    if isinstance(exc, RequestError):
        try:
            return _answer(request, exc, outcome_bytes)
        except Exception as trouble:
            request.log.opt(exception=trouble).error("the handler raised a RequestError amiss")
            return HANDLER_FAILED
    again = isinstance(exc, Retry) or (
        # Neither a way out of the process nor a cancellation is a failure to be tried again.
        isinstance(exc, method.retry_on)
        and not isinstance(exc, SystemExit | KeyboardInterrupt | asyncio.CancelledError)
    )
    if again and not last:
        log = request.log if isinstance(exc, Retry) else request.log.opt(exception=exc)
        log.warning("attempt {} failed, another follows", request.attempt)
        return Again(exc.after if isinstance(exc, Retry) else None, "handler_failed")
    request.log.opt(exception=exc).error("the handler failed")
    return HANDLER_FAILED


def judge_timeout(request: Request, method: Method, timeout: float, last: bool) -> Failed | Again:
    """The verdict on an attempt whose time was up, whatever it did then."""
    if not last and issubclass(TimeoutError, method.retry_on):
        request.log.warning(
            "attempt {} took over {:g} s, another follows", request.attempt, timeout
        )
        return Again(None, "timed_out")
    request.log.warning("the handler took over {:g} s", timeout)
    return Failed("timed_out", f"it took more than {timeout:g} s")


def _answer(request: Request, error: RequestError, outcome_bytes: int) -> Failed:
    # A subclass may have set anything.
    check_code(error.code)
    # No lone surrogates, which JSON text can't hold.
    text = str(error.message).encode("utf-8", "replace").decode()
    answer = Failed(error.code, text[:_MESSAGE_CHARACTERS])
    if error.details is None:
        return answer
    try:
        details = msgspec.json.encode(error.details)
        full = Failed(answer.code, answer.message, msgspec.json.decode(details))
    except Exception as exc:
        request.log.opt(exception=exc).warning("details that are no JSON value were dropped")
        return answer
    if len(msgspec.json.encode(full)) > outcome_bytes:
        request.log.warning(
            "details of {} bytes were dropped, over {}", len(details), outcome_bytes
        )
        return answer
    return full
