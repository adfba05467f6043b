"""Two clients that fight over one session: each takes it from the other, at any of the nodes.

Both keep all outcomes, and forget only what both hold; each asks by id, and leaves the number
to the server, for the other may have used it meanwhile. Written from the specification.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from evidence import PASSWORD, Witness
from frames import Json, RawClient, is_outcome
from network import Network
from plan import Client
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

_PASSING = {"draining", "store_unavailable", "queue_full", "overloaded"}
_COMES_BACK_AFTER = {1005, 1006, 1012, 4409, 4503, 4509}
_PATIENCE = 10.0
_STAY = 1.5
_LOST = (ConnectionClosed, InvalidHandshake, InvalidMessage, OSError, TimeoutError)


class Quarrel:
    """The session, and both who want it. ``live`` until it has ended with its receipt."""

    def __init__(self, clients: list[Client], network: Network) -> None:
        self.witness = Witness("rivals", [m for client in clients for m in client.work])
        self.messages = {message["id"]: message for message in self.witness.work}
        self.sides = [_Side(self, client, network) for client in clients]

    def __repr__(self) -> str:
        return f"told {self.witness.told}, held {[side.held for side in self.sides]}"

    async def live(self, everybody_in: asyncio.Barrier) -> None:
        first, _ = self.sides
        while not self.witness.told:
            with suppress(*_LOST):
                await first.begin()
        await everybody_in.wait()
        async with asyncio.TaskGroup() as fight:
            for side in self.sides:
                fight.create_task(side.fight())
        self.witness.ending = True
        while self.witness.receipt is None and not self.witness.trouble:
            with suppress(*_LOST):
                await first.end()

    def heard(self, message: Json) -> None:
        """An outcome, or that something was accepted, whoever of the two heard it."""
        witness, sent = self.witness, self.messages.get(message["id"])
        if sent is None:
            witness.complain(f"of nobody: {message}")
            return
        known = witness.requests.setdefault(message["seq"], sent)
        if known is not sent:
            witness.complain(f"{message['seq']} was {known['id']}: {message}")
        elif is_outcome(message):
            witness.hear_outcome(message)
        else:
            witness.hear_accepted(message["seq"], message["id"])


class _Side:
    """One of the two. ``held``: it has the outcomes up to there."""

    def __init__(self, quarrel: Quarrel, client: Client, network: Network) -> None:
        self.held = 0
        self._quarrel = quarrel
        self._witness = quarrel.witness
        self._client = client
        self._network = network
        self._rng = random.Random(client.seed)
        self._open = {message["id"]: message for message in client.work}
        """Its own, without an outcome so far."""

    async def begin(self) -> None:
        """Makes the account and the session, whose first request is accepted."""
        witness = self._witness
        login: Json = {"username": witness.name, "password": PASSWORD}
        async with self._connection() as socket:
            await socket.send({"type": "register", **login})
            answer = await self._next(socket)
            if answer.get("code") == "name_taken":
                await socket.send({"type": "hello", **login})
                answer = await self._next(socket)
            if answer["type"] == "welcome":
                witness.token, witness.session = answer["token"], answer["session"]
                await socket.send(self._client.work[0])
                while not witness.told:
                    self._hear(await self._next(socket))

    async def fight(self) -> None:
        """Takes the session again and again, until it holds all outcomes of both. Where that
        leads nowhere it stays longer."""
        stay = _STAY
        while self.held < len(self._quarrel.messages) and not self._witness.trouble:
            before = self.held
            with suppress(*_LOST):
                async with (
                    asyncio.timeout(self._rng.uniform(0.2, stay)),
                    self._connection() as socket,
                ):
                    if await self._hello(socket):
                        await self._work(socket)
            stay = _STAY if self.held > before else min(1.5 * stay, _PATIENCE)
            await asyncio.sleep(self._rng.uniform(0, 0.3))

    async def end(self) -> None:
        """Says ``bye``."""
        async with self._connection() as socket:
            if await self._hello(socket):
                self._witness.acked = self.held
                await socket.send({"type": "ack", "seq": self.held}, {"type": "bye"})
                while self._witness.receipt is None:
                    self._hear(await self._next(socket))

    # ---- one connection

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[RawClient]:
        """At any node; it is left without a word."""
        self._witness.connections += 1
        async with RawClient(self._network.door().proxy.url) as socket:
            try:
                yield socket
            finally:
                socket.socket.transport.abort()

    async def _next(self, socket: RawClient) -> Json:
        message = await socket.next(_PATIENCE)
        if message is None:
            assert socket.closed is not None
            if socket.closed[0] not in _COMES_BACK_AFTER:
                self._witness.complain(f"closed with {socket.closed}")
            raise TimeoutError
        return message

    async def _hello(self, socket: RawClient) -> bool:
        """Takes the session over. False where that has to be asked again."""
        witness = self._witness
        told, seq = witness.told, min(side.held for side in self._quarrel.sides)
        hello = {"type": "hello", "token": witness.token, "session": witness.session}
        witness.acked = max(witness.acked, seq)
        await socket.send({**hello, "seq": seq, "accepted": told})
        answer = await self._next(socket)
        if answer["type"] == "welcome":
            accepted, settled, acked = (answer[name] for name in ("accepted", "settled", "acked"))
            if not acked <= settled <= accepted or told > accepted or seq > settled:
                witness.complain(f"told {told}, held {seq}, but {answer}")
            if not answer["resumed"] or acked > witness.acked:
                witness.complain(f"acknowledged {witness.acked} only, but {answer}")
            return True
        if answer["type"] == "bye":
            self._receipt(answer["receipt"])
        elif not answer["retry"]:
            witness.complain(f"hello answered by {answer}")
        return False

    async def _work(self, socket: RawClient) -> None:
        """Sends what has no outcome, in its order, and hears everything."""
        waiting, sent = list(self._open.values()), set[str]()
        while self.held < len(self._quarrel.messages):
            while waiting and len(sent & self._open.keys()) < self._client.window:
                message = waiting.pop(0)
                if message["id"] in self._open:
                    sent.add(message["id"])
                    await socket.send(message)
            message = await self._next(socket)
            if message["type"] == "error" and message.get("of") == "request":
                # Whatever it is, the next connection asks again.
                if message["code"] not in _PASSING:
                    self._witness.complain(f"refused: {message}")
                return
            self._hear(message)

    def _hear(self, message: Json) -> None:
        if is_outcome(message):
            seq = message["seq"]
            if seq > self.held + 1:
                self._witness.complain(f"outcome {seq} came after {self.held}")
            self.held = max(self.held, seq)
            self._open.pop(message["id"], None)
            self._quarrel.heard(message)
        elif message["type"] == "accepted":
            self._quarrel.heard(message)
        elif message["type"] == "bye":
            self._receipt(message["receipt"])
        elif message["type"] != "draining":
            self._witness.complain(f"unexpected: {message}")

    def _receipt(self, receipt: Json) -> None:
        if not self._witness.ending:
            self._witness.complain(f"a receipt that nobody asked for: {receipt}")
        self._witness.hear_receipt(receipt)
