"""A client of raw frames that comes back by itself: SPEC.md's "How to write a client", again.

Written from the specification, without a line of the client library, so that an error there
can't hide one of the server's.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from evidence import PASSWORD, Watch, Witness
from frames import Json, is_outcome
from network import Network
from plan import Client
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.typing import Subprotocol

_PASSING = {"draining", "store_unavailable", "queue_full", "overloaded", "out_of_order"}
_WINDOW_AFTER_REFUSAL = 32
_BATCH = 20


class _Again(Exception):
    """The connection is of no more use; another may be."""


class _Over(Exception):
    """It must not come back."""


class Teller:
    """``live`` sends all the work of a client, over as many connections as it takes."""

    comes_back_after = frozenset({1005, 1006, 1012, 4503})
    """The close codes that mean no harm."""
    patience = 10.0
    """Seconds that a connection, or an answer to a ``hello``, may take."""
    longest_wait = 0.1
    """Seconds; a run is to be short, and the server has to bear those who come too soon."""

    def __init__(self, client: Client, network: Network, watch: Watch, n: int) -> None:
        self.witness = Witness(client.name, client.work)
        self._client = client
        self._network = network
        self._watch = watch
        self._n = n
        self._rng = random.Random(client.seed)
        self._order = list(client.work)
        """What was not refused for good: the request of each seq."""
        self._next = 1
        self._acked = 0
        """What the server has heard of acknowledgements on this connection, or will hear."""
        self._unheard: list[Json] = []
        self._last: list[Json] = []
        self._window = client.window
        self._pause = 0.0
        self._limits: Json = {}
        self._wake = asyncio.Event()
        self._draining = False
        self._abandoned = asyncio.Event()
        self._dead: list[ClientConnection] = []
        self._everybody_in: asyncio.Barrier | None = None
        self._unanswered = 0
        """How many a ``hello`` was given up: the server may still read it."""

    async def live(self, everybody_in: asyncio.Barrier) -> None:
        """Until it has its receipt, or has left for good."""
        self._everybody_in = everybody_in
        delay = 0.01
        while True:
            accepted = self.witness.told
            try:
                await self._connection()
            except _Over:
                break
            except (_Again, ConnectionClosed, InvalidHandshake, InvalidMessage, OSError):
                pass
            except TimeoutError:
                pass
            delay = 0.01 if self.witness.told > accepted else min(2 * delay, 2 * self.longest_wait)
            await asyncio.sleep(self._rng.uniform(0, delay))
        for socket in self._dead:
            socket.transport.abort()

    async def _connection(self) -> None:
        first = not self.witness.connections
        door = self._network.door(self._n if first else None)
        self._abandoned.clear()
        async with asyncio.timeout(self.patience):
            socket = await connect(
                door.proxy.url,
                subprotocols=[Subprotocol("inorder.v1")],
                compression=None,
                max_size=None,
                ping_interval=None,
                open_timeout=None,
                proxy=None,
            )
        tasks: list[asyncio.Task[Any]] = []
        door.inside.add(self._abandoned.set)
        try:
            abandoned = asyncio.create_task(self._abandoned.wait())
            tasks.append(abandoned)
            opening = asyncio.create_task(self._open(socket))
            tasks.append(opening)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                opening.result()
                if self._everybody_in is not None:
                    await self._everybody_in.wait()
                    self._everybody_in = None
                tasks += [
                    asyncio.create_task(self._read(socket)),
                    asyncio.create_task(self._send(socket)),
                ]
                await asyncio.wait([abandoned, *tasks[2:]], return_when=asyncio.FIRST_COMPLETED)
                for task in tasks[2:]:
                    if task.done():
                        task.result()
        finally:
            door.inside.discard(self._abandoned.set)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._abandoned.is_set():
                # It stays as it is: dead for us, alive for the server.
                self._dead.append(socket)
            else:
                socket.transport.abort()

    def __repr__(self) -> str:
        """Where it stands, for one that is stuck."""
        return (
            f"told {self.witness.told}, held {self.witness.held}, acknowledged {self._acked},"
            f" next {self._next} of {len(self._order)}, window {self._window},"
            f" pause {self._pause}, ending {self.witness.ending}, last heard {self._last}"
        )

    # ---- hello

    async def _open(self, socket: ClientConnection) -> None:
        witness = self.witness
        witness.connections += 1
        if not witness.token:
            message: Json = {"type": "register", "username": witness.name, "password": PASSWORD}
        else:
            message = {"type": "hello", "token": witness.token}
        resumes = bool(witness.session)
        if resumes:
            message |= {"session": witness.session, "accepted": witness.told}
            if self._rng.random() < 0.5:
                message["seq"] = witness.held
                witness.acked = witness.held
        self._unanswered += resumes
        async with asyncio.timeout(self.patience):
            answer = await self._ask(socket, message)
            self._unanswered -= resumes
            if answer.get("code") == "name_taken":
                # The answer to the first `register` was lost.
                answer = await self._ask(socket, message | {"type": "hello"})
        if answer["type"] == "welcome":
            self._welcomed(answer, resumes)
        elif answer["type"] == "bye":
            self._receipt(answer["receipt"])
        elif answer["code"] == "session_gone" and not witness.told:
            # A session that accepted nothing ends with its connection.
            witness.session = ""
            witness.requests.clear()
            raise _Again
        elif answer["retry"]:
            await asyncio.sleep(min(answer.get("after", 0), self.longest_wait))
            raise _Again
        else:
            self._stop(f"hello {message} answered by {answer}")

    async def _ask(self, socket: ClientConnection, message: Json) -> Json:
        await socket.send(json.dumps(message))
        told = json.loads(await socket.recv())
        # What else the frame holds is heard once everybody is in.
        answer, *self._unheard = told if isinstance(told, list) else [told]
        return answer

    def _welcomed(self, welcome: Json, resumes: bool) -> None:
        witness = self.witness
        witness.token = welcome["token"]
        self._limits = welcome["limits"]
        if welcome["resumed"] is not resumes:
            self._stop(f"resuming is {resumes}, answered by {welcome}")
        if resumes:
            if welcome["session"] != witness.session:
                self._stop(f"another session than {witness.session}: {welcome}")
            witness.hear_welcome(welcome)
        witness.session = welcome["session"]
        self._next = witness.told + 1
        self._acked = welcome["acked"]
        self._draining = False
        self._pause = 0.0
        self._wake.set()

    def _stop(self, words: str) -> None:
        self.witness.complain(words)
        raise _Over

    def _receipt(self, receipt: Json) -> None:
        if not self.witness.ending:
            self._stop(f"a receipt that nobody asked for: {receipt}")
        if self.witness.hear_receipt(receipt):
            raise _Over
        raise _Again

    # ---- sending

    async def _send(self, socket: ClientConnection) -> None:
        witness, rng = self.witness, self._rng
        again = [
            {"type": "cancel", "id": id}
            for id, answered in witness.cancels.items()
            if not answered and self._is_open(id)
        ]
        if again:
            await socket.send(json.dumps(again))
        if self.witness.ending:
            await self._bye(socket)
        while True:
            self._wake.clear()
            if self._pause:
                await asyncio.sleep(self._pause)
                self._pause = 0.0
            if not witness.ending and witness.held >= self._goal:
                await self._leave(socket)
            frame = [] if witness.ending else self._frame()
            if witness.held >= self._acked + self._client.ack and not witness.ending:
                frame.append(self._ack())
            if frame:
                await socket.send(json.dumps(frame if len(frame) > 1 else frame[0]))
                await asyncio.sleep(0.003 if rng.random() < 0.1 else 0)
            else:
                await self._wake.wait()

    @property
    def _goal(self) -> int:
        return int(len(self._order) * self._client.bye)

    def _is_open(self, id: str) -> bool:
        witness = self.witness
        open_now = range(witness.held + 1, witness.told + 1)
        return any(witness.requests[seq]["id"] == id for seq in open_now)

    def _frame(self) -> list[Json]:
        """The next few requests, as many as the window allows."""
        witness, rng, frame = self.witness, self._rng, []
        most = min(
            witness.told + self._window,
            witness.held + self._limits["queue"] + 5 * self._client.repeats,
            self._acked + self._limits["unacked"] + 5 * self._client.repeats,
            len(self._order),
            self._next + rng.randrange(_BATCH),
        )
        while self._next <= most:
            message = self._order[self._next - 1] | {"seq": self._next}
            witness.requests[self._next] = message
            self._next += 1
            frame.append(message)
            if message["id"] in self._client.cancels and message["id"] not in witness.cancels:
                witness.cancels[message["id"]] = False
                frame.append({"type": "cancel", "id": message["id"]})
        if frame and self._client.repeats and witness.told and rng.random() < 0.2:
            frame.append(witness.requests[rng.randint(1, witness.told)])
        return frame

    async def _leave(self, socket: ClientConnection) -> None:
        witness = self.witness
        if self._client.leaves and self._client.bye == 1.0:
            if witness.acked != witness.held and self._rng.random() < 0.5:
                await socket.send(json.dumps(self._ack()))
            witness.left = True
            await socket.close()
            raise _Over
        self.witness.ending = True
        witness.early = witness.held < len(self._order)
        await self._bye(socket)

    async def _bye(self, socket: ClientConnection) -> None:
        mode = "cancel" if self._client.seed % 2 else "finish"
        await socket.send(json.dumps([self._ack(), {"type": "bye", "mode": mode}]))

    def _ack(self) -> Json:
        self._acked = self.witness.acked = self.witness.held
        return {"type": "ack", "seq": self._acked}

    # ---- hearing

    async def _read(self, socket: ClientConnection) -> None:
        try:
            for message in self._unheard:
                self._hear(message)
            self._wake.set()
            async for frame in socket:
                told = json.loads(frame)
                for message in told if isinstance(told, list) else [told]:
                    self._hear(message)
                self._wake.set()
        except ConnectionClosed:
            pass
        self._closed(socket.close_code or 1006, socket.close_reason or "")

    def _closed(self, code: int, reason: str) -> None:
        if self.witness.left:
            raise _Over
        if self._draining:
            self.witness.drained.append(code)
        if code == 4409 and self._unanswered:
            # That was a hello of our own, each of which does it once at most.
            self._unanswered -= 1
        elif code not in self.comes_back_after:
            self.witness.complain(f"closed with {code} {reason}")
        raise _Again

    def _hear(self, message: Json) -> None:
        witness, kind = self.witness, message["type"]
        self._last = [*self._last[-2:], message]
        if kind == "accepted":
            witness.hear_accepted(message["seq"], message["id"])
            self._window = min(2 * self._window, self._client.window)
        elif is_outcome(message):
            witness.hear_outcome(message)
        elif kind == "cancelling":
            witness.cancels[message["id"]] = True
            self._watch(f"{witness.session}:{message['seq']}")
        elif kind == "bye":
            self._receipt(message["receipt"])
        elif kind == "error" and message.get("of") == "request":
            self._refused(message)
        elif kind == "error" and message.get("of") == "cancel":
            if message["code"] != "not_found":
                witness.complain(f"cancel answered by {message}")
            witness.cancels.pop(message["id"], None)
        elif kind == "draining":
            self._draining = True
        else:
            witness.complain(f"unexpected: {message}")

    def _refused(self, refusal: Json) -> None:
        code, id = refusal["code"], refusal.get("id")
        if self.witness.ending and code in ("closing", *_PASSING):
            return
        if code == "already_acknowledged":
            seq = refusal["details"]["seq"]
            if seq > self.witness.acked or self.witness.requests[seq]["id"] != id:
                self.witness.complain(f"acknowledged to {self.witness.acked}: {refusal}")
        elif code in _PASSING:
            self._pause = min(refusal.get("after", 0), self.longest_wait)
            seq = refusal["details"]["expected" if code == "out_of_order" else "seq"]
            self._go_back(seq)
        elif code in ("unknown_method", "invalid_params"):
            self._drop(refusal, id)
        else:
            self.witness.complain(f"refused: {refusal}")

    def _drop(self, refusal: Json, id: str | None) -> None:
        """That one will never do; those behind it move up."""
        place = next((n for n, m in enumerate(self._order) if m["id"] == id), None)
        if place is None:
            return
        message = self._order[place]
        if message["method"] != "no_such_method" and message.get("params") != {"ms": "long"}:
            self.witness.complain(f"nothing is wrong with {message}: {refusal}")
        if place < self.witness.told:
            self.witness.complain(f"refused after it was accepted: {refusal}")
        del self._order[place]
        self._go_back(place + 1)

    def _go_back(self, seq: int) -> None:
        self._next = min(self._next, max(seq, self.witness.told + 1))
        self._window = min(self._window, _WINDOW_AFTER_REFUSAL)
        self._wake.set()
