"""One process of the generator: its connections, from the first handshake to the last receipt.

``python -m inorder_server.bench`` speaks with the process that started it in lines of JSON:
it reads the plan, says ``ready``; reads ``go``, says ``count`` every half second, then
``settled``; reads ``finish``, says ``report``. ``failed`` ends it at any time, and so does
the end of its input.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any

import msgspec

from .connection import Connection, now
from .pace import Pace
from .plan import BenchError, Plan, Report
from .session import Session, Tally

Say = Callable[[dict[str, Any]], None]
Hear = Callable[[], Awaitable[str]]

_AT_ONCE = 64
_TELL_EVERY = 0.5
# Each connection acknowledges once a second, some of them at a time: clients that know nothing of
# each other don't do it all at once.
_ACK_EVERY = 1.0
_ACK_TURNS = 50
_STEP = 0.001  # what uvloop's timers count in: less would be no sleep at all
_SECOND = 1_000_000_000
# Descriptors that a process needs beside its connections.
_SPARE_FILES = 64


class Worker:
    """``open``, ``run`` and ``finish``, in this order. Each raises :class:`BenchError`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._tally = Tally()
        self._loop = asyncio.get_running_loop()
        self._trouble: asyncio.Future[BenchError] = self._loop.create_future()
        self._all: list[Connection] = []
        self._busy: list[Connection] = []
        self._issuing = False
        self._cpu = 0.0

    @property
    def outcomes(self) -> int:
        """Those that came so far."""
        return self._tally.outcomes

    async def open(self) -> None:
        """Opens and logs in all connections, some at a time."""
        plan = self._plan
        raise_file_limit(plan.connections + plan.idle + _SPARE_FILES)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one() -> None:
            async with gate:
                connection = self._connection()
                await connection.open(plan.patience)

        opening = [self._loop.create_task(one()) for _ in range(plan.connections + plan.idle)]
        try:
            await asyncio.gather(*opening)
        finally:
            for task in opening:
                task.cancel()
            await asyncio.gather(*opening, return_exceptions=True)
        self._busy = self._all[: plan.connections]

    async def run(self) -> None:
        """Warms up, measures, and waits for the outcomes that are due."""
        plan, tally = self._plan, self._tally
        tally.start = start = now()
        tally.begin = start + int(plan.warmup * _SECOND)
        tally.end = tally.begin + int(plan.duration * _SECOND)
        self._issuing = True
        acks = self._loop.create_task(self._keep_acknowledging())
        measured = self._loop.create_task(self._measure_cpu())
        try:
            if plan.rate is None:
                for connection in self._busy:
                    connection.session.refill(now())
                    connection.flush()
                await self._until(tally.end)
            else:
                await self._keep_pace(Pace(plan.rate, start, tally.end))
            self._issuing = False
            await self._settle()
            _acknowledge(self._busy)
            await measured
        finally:
            acks.cancel()
            measured.cancel()

    async def finish(self) -> Report:
        """Says ``bye`` and waits for the receipts."""
        for connection in self._all:
            connection.bye()
        pending = [connection.closed for connection in self._all]
        if pending:
            await asyncio.wait(pending, timeout=self._plan.patience)
        for connection in self._all:
            session = connection.session
            self._tally.sessions += 1
            if session.unsettled:
                self._tally.wrong["unanswered"] += session.unsettled
            if self._plan.bare and not session.unsettled:
                self._tally.receipts += 1
            elif not session.ended and not self._plan.bare:
                self._tally.complain("no receipt", connection.ending())
            connection.abort()
        return self._tally.report(self._plan.duration, self._cpu)

    def abort(self) -> None:
        """Drops everything."""
        for connection in self._all:
            connection.abort()

    # ---- connections

    def _connection(self) -> Connection:
        session = Session(self._plan, self._tally)
        connection = Connection(session, self._plan.url, self._came, self._fail)
        connection.closed.add_done_callback(lambda _: self._gone(connection))
        self._all.append(connection)
        return connection

    def _came(self, connection: Connection) -> None:
        if self._issuing and self._plan.rate is None:
            connection.session.refill(now())

    def _gone(self, connection: Connection) -> None:
        if not connection.farewell and connection.session.welcomed:
            self._tally.complain("lost", connection.ending())
            if self._busy and all(other.closed.done() for other in self._busy):
                self._fail(BenchError(f"every connection was lost: {connection.ending()}"))

    def _fail(self, exc: BenchError) -> None:
        if not self._trouble.done():
            self._trouble.set_result(exc)

    # ---- the run

    async def _keep_pace(self, pace: Pace) -> None:
        busy = self._busy
        while (at := pace.next_at()) is not None:
            await self._until(at)
            touched = set()
            for number, due in pace.take(now()):
                connection = busy[number % len(busy)]
                connection.session.issue(due)
                touched.add(connection)
            for connection in touched:
                connection.flush()

    async def _settle(self) -> None:
        """Waits for what is due, as long as something comes."""
        while self._due():
            before = self._tally.outcomes
            deadline = now() + int(self._plan.patience * _SECOND)
            while self._due() and self._tally.outcomes == before and now() < deadline:
                await self._until(now() + _SECOND // 100)
            if self._tally.outcomes == before:
                return

    def _due(self) -> bool:
        return any(c.session.unsettled and not c.closed.done() for c in self._busy)

    async def _until(self, at: int) -> None:
        """Sleeps, a millisecond at least, unless something ends the run. Raises what it is."""
        await asyncio.wait([self._trouble], timeout=max(_STEP, (at - now()) / _SECOND))
        if self._trouble.done():
            raise self._trouble.result()

    async def _keep_acknowledging(self) -> None:
        while True:
            for turn in range(_ACK_TURNS):
                await asyncio.sleep(_ACK_EVERY / _ACK_TURNS)
                _acknowledge(self._busy[turn::_ACK_TURNS])

    async def _measure_cpu(self) -> None:
        await asyncio.sleep((self._tally.begin - now()) / _SECOND)
        before = time.process_time()
        await asyncio.sleep((self._tally.end - now()) / _SECOND)
        self._cpu = time.process_time() - before


def _acknowledge(connections: Sequence[Connection]) -> None:
    for connection in connections:
        if frames := connection.session.ack():
            connection.send(frames)


def raise_file_limit(wanted: int) -> None:
    """So many descriptors, if the system allows it. Raises :class:`BenchError`."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise BenchError(
            f"the system allows a process {hard} open files, and {wanted} are needed: "
            "more --processes"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def converse(plan: Plan, say: Say, hear: Hear) -> None:
    """The conversation of the module's docstring. Raises :class:`BenchError`."""
    worker = Worker(plan)

    async def tell() -> None:
        while True:
            await asyncio.sleep(_TELL_EVERY)
            say({"count": worker.outcomes})

    try:
        await worker.open()
        say({"ready": plan.connections + plan.idle})
        await hear()
        telling = asyncio.create_task(tell())
        try:
            await worker.run()
        finally:
            telling.cancel()
        say({"settled": worker.outcomes})
        await hear()
        say({"report": msgspec.to_builtins(await worker.finish())})
    finally:
        worker.abort()


def main() -> None:
    """The process: a plan on standard input, lines of JSON on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the first one
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=Plan)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_main(plan))


async def _main(plan: Plan) -> None:
    loop = asyncio.get_running_loop()
    heard: asyncio.Queue[str] = asyncio.Queue()
    alone = asyncio.Event()

    def read() -> None:
        with suppress(RuntimeError):  # the loop has ended before the input
            for line in sys.stdin:
                loop.call_soon_threadsafe(heard.put_nowait, line.strip())
            loop.call_soon_threadsafe(alone.set)

    Thread(target=read, daemon=True, name="bench-input").start()
    talk = loop.create_task(converse(plan, _say, heard.get))
    leave = loop.create_task(alone.wait())
    await asyncio.wait([talk, leave], return_when=asyncio.FIRST_COMPLETED)
    talk.cancel()
    leave.cancel()
    ended, _ = await asyncio.gather(talk, leave, return_exceptions=True)
    if isinstance(ended, BenchError):
        _say({"failed": str(ended)})
    elif isinstance(ended, Exception):
        raise ended


def _say(words: dict[str, Any]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(words) + b"\n")
    sys.stdout.buffer.flush()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
