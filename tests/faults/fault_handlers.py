"""The methods of the random fault runs, beside the ledger's.

Copied beside the configuration of the server under test. Each run of a ``roll`` is told to
whoever reads the pipe ``runs`` before it does anything else: a line is whole or not there, is
kept by the kernel when the process dies, and does not need the disk, which may be full.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time

from inorder_server import Request, Retry, handler

_pipe: list[int] = []


def _told(request: Request) -> int:
    """A random number, that no other run returns; the pipe has it before the caller does."""
    if not _pipe:
        _pipe.append(os.open("runs", os.O_WRONLY))
    value = random.getrandbits(53)
    os.write(_pipe[0], f"{request.key} {request.attempt} {value} {os.getpid()}\n".encode())
    return value


@handler(timeout=60)
async def roll(request: Request, ms: float) -> int:
    """Returns what no other run returns."""
    value = _told(request)
    await asyncio.sleep(ms / 1000)
    return value


@handler(timeout=60)
def roll_thread(request: Request, ms: float) -> int:
    """The same in a thread."""
    value = _told(request)
    time.sleep(ms / 1000)
    return value


@handler(timeout=60, on_interrupt="fail")
async def roll_once(request: Request, ms: float) -> int:
    """The same, but never twice."""
    return await roll(request, ms)


@handler(timeout=60, attempts=20)
async def roll_again(request: Request, ms: float) -> int:
    """The same, but only the second attempt succeeds."""
    value = await roll(request, ms)
    if request.attempt == 1:
        raise Retry(after=0.005)
    return value


@handler(timeout=60)
async def deadly(request: Request) -> None:
    """Takes the whole process down."""
    _told(request)
    os._exit(77)


@handler(timeout=3600)
def stuck(request: Request) -> None:
    """Never returns."""
    threading.Event().wait()
