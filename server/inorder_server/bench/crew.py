"""The processes of the load generator, seen from the one that started them."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import msgspec

from .plan import BenchError, Plan, Report, merged

_LINE = 2**24
_END = 5.0


class Crew:
    """``async with Crew(plan, processes) as crew``: every connection is open and logged in.

    Then :meth:`run`, then :meth:`finish`; leaving the block ends the processes. ``cpus``: the
    processors that they may use, where the system can tell them. Raises :class:`BenchError`
    with what one of the processes complains of.
    """

    def __init__(self, plan: Plan, processes: int, *, cpus: Iterable[int] | None = None) -> None:
        self._plans = plan.share(processes)
        self._cpus = cpus
        self._members: list[_Member] = []

    async def __aenter__(self) -> Self:
        try:
            for plan in self._plans:
                self._members.append(await _Member.start(plan, self._cpus))
            await self._all("ready")
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()

    async def run(self, on_count: Callable[[int], None] | None = None) -> None:
        """The load; returns when the last outcome came. ``on_count`` is told how many came."""
        for member in self._members:
            member.tell("go")

        def told() -> None:
            if on_count is not None:
                on_count(sum(member.count for member in self._members))

        await self._all("settled", told)

    async def finish(self) -> Report:
        """Ends the sessions; what came of it all."""
        for member in self._members:
            member.tell("finish")
        found = await self._all("report")
        return merged(msgspec.convert(words, Report) for words in found)

    async def _all(self, word: str, told: Callable[[], None] = lambda: None) -> list[Any]:
        waiting = [asyncio.create_task(member.until(word, told)) for member in self._members]
        try:
            return await asyncio.gather(*waiting)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _end(self) -> None:
        for member in self._members:
            member.leave()
        await asyncio.gather(*(member.ended() for member in self._members))


class _Member:
    def __init__(self, process: Process) -> None:
        self.count = 0
        self._process = process

    @classmethod
    async def start(cls, plan: Plan, cpus: Iterable[int] | None) -> _Member:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __package__ or "inorder_server.bench",
            stdin=PIPE,
            stdout=PIPE,
            limit=_LINE,
        )
        if cpus is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, cpus)
        member = cls(process)
        # The token goes this way, too: others can read a command line.
        member.tell(msgspec.json.encode(plan).decode())
        return member

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def until(self, word: str, told: Callable[[], None]) -> Any:
        """Reads on to this word; what it says."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            words: dict[str, Any] = msgspec.json.decode(line)
            if "failed" in words:
                raise BenchError(words["failed"])
            if "count" in words:
                self.count = words["count"]
                told()
            if word in words:
                return words[word]
        raise BenchError("a process of the load generator has ended by itself")

    def leave(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def ended(self) -> None:
        try:
            async with asyncio.timeout(_END):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


def processes_for(plan: Plan) -> int:
    """So many that the load isn't the bottleneck, and a processor is left to the server."""
    return min(plan.connections, max(1, (os.cpu_count() or 2) - 1))
