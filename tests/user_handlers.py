"""Methods that the tests of the user's view call, beside those of vector_handlers.

Copied beside the configuration of the server under test, whose folder is the current one.
"""

from __future__ import annotations

import asyncio
import os
import random
import time

from inorder_server import Request, handler


@handler(timeout=120)
async def record(request: Request, n: int) -> int:
    """Adds a line to the file ``runs``: one for every time that it runs."""
    _note(request, n)
    return n


@handler(timeout=120)
def record_thread(request: Request, n: int) -> int:
    """The same in a thread."""
    _note(request, n)
    return n


def _note(request: Request, n: int) -> None:
    file = os.open("runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, f"{request.session} {request.seq} {request.id} {n}\n".encode())
    finally:
        os.close(file)


@handler(timeout=120)
async def gated(request: Request, gate: str) -> int:
    """Runs until there is a file of that name. What it returns, no other run returns."""
    _step("begin", request)
    while not os.path.exists(gate):
        await asyncio.sleep(0.005)
    _step("end", request)
    return random.getrandbits(53)


@handler(timeout=120)
def gated_thread(request: Request, gate: str) -> int:
    """The same in a thread, which nothing stops."""
    _step("begin", request)
    while not os.path.exists(gate):
        time.sleep(0.005)
    _step("end", request)
    return random.getrandbits(53)


@handler(timeout=120, on_interrupt="fail")
async def gated_once(request: Request, gate: str) -> int:
    """The same, but never twice."""
    return await gated(request, gate)


def _step(word: str, request: Request) -> None:
    file = os.open("steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, f"{word} {request.session} {request.seq} {request.attempt}\n".encode())
    finally:
        os.close(file)


@handler(timeout=120)
async def minute(request: Request) -> None:
    """Works for a minute, on the loop."""
    request.progress("begun")
    await asyncio.sleep(60)


@handler(timeout=120)
def minute_thread(request: Request) -> None:
    """Works for a minute in a thread, and looks now and then whether it is still wanted."""
    request.progress("begun")
    until = time.monotonic() + 60
    while not request.cancelled and time.monotonic() < until:
        time.sleep(0.001)


@handler(timeout=120)
def minute_busy(request: Request) -> None:
    """Counts for a minute in a thread: it wants the interpreter for itself."""
    until = time.monotonic() + 60
    while not request.cancelled and time.monotonic() < until:
        pass


@handler()
async def speak(request: Request, text: str) -> None:
    """Logs at every level."""
    for level in ("DEBUG", "INFO", "WARNING", "ERROR"):
        request.log.log(level, "spoken: {}", text)


@handler()
def speak_thread(request: Request, text: str) -> None:
    """The same in a thread."""
    request.log.info("spoken: {}", text)


@handler(attempts=2)
async def stumble(request: Request, text: str) -> None:
    """Asks for another attempt, then fails."""
    raise ValueError("stumbled")
