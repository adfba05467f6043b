"""A client of a fault run that borrows the client library: nothing here knows how to come back.

What it was told is written down in the same words as that of the raw frames' client.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

from evidence import PASSWORD, Watch, Witness
from frames import Json
from network import Network
from plan import Client

import inorder
from inorder.aio import Job, Session
from inorder.credentials import State
from inorder.errors import (
    ConnectionLost,
    InorderError,
    LoginFailed,
    Refused,
    RequestFailed,
    SessionGone,
)


class Borrower:
    """``live`` sends all the work of a client by one session, whatever happens to it."""

    patience = 40.0
    """Seconds after which it gives up."""
    longest_wait = 0.2
    """Seconds before it comes back, unless the server says more."""

    def __init__(self, client: Client, network: Network, watch: Watch, n: int) -> None:
        self.witness = Witness(client.name, client.work)
        self._client = client
        self._url = network.door(n).proxy.url
        self._watch = watch
        self._rng = random.Random(client.seed)
        self._left: dict[str, Json] = {message["id"]: message for message in client.work}
        """What is not known to be settled or refused, in order."""
        self._cancels: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"told {self.witness.told}, held {self.witness.held}, {len(self._left)} left"

    async def live(self, everybody_in: asyncio.Barrier) -> None:
        """Until it has its receipt, or has left for good. Now and then the program starts
        again in between, with nothing but what :attr:`Session.state` was."""
        witness = self.witness
        try:
            session = await self._connect(register=True)
        except LoginFailed as exc:
            if exc.code != "name_taken":
                raise
            # The answer to the first `register` was lost.
            session = await self._connect()
        await everybody_in.wait()
        try:
            if self._client.repeats:
                listeners = self._submit(session)
                await self._until(listeners, 0.5)
                state = await session.detach()
                await asyncio.gather(*listeners)
                session = await self._connect(resume=state)
                await self._inherit(session)
            listeners = self._submit(session)
            if self._client.bye < 1:
                await self._until(listeners, self._client.bye)
            if self._client.leaves:
                await asyncio.gather(*listeners)
                await session.detach()
                witness.left = True
            else:
                await self._close(session)
                await asyncio.gather(*listeners)
            witness.told = max(witness.told, session.state.accepted)
        except InorderError as exc:
            witness.complain(f"the session ended with {exc!r}")
        finally:
            await session.detach()
        for task in self._cancels:
            task.cancel()

    async def _connect(self, *, register: bool = False, resume: State | None = None) -> Session:
        def on_state(name: str) -> None:
            self.witness.connections += name in ("connected", "resumed")

        session = await inorder.connect(
            self._url,
            username=self.witness.name,
            password=PASSWORD,
            register=register,
            resume=resume,
            window=self._client.window,
            on_state=on_state,
            open_timeout=self.patience,
            keep_trying=True,
            give_up_after=self.patience,
            backoff=self._backoff,
            proxy=None,
        )
        self.witness.session = session.id
        return session

    def _backoff(self) -> Iterator[float]:
        bound = 0.01
        while True:
            yield self._rng.uniform(0, bound)
            bound = min(2 * bound, self.longest_wait)

    # ---- sending

    def _submit(self, session: Session) -> list[asyncio.Task[None]]:
        """All that is left; who listens to the ends of it, in order."""
        listeners = []
        for message in self._left.values():
            job = session.submit(message["method"], message.get("params"), id=message["id"])
            listeners.append(asyncio.create_task(self._listen(session, job, message)))
            if message["id"] in self._client.cancels:
                task = asyncio.create_task(self._cancel(session, job))
                self._cancels.add(task)
        return listeners

    async def _cancel(self, session: Session, job: Job) -> None:
        try:
            await job.accepted
            if await job.cancel() and not job.done:
                self._watch(f"{session.id}:{job.seq}")
        except InorderError:
            pass  # whoever listens hears of it

    async def _until(self, listeners: list[asyncio.Task[None]], part: float) -> None:
        """Until so much of the work is done."""
        while sum(listener.done() for listener in listeners) < part * len(listeners):
            await asyncio.sleep(0.005)

    async def _close(self, session: Session) -> None:
        witness = self.witness
        witness.ending = True
        witness.early = self._client.bye < 1
        cancel = self._client.bye < 1 and self._client.seed % 2
        receipt = await session.close("cancel" if cancel else "finish")
        fields = ("session", "accepted", "done", "failed", "cancelled", "pending", "verified")
        # Those who listen are told in the same turn, but hear of it in the next.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        witness.hear_receipt({name: getattr(receipt, name) for name in fields})

    # ---- hearing

    async def _listen(self, session: Session, job: Job, message: Json) -> None:
        said: Json = {"id": job.id}
        try:
            said |= {"type": "result", "result": await job}
        except RequestFailed as exc:
            if not exc.accepted:
                self._unsent(exc, message)
                return
            said |= {"type": "error", "code": exc.code, "details": exc.details}
        except Refused as exc:
            self._refused(exc, message)
            return
        except SessionGone as exc:
            # It had said that it goes, and what was due was lost with the connection.
            if not (self.witness.early and exc.accepted and exc.receipt):
                self.witness.complain(f"{message} ended with {exc!r}")
            return
        except ConnectionLost as exc:
            if exc.code != "detached":
                self.witness.complain(f"{message} ended with {exc!r}")
            return
        except InorderError as exc:
            self.witness.complain(f"{message} ended with {exc!r}")
            return
        self._settled(job.seq, said, message)

    def _settled(self, seq: int | None, said: Json, message: Json) -> None:
        witness = self.witness
        if seq is None:
            witness.complain(f"{message} ended as {said}, without a number")
            return
        witness.requests[seq] = message | {"seq": seq}
        witness.hear_outcome(said | {"seq": seq})
        witness.acked = witness.held
        del self._left[message["id"]]

    def _unsent(self, exc: RequestFailed, message: Json) -> None:
        """Cancelled before the server had it."""
        if exc.code != "cancelled" or not self.witness.ending:
            self.witness.complain(f"{message} ended with {exc!r}")
        del self._left[message["id"]]

    def _refused(self, exc: Refused, message: Json) -> None:
        wrong = message["method"] == "no_such_method" or message["params"] == {"ms": "long"}
        if exc.code == "closing":
            # It was on its way when the session's end was asked for.
            fine = self.witness.ending and self._client.bye < 1
        else:
            fine = wrong and exc.code in ("unknown_method", "invalid_params")
        if not fine:
            self.witness.complain(f"{message} was refused: {exc!r}")
        del self._left[message["id"]]

    async def _inherit(self, session: Session) -> None:
        """The outcomes of what the program had sent before it started again."""
        async for outcome in session.outcomes():
            message = self._left.get(outcome.id)
            if message is None:
                self.witness.complain(f"inherited {outcome}")
                continue
            error: Any = outcome.error
            said: Json = {"id": outcome.id, "type": "result", "result": outcome.result}
            if error is not None:
                details = error.details
                said = {"id": outcome.id, "type": "error", "code": error.code, "details": details}
            self._settled(outcome.seq, said, message)
