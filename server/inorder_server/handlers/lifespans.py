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
        self._open: list[str] = []
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
        late = list(self._open)
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=min(seconds, _GRACE))
        return [f"lifespan {name}" for name in late]

    async def _live(self, ready: asyncio.Future[None]) -> None:
        try:
            async with AsyncExitStack() as stack:
                for function in self._functions:
                    value = await stack.enter_async_context(self._one(function))
                    self.resources[function] = value
                ready.set_result(None)
                await self._stop.wait()
        except HandlerError:
            if not ready.done():
                raise
        except asyncio.CancelledError:
            if not ready.done() or self._stop.is_set():
                raise
            logger.error("the lifespans were cancelled while the server runs")

    @asynccontextmanager
    async def _one(self, function: LifespanFunction) -> AsyncIterator[Any]:
        name = f"{function.__module__}.{function.__qualname__}"
        entered = False
        try:
            async with asynccontextmanager(function)() as value:
                entered = True
                self._open.append(name)
                yield value
        except Exception as exc:
            if entered:
                logger.opt(exception=exc).error("the lifespan {} failed", name)
                return
            text = " ".join(str(exc).split())
            raise HandlerError(
                f"{name}: the lifespan failed: {type(exc).__name__}: {text}"
            ) from exc
        finally:
            if entered:
                self._open.remove(name)
