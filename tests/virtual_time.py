"""An event loop whose clock jumps to the next timer as soon as nothing else is to do.

So an hour's backoff takes no time, and a wait that nothing can end fails at once instead of
hanging.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        if self.threads and timeout != 0:
            # A thread is at work: its end comes through the loop's own pipe.
            return super().select(0.01)
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("nothing is left that could go on: a wake-up was lost")
        self.now += max(timeout, 1e-6)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """``threads`` is how many threads are at work: while there are any, time stands still."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now

    @property
    def threads(self) -> int:
        return self.selector.threads

    @threads.setter
    def threads(self, count: int) -> None:
        self.selector.threads = count


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs an asynchronous test in virtual time."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
