"""The methods that can be called: collected from modules when the server starts.

Source: design.md section 7. Whatever is wrong with a module or a function stops the start,
with a line that names both.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from inorder.messages import MethodLine

from .api import HandlerError, LifespanFunction, Options, is_lifespan, options_of
from .params import InvalidParams, Signature

BUILTIN = "inorder_server.handlers.builtin"


class Method:
    """One function that clients can call.

    ``doc`` is the first line of its docstring, ``schema`` the JSON Schema of its params;
    the rest is what :func:`~inorder_server.handlers.handler` was told. ``lifespan`` is the
    function whose resources it gets.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        options: Options,
        lifespan: LifespanFunction | None = None,
    ) -> None:
        self.function = function
        self.name = options.name or function.__name__
        self.doc = (inspect.getdoc(function) or "").partition("\n")[0]
        self.options = options
        self.timeout = float(options.timeout)
        self.attempts = options.attempts
        self.retry_on = options.retry_on
        self.concurrency = options.concurrency
        self.admin = options.admin
        self.on_interrupt = options.on_interrupt
        self.on_exhausted = options.on_exhausted
        self.idempotent = options.idempotent
        self.is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
        self.prompt = self.is_async and self.concurrency is None and self.on_interrupt == "retry"
        """Whether a first attempt needs nothing before it: no thread, slot or mark."""
        self.lifespan = lifespan
        self._signature = Signature(function)
        self.schema = self._signature.schema
        self.check = self._signature.check
        """Raises :class:`InvalidParams` where :attr:`bind` would, but for what is no JSON."""
        self.bind = self._signature.arguments
        """Encoded params as keyword arguments. Raises :class:`InvalidParams`."""

    @property
    def line(self) -> MethodLine:
        """What ``methods`` says of it."""
        return MethodLine(self.name, self.doc, self.schema, self.admin)


class Methods:
    """All methods by name, and the lifespans whose resources they get."""

    def __init__(self, methods: Iterable[Method], lifespans: Iterable[LifespanFunction]) -> None:
        self._by_name = {method.name: method for method in methods}
        self.get = self._by_name.get
        self.lifespans = list(lifespans)

    def lines(self, admin: bool) -> list[MethodLine]:
        """A line for each, by name; those for administrators only where ``admin``."""
        seen = [method for method in self if admin or not method.admin]
        return [method.line for method in sorted(seen, key=lambda method: method.name)]

    def __iter__(self) -> Iterator[Method]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)


def load(modules: list[str], folder: Path, builtin: bool) -> Methods:
    """Imports ``modules``, looking into ``folder`` first, and collects what is marked in
    them. Raises :class:`HandlerError`."""
    path = str(folder.resolve())
    if modules and sys.path[:1] != [path]:
        sys.path.insert(0, path)
    names = [BUILTIN, *modules] if builtin else modules
    found = [_Found(_import(name)) for name in dict.fromkeys(names)]
    lifespans = list(dict.fromkeys(f.lifespan for f in found if f.lifespan is not None))
    methods: dict[str, Method] = {}
    for module in found:
        # A lifespan is its module's; one that is the only one may stand in any of them.
        lifespan = module.lifespan or (lifespans[0] if len(lifespans) == 1 else None)
        for function in module.functions:
            _add(methods, module.name, function, lifespan)
    return Methods(methods.values(), lifespans)


class _Found:
    """What is marked in a module's namespace, defined or imported there."""

    def __init__(self, module: ModuleType) -> None:
        self.name = module.__name__
        marked = list(dict.fromkeys(filter(inspect.isfunction, vars(module).values())))
        self.functions = [thing for thing in marked if options_of(thing)]
        lifespans = [thing for thing in marked if is_lifespan(thing)]
        if len(lifespans) > 1:
            names = " and ".join(thing.__name__ for thing in lifespans)
            raise HandlerError(f"{self.name}: one lifespan a module, not {names}")
        if not marked or not (self.functions or lifespans):
            raise HandlerError(f"{self.name}: no function is marked with @handler")
        self.lifespan: LifespanFunction | None = lifespans[0] if lifespans else None


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except HandlerError as exc:
        raise HandlerError(f"{name}: {exc}") from exc
    except (Exception, SystemExit) as exc:
        hint = ""
        if name.endswith(".py"):
            hint = f" (a module's name is meant: {name.removesuffix('.py')!r})"
        text = " ".join(str(exc).split())
        raise HandlerError(
            f"{name}: can't be imported: {type(exc).__name__}: {text}{hint}"
        ) from exc


def _add(
    methods: dict[str, Method],
    module: str,
    function: Callable[..., Any],
    lifespan: LifespanFunction | None,
) -> None:
    where = f"{module}.{function.__qualname__}"
    options = options_of(function)
    assert options is not None
    try:
        method = Method(function, options, lifespan)
    except HandlerError as exc:
        raise HandlerError(f"{where}: {exc}") from exc
    first = methods.setdefault(method.name, method)
    if first is method or first.function is function:
        return
    other = f"{first.function.__module__}.{first.function.__qualname__}"
    hint = " (builtin = false leaves it out)" if first.function.__module__ == BUILTIN else ""
    raise HandlerError(f"{where}: the name {method.name!r} is taken by {other}{hint}")


__all__ = ["HandlerError", "InvalidParams", "Method", "Methods", "load"]
