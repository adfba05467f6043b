"""What the author of a handler sees: marks for functions, the request, two exceptions.

Source: design.md section 7. Nothing here knows of the server, so that a module of handlers
can be imported, and its functions called, in a test.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar, overload

from msgspec import Struct

from inorder.codes import ERROR_CODES

if TYPE_CHECKING:
    from loguru import Logger

OnInterrupt = Literal["retry", "fail"]
OnExhausted = Literal["fail", "block"]
LifespanFunction: TypeAlias = Callable[[], AsyncGenerator[Any, None]]

# Hand mode takes the first word of a line for the method, unless it begins with one of
# the signs that mean something else there.
_METHOD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,127}")
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_HANDLER_MARK = "__inorder_handler__"
_LIFESPAN_MARK = "__inorder_lifespan__"

Fn = TypeVar("Fn", bound=Callable[..., Any])


class HandlerError(Exception):
    """A module or a function that can't be served: one line that says which, and why.
    It stops the start."""


class RequestError(Exception):
    """A final answer to the client: an outcome ``error`` with this code, message and details.

    ``code`` is a word of the handler's own, 1 to 64 of ``A-Z a-z 0-9 _ . : -``; a built-in
    code raises :class:`ValueError`, ``forbidden`` apart. ``details`` is any JSON value.
    """

    def __init__(self, code: str, message: str, details: Any = None) -> None:
        check_code(code)
        super().__init__(code, message, details)
        self.code = code
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Retry(Exception):
    """Asks for another attempt, ``after`` seconds from now (None: the usual backoff).

    It counts as one of the handler's ``attempts``.
    """

    def __init__(self, after: float | None = None) -> None:
        if after is not None and not (math.isfinite(after) and after >= 0):
            raise ValueError(f"after must be a number of seconds, not {after!r}")
        super().__init__(after)
        self.after = after


def check_code(code: str) -> None:
    """Raises :class:`ValueError` where ``code`` is not one that a handler may use."""
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise ValueError(f"an error code is 1 to 64 of A-Z a-z 0-9 _ . : -, not {code!r}")
    if code in ERROR_CODES and code != "forbidden":
        raise ValueError(f"the error code {code!r} is the server's own")


class User(NamedTuple):
    """Who sent a request."""

    name: str
    admin: bool = False


def _nobody_listens(value: Any) -> None:
    """What becomes of progress when a handler is called in a test."""


class _Place(Struct, eq=False):
    """Who sent a request, and where it stands."""

    user: User
    session: str = ""
    id: str = "#1"
    seq: int = 1
    attempt: int = 1


class Request(_Place, eq=False, kw_only=True):
    """The request that a handler runs for.

    - ``user``: who sent it; ``session``, ``id``, ``seq``: where it stands
    - ``attempt``: 1 at first; higher after a failed attempt or an interruption
    - ``deadline``: when this attempt's time is up (seconds since 1970)
    - ``traceparent``: the client's W3C trace context, if it sent one
    - ``resources``: what the module's ``@lifespan`` yielded
    - ``cancelled``: whether the client cancelled it or its time is up: a ``def`` handler that
      runs for long looks here now and then, and returns
    - ``emit``: where its progress goes
    """

    deadline: float = math.inf
    traceparent: str | None = None
    resources: Any = None
    cancelled: bool = False
    emit: Callable[[Any], None] = _nobody_listens
    _log: Logger | None = None

    @property
    def key(self) -> str:
        """Unique to this request, and the same in every attempt, at every node: what makes
        a side effect exactly-once (see ``inorder_server.examples.ledger``)."""
        return f"{self.session}:{self.seq}"

    @property
    def log(self) -> Logger:
        """A loguru logger whose lines bear user, session, id and seq."""
        if self._log is None:
            # Imported here: without the server's extra `inorder` must be able to say so.
            from loguru import logger

            self._log = logger.bind(
                user=self.user.name, session=self.session, id=self.id, seq=self.seq
            )
        return self._log

    def progress(self, value: Any) -> None:
        """Tells the client how far it is: any JSON value. Plain, from any thread; may be
        lost on the way; never raises."""
        self.emit(value)

    def __repr__(self) -> str:
        return f"<Request {self.key} {self.id!r} of {self.user.name!r}, attempt {self.attempt}>"


class WholeParams:
    """The mark inside :data:`Params`."""


Params: TypeAlias = Annotated[Any, WholeParams]
"""The annotation of a parameter that takes whatever was sent, whole (None when absent)."""


@dataclass(frozen=True, slots=True)
class Options:
    """What :func:`handler` was told. ``name`` None: the function's name."""

    name: str | None = None
    timeout: float = 60
    attempts: int = 1
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    concurrency: int | None = None
    admin: bool = False
    on_interrupt: OnInterrupt = "retry"
    on_exhausted: OnExhausted = "fail"
    idempotent: bool = False


@overload
def handler(name: Fn, /) -> Fn: ...


@overload
def handler(
    name: str | None = None,
    timeout: float = 60,
    attempts: int = 1,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = (Exception,),
    concurrency: int | None = None,
    admin: bool = False,
    on_interrupt: OnInterrupt = "retry",
    on_exhausted: OnExhausted = "fail",
    idempotent: bool = False,
) -> Callable[[Fn], Fn]: ...


def handler(
    name: Any = None,
    timeout: float = 60,
    attempts: int = 1,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = (Exception,),
    concurrency: int | None = None,
    admin: bool = False,
    on_interrupt: OnInterrupt = "retry",
    on_exhausted: OnExhausted = "fail",
    idempotent: bool = False,
) -> Any:
    """Marks a function as a method that clients can call, and returns it unchanged.

    - ``name``: the method's name (default: the function's)
    - ``timeout``: seconds that an attempt may run
    - ``attempts``: how often it is tried in all, where it raises one of ``retry_on`` or
      :class:`Retry`, or where its time is up and ``retry_on`` covers :class:`TimeoutError`
    - ``concurrency``: how many may run at once, over all sessions of the node
    - ``admin``: only administrators see it and may call it
    - ``on_interrupt``: after a crash in its midst, ``"retry"`` runs it again, ``"fail"`` never
    - ``on_exhausted``: after the last attempt, ``"fail"`` answers ``handler_failed``,
      ``"block"`` stops the session's queue until an operator decides
    - ``idempotent``: after a crash a run of such requests may be run again from its first one,
      which does no harm; then the next need not wait until the outcome of the one before is
      durable, which is several times faster

    Usable bare too (``@handler``). Raises :class:`HandlerError` for an option it can't take.
    """
    if inspect.isroutine(name) or inspect.isclass(name):
        return _mark_handler(name, Options())
    classes = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    options = Options(
        name,
        timeout,
        attempts,
        classes,
        concurrency,
        admin,
        on_interrupt,
        on_exhausted,
        idempotent,
    )
    return lambda function: _mark_handler(function, options)


def lifespan(function: Callable[[], AsyncGenerator[Any, None]]) -> LifespanFunction:
    """Marks an async generator function without parameters: what it yields is
    ``request.resources`` for the handlers of its module; what follows runs at the stop."""
    where = _name_of(function)
    if not inspect.isasyncgenfunction(function):
        raise HandlerError(f"{where}: a lifespan is an `async def` with a `yield`")
    if inspect.signature(function).parameters:
        raise HandlerError(f"{where}: a lifespan takes no parameters")
    setattr(function, _LIFESPAN_MARK, True)
    return function


def options_of(thing: Any) -> Options | None:
    """The options of a marked function, None for anything else."""
    found = getattr(thing, _HANDLER_MARK, None) if inspect.isfunction(thing) else None
    return found if isinstance(found, Options) else None


def is_lifespan(thing: Any) -> bool:
    return inspect.isfunction(thing) and hasattr(thing, _LIFESPAN_MARK)


def _mark_handler(function: Fn, options: Options) -> Fn:
    where = _name_of(function)
    if not inspect.isfunction(function):
        raise HandlerError(f"{where}: a handler is a function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise HandlerError(f"{where}: a handler returns its result, it has no `yield`")
    trouble = _trouble_with(options)
    if trouble:
        raise HandlerError(f"{where}: {trouble}")
    setattr(function, _HANDLER_MARK, options)
    return function


def _trouble_with(options: Options) -> str | None:
    """What is wrong with the options, if anything."""
    o = options
    if o.name is not None and not (isinstance(o.name, str) and _METHOD_NAME.fullmatch(o.name)):
        return f"name {o.name!r} is not a word of letters, digits and _ . : / -"
    if not _is_number(o.timeout) or not 0 < o.timeout <= 1e9:
        return f"timeout is a number of seconds above 0, not {o.timeout!r}"
    if not _is_count(o.attempts):
        return f"attempts is a number from 1 up, not {o.attempts!r}"
    if not all(inspect.isclass(c) and issubclass(c, BaseException) for c in o.retry_on):
        return f"retry_on holds classes of exceptions, not {o.retry_on!r}"
    if o.concurrency is not None and not _is_count(o.concurrency):
        return f"concurrency is a number from 1 up, or None, not {o.concurrency!r}"
    if not isinstance(o.admin, bool):
        return f"admin is True or False, not {o.admin!r}"
    if o.on_interrupt not in ("retry", "fail"):
        return f'on_interrupt is "retry" or "fail", not {o.on_interrupt!r}'
    if not isinstance(o.idempotent, bool):
        return f"idempotent is True or False, not {o.idempotent!r}"
    if o.idempotent and o.on_interrupt == "fail":
        return 'idempotent and on_interrupt="fail" exclude each other'
    if o.on_exhausted not in ("fail", "block"):
        return f'on_exhausted is "fail" or "block", not {o.on_exhausted!r}'
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _name_of(thing: Any) -> str:
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None) or repr(thing)
    return f"{module}.{name}" if module else name
