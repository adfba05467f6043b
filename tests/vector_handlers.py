"""The methods that the conversations in protocol/vectors call, beside echo and sleep.

Copied beside the configuration of the server under test.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from inorder_server import Request, RequestError, Retry, handler


@handler()
async def whoami(request: Request) -> dict[str, Any]:
    """Who calls, and as which request."""
    return {
        "user": request.user.name,
        "admin": request.user.admin,
        "session": request.session,
        "id": request.id,
        "seq": request.seq,
        "attempt": request.attempt,
        "traceparent": request.traceparent,
    }


@handler()
async def strict(request: Request, a: int, b: str = "x") -> dict[str, Any]:
    """Takes a number and, if need be, a text."""
    return {"a": a, "b": b}


@handler()
async def tell(request: Request, values: list[Any]) -> None:
    """Tells these values as progress, then waits until it is cancelled."""
    for value in values:
        request.progress(value)
        await asyncio.sleep(0.01)
    await asyncio.Event().wait()


@handler()
async def fail(request: Request) -> None:
    """Raises an error whose text is nobody's business."""
    raise ValueError("MARKED-PRIVATE-TEXT")


@handler()
async def refuse(request: Request, balance: int = 3) -> None:
    """Raises an error of its own."""
    raise RequestError("no_money", f"you have {balance} only", {"balance": balance})


@handler()
async def deny(request: Request) -> None:
    """Says that the user may not."""
    raise RequestError("forbidden", "not yours")


@handler(admin=True)
async def admin_only(request: Request) -> str:
    """For admins."""
    return "welcome, admin"


@handler()
async def big(request: Request, size: int) -> str:
    """Returns a text of so many characters."""
    return "x" * size


@handler()
async def odd(request: Request) -> object:
    """Returns what can't be written as JSON."""
    return object()


@handler(attempts=3)
async def flaky(request: Request) -> int:
    """Works at the third attempt; returns its number."""
    if request.attempt < 3:
        raise Retry(after=0.01)
    return request.attempt


@handler(attempts=2)
async def patient(request: Request) -> None:
    """Asks for another attempt in an hour."""
    raise Retry(after=3600)


@handler(on_exhausted="block")
async def stuck(request: Request) -> None:
    """Fails and blocks its queue."""
    raise ValueError("stuck")


@handler(on_interrupt="fail")
async def once(request: Request) -> None:
    """Waits until it is cancelled; never runs twice."""
    request.progress("running")
    await asyncio.Event().wait()


@handler()
def slow_thread(request: Request, seconds: float = 0.3) -> str:
    """Works in a thread, which can't be stopped."""
    time.sleep(seconds)
    return "slept"
