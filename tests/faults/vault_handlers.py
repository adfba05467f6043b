"""The ledger's methods on nodes: they ask the bank that the test keeps, which books once a key.

Copied beside the configuration of each node under test, as ``fault_handlers`` is.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from inorder_server import Request, RequestError, handler


@handler(timeout=60)
async def deposit(request: Request, amount: int) -> dict[str, Any]:
    """Pays cents in."""
    return await _booked(request, {"amount": amount})


@handler(timeout=60)
async def transfer(request: Request, to: str, amount: int) -> dict[str, Any]:
    """Moves cents to another account."""
    return await _booked(request, {"to": to, "amount": amount})


async def _booked(request: Request, params: dict[str, Any]) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection("vault")
    try:
        order = {"key": request.key, "payer": request.user.name, "params": params}
        writer.write(json.dumps(order).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await reader.readline())
    finally:
        writer.close()
    if "code" in answer:
        raise RequestError(answer["code"], answer["message"], answer["details"])
    result: dict[str, Any] = answer["result"]
    return result
