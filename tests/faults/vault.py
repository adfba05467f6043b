"""The ledger of runs across nodes: a bank outside of them all, in the tests' own process.

The handlers of every node ask it (``vault_handlers.py``); it decides once for each request's
key, and answers a repeat as it did then, refusals too: a run that a stopped node had begun may
ask late. Nothing of it is in a file, so no node can hold it up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from checker import Booking
from frames import Json

SOCKET = "vault"


class Vault:
    """``books`` are by name, ``answers`` by key, of what was booked."""

    def __init__(self) -> None:
        self.balances: dict[str, int] = {}
        self.bookings: list[Booking] = []
        self.answers: dict[str, Json] = {}
        self._refusals: dict[str, Json] = {}

    def decide(self, key: str, payer: str, params: Json) -> Json:
        """``result``, or ``code``, ``message`` and ``details``."""
        if key in self.answers:
            return {"result": self.answers[key]}
        if key in self._refusals:
            return self._refusals[key]
        to, amount = params.get("to"), params["amount"]
        balance = self.balances.get(payer, 0)
        if to is None:
            self.balances[payer] = balance + amount
            answer = {"account": payer, "balance": balance + amount}
        elif balance < amount:
            details = {"balance": balance}
            code, message = "insufficient_funds", f"{payer} has {balance} cents"
            refusal = {"code": code, "message": message, "details": details}
            return self._refusals.setdefault(key, refusal)
        else:
            self.balances[to] = self.balances.get(to, 0) + amount
            self.balances[payer] = balance - amount
            answer = {"source": payer, "to": to, "amount": amount, "balance": balance - amount}
        self.bookings.append((key, None if to is None else payer, to or payer, amount))
        self.answers[key] = answer
        return {"result": answer}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # Of a node that died before it had said all nothing is booked.
            if (line := await reader.readline()).endswith(b"\n"):
                writer.write(json.dumps(self.decide(**json.loads(line))).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def vault(folder: Path) -> AsyncIterator[Vault]:
    """Open in this folder."""
    made = Vault()
    server = await asyncio.start_unix_server(made._serve, folder / SOCKET)
    try:
        yield made
    finally:
        server.close()
