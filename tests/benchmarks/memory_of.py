"""What a session costs in memory: idle, after it has worked, and with a full queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import msgspec
from frames import RawClient, request
from machine import memory, processors
from subjects import Subject, params

from inorder_server.bench.crew import Crew
from inorder_server.bench.plan import Plan

_QUEUE = 1000
_FRAME = 250
_CALM = 1.0


class Memory(msgspec.Struct, kw_only=True):
    """Bytes a session or connection; None where the system doesn't tell.

    ``idle``: logged in, nothing sent yet. ``worked``: after requests, with nothing under way.
    ``queued``: what each waiting request of 100 bytes adds. ``connection``: a bare one.
    """

    sessions: int
    idle: float | None
    worked: float | None
    queued: float | None
    connection: float | None


async def memory_of(
    fresh: Callable[[str], Subject], sessions: int, full_queues: int, processes: int
) -> Memory:
    """Each figure is the growth of a server that has had some load before."""
    idle, worked = await _sessions(fresh("inorder"), sessions, processes)
    connection, _ = await _sessions(fresh("bare echo"), sessions, processes)
    return Memory(
        sessions=sessions,
        idle=idle,
        worked=worked,
        queued=await _full_queues(fresh("inorder"), full_queues),
        connection=connection,
    )


def _plan(subject: Subject, connections: int, duration: float) -> Plan:
    return Plan(
        url=subject.url,
        token=subject.token,
        bare=subject.bare,
        method="echo",
        params=params(100),
        connections=connections,
        duration=duration,
    )


async def _sessions(
    subject: Subject, count: int, processes: int
) -> tuple[float | None, float | None]:
    split = processors()
    cpus = split and split[1]
    await subject.start()
    try:
        async with Crew(_plan(subject, 10, 0.2), 1, cpus=cpus) as crew:
            await crew.run()
            await crew.finish()
        before = memory(subject.pids[0])
        async with Crew(_plan(subject, count, 0.2), processes, cpus=cpus) as crew:
            idle = memory(subject.pids[0])
            await crew.run()
            await asyncio.sleep(_CALM)  # the last acknowledgements are written
            worked = memory(subject.pids[0])
    finally:
        await subject.close()
    return _each(before, idle, count), _each(before, worked, count)


async def _full_queues(subject: Subject, count: int) -> float | None:
    await subject.start()
    try:
        async with AsyncExitStack() as stack:
            clients = []
            for _ in range(count):
                client = await stack.enter_async_context(RawClient(subject.url))
                await client.hello(token=subject.token)
                await client.send(request("sleep", 3600))
                await client.until("accepted")
                clients.append(client)
            before = memory(subject.pids[0])
            text = msgspec.json.decode(params(100))
            for client in clients:
                for first in range(2, _QUEUE + 1, _FRAME):
                    last = min(first + _FRAME, _QUEUE + 1)
                    await client.send(
                        *(request("echo", text, id=f"r{n}", seq=n) for n in range(first, last))
                    )
                await client.until(lambda m: m["type"] == "accepted" and m["seq"] == _QUEUE)
            after = memory(subject.pids[0])
    finally:
        await subject.close()
    return _each(before, after, count * (_QUEUE - 1))


def _each(before: int | None, after: int | None, count: int) -> float | None:
    return None if before is None or after is None else (after - before) / count
