"""What the bundled Python client costs: one connection, pipelined, in a process of its own.

As a program it is that process: ``client_alone.py URL TOKEN WINDOW SECONDS``.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec

if __name__ == "__main__":
    _HERE = Path(__file__).parent
    sys.path[:0] = [str(_HERE), str(_HERE.parent)]

from machine import processors
from subjects import Subject, params

import inorder

_WARMUP = 500


class Client(msgspec.Struct, kw_only=True):
    """``window``: requests in flight. Medians of ``rounds``: requests a second that came
    through, and microseconds of the client's CPU for each."""

    window: int
    rounds: int
    per_second: float
    cpu_us: float


async def drive(url: str, token: str, window: int, seconds: float) -> dict[str, float]:
    """Submits for so long, with ``window`` in flight, and awaits every outcome."""
    fields = json.loads(params(100))
    async with inorder.connect(url, token=token, window=window) as session:
        for _ in range(_WARMUP):
            await session.submit("echo", fields)
        jobs: deque[inorder.Job] = deque()
        count, began, cpu = 0, time.perf_counter(), time.process_time()
        while (now := time.perf_counter()) - began < seconds or jobs:
            if now - began < seconds:
                jobs.append(session.submit("echo", fields))
            if len(jobs) >= window or now - began >= seconds:
                await jobs.popleft()
                count += 1
        return {
            "per_second": count / (time.perf_counter() - began),
            "cpu_us": (time.process_time() - cpu) / count * 1e6,
        }


async def client_alone(
    fresh: Callable[[str], Subject], *, window: int, rounds: int, seconds: float
) -> Client:
    """Measures it against a server of its own."""
    subject = fresh("inorder")
    await subject.start()
    try:
        command = [sys.executable, __file__, subject.url, subject.token, str(window), str(seconds)]
        found = []
        for _ in range(rounds):
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
            found.append(json.loads(done.stdout))
    finally:
        await subject.close()
    return Client(
        window=window,
        rounds=rounds,
        per_second=median(one["per_second"] for one in found),
        cpu_us=median(one["cpu_us"] for one in found),
    )


def _main(url: str, token: str, window: str, seconds: str) -> None:
    if split := processors():
        os.sched_setaffinity(0, split[1])
    print(json.dumps(asyncio.run(drive(url, token, int(window), float(seconds)))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
