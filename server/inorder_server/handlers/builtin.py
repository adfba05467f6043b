"""The methods that come with the server: to try it, and to see that it is well."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from msgspec import Meta

from .api import Params, Request, handler

# A minute over the longest sleep, so that it can end.
_TIMEOUT = 3660
_STEPS = 10


@handler(idempotent=True)
async def echo(request: Request, params: Params) -> Any:
    """Returns what it was sent."""
    return params


@handler(timeout=_TIMEOUT)
async def sleep(
    request: Request, seconds: Annotated[float, Meta(ge=0, le=3600)] = 1.0
) -> dict[str, float]:
    """Sleeps so many seconds, and tells of its progress about ten times."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    for step in range(1, _STEPS + 1):
        due = seconds * step / _STEPS
        await asyncio.sleep(max(0.0, started + due - loop.time()))
        request.progress({"slept": round(due, 3), "of": seconds})
    return {"slept": seconds}
