"""The lifespans of the handlers' modules: entered at the start, left at the stop.

All of them live in one task, because what is opened in a task (a TaskGroup, a cancel scope)
must be closed in the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from loguru import logger

from .api import HandlerError, LifespanFunction

# How long a lifespan that is late may take to obey its cancellation, in seconds.
_GRACE = 1.0


class Lifespans:
    """Enters the lifespans in order and leaves them in reverse; ``resources`` holds what
    each one yielded."""

    def __init__(self, functions: Iterable[LifespanFunction]) -> None:
        self._functions = list(functions)
        self._open: dict[LifespanFunction, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self.resources: dict[LifespanFunction, Any] = {}

    async def enter(self) -> None:
        """Raises :class:`HandlerError` where one fails; those before it are left again."""
        if not self._functions:
            return
        ready = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._live(ready), name="handlers-lifespans")
        self._task = task
        try:
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task}, timeout=_GRACE)
            raise
        if not ready.done():
            self._task = None
            await task

    async def leave(self, seconds: float) -> list[str]:
        """Returns the names of those that were not done within ``seconds``."""
        if self._task is None:
            return []
        self._stop.set()
        await asyncio.wait({self._task}, timeout=seconds)
        late = list(self._open.values())
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=min(seconds, _GRACE))
        return [f"lifespan {name}" for name in late]

    async def _live(self, ready: asyncio.Future[None]) -> None:
        failure: HandlerError | None = None
        async with AsyncExitStack() as stack:
            for function in self._functions:
                try:
                    value = await stack.enter_async_context(self._one(function))
                except HandlerError as exc:
                    # Those before it end as usual: it is not their failure.
                    failure = exc
                    break
                self.resources[function] = value
            else:
                ready.set_result(None)
                await self._stop.wait()
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def _one(self, function: LifespanFunction) -> AsyncIterator[Any]:
        name = f"{function.__module__}.{function.__qualname__}"
        try:
            async with asynccontextmanager(function)() as value:
                self._open[function] = name
                yield value
        except Exception as exc:
            if function in self._open:
                logger.opt(exception=exc).error("the lifespan {} failed", name)
                return
            text = " ".join(str(exc).split())
            line = f"{name}: the lifespan failed: {type(exc).__name__}: {text}"
            raise HandlerError(line) from exc
        finally:
            self._open.pop(function, None)
