"""A session under asyncio: a socket, a clock and two tasks around :class:`inorder.core.Core`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

from msgspec import UNSET
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from .codes import CloseCode
from .core import Core
from .credentials import Credentials, State
from .errors import InorderError
from .events import (
    Answered,
    CallAccepted,
    CallEnded,
    CallProgress,
    CancelAnswered,
    Ended,
    LoginRefused,
    Lost,
    Opened,
    Outcome,
    OutcomeCame,
    StateChanged,
)
from .job import Job
from .messages import MethodLine, Receipt, StatusReport
from .phases import Phase

CLOSE_TIMEOUT = 10.0
"""Seconds for the last frames and the closing handshake, whatever the peer does."""

log = logging.getLogger("inorder")


class Session:
    """A session on a live connection; :class:`inorder.connect` makes it.

    Its methods belong to the event loop that it was made on.
    """

    def __init__(
        self,
        core: Core,
        socket: ClientConnection,
        on_state: Callable[[str], object] | None = None,
    ) -> None:
        self._core = core
        self._socket = socket
        self._on_state = on_state
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._outcome_came = asyncio.Event()
        self._abort: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # ---- what it is

    @property
    def id(self) -> str:
        """The session's id, by which it can be resumed."""
        return self._core.session

    @property
    def user(self) -> str:
        """The name that one is logged in by."""
        return self._core.user

    @property
    def token(self) -> str | None:
        """The newest token for this user; good for the next login."""
        return self._core.token

    @property
    def state(self) -> State:
        """What to keep, in order to pass it to ``resume=`` later."""
        return self._core.state

    @property
    def receipt(self) -> Receipt | None:
        """The proof that the queue ended empty, once :meth:`close` has brought it."""
        return self._core.receipt

    # ---- requests

    async def request(self, method: str, /, *args: Any, **params: Any) -> Any:
        """Calls a method and waits for its result. Raises :class:`InorderError`.

        Params by name or by position, not both; for options use :meth:`submit`.
        """
        if args and params:
            raise TypeError("params go by name or by position, not both")
        return await self.submit(method, args or params or None)

    def submit(
        self,
        method: str,
        params: Any = None,
        id: str | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Takes a request and returns at once; it is sent in its turn.

        ``params``: a mapping (by name), a sequence (by position) or any other JSON value (the
        only argument). ``id`` names the request in its session; sent again, it is not run
        again. ``timeout``: seconds that an attempt may run. Raises the session's error where
        it is over, ``ValueError`` for an id that can't be used, ``TypeError`` for params that
        are no JSON.
        """
        job = Job(self._cancel)
        job._call = self._core.submit(method, params, id, timeout, owner=job)
        self._wake.set()
        return job

    async def outcomes(self) -> AsyncIterator[Outcome]:
        """After a resume: how the requests ended that an earlier start had sent, in order.

        Ends after the last of them. What is not read here stays with the server.
        """
        while True:
            while outcome := self._core.next_outcome():
                self._wake.set()
                yield outcome
            if not self._core.expects_outcomes:
                return
            if self._core.error is not None:
                raise self._core.error
            self._outcome_came.clear()
            await self._outcome_came.wait()

    # ---- questions

    async def status(self, from_seq: int | None = None) -> StatusReport:
        """How the session stands on the server; with ``from_seq`` up to 100 of its requests,
        beginning there."""
        return await self._ask(lambda owner: self._core.status(from_seq, owner))  # type: ignore[no-any-return]

    async def methods(self) -> list[MethodLine]:
        """What can be called: names, doc lines, and the JSON Schemas of the params."""
        return await self._ask(self._core.methods)  # type: ignore[no-any-return]

    async def ping(self, data: Any = UNSET) -> float:
        """Seconds to the server and back, through everything that a message goes through."""
        start = self._loop.time()
        await self._ask(lambda owner: self._core.ping(data, owner))
        return self._loop.time() - start

    # ---- endings

    async def close(self, mode: Literal["finish", "cancel"] = "finish") -> Receipt:
        """Ends the session and returns its receipt.

        ``finish`` waits for everything that was submitted, ``cancel`` has it cancelled.
        Raises the error that ended the session where that came first.
        """
        if self._core.phase in (Phase.OPEN, Phase.DRAINING):
            self._core.close(mode)
            self._turn()
        await self._ended()
        if self._core.receipt is None or self._core.phase is not Phase.ENDED:
            assert self._core.error is not None
            raise self._core.error
        return self._core.receipt

    async def detach(self) -> State:
        """Leaves the session without ending it; what was accepted goes on at the server.

        Jobs that are open end with ``ConnectionLost``. Returns the state to resume with.
        """
        self._core.detach()
        self._turn()
        await self._ended()
        return self.state

    async def _ended(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
            for task in self._tasks:
                task.result()

    # ---- inside

    async def _open(self, credentials: Credentials, client: str | None) -> None:
        """Starts the tasks and waits for ``welcome``."""
        self._core.hello(credentials, client)
        self._wake.set()
        self._tasks = [
            asyncio.create_task(self._read(), name="inorder-reader"),
            asyncio.create_task(self._write(), name="inorder-writer"),
        ]
        try:
            await self._opened
        except BaseException:
            await self.detach()
            raise

    async def _ask(self, ask: Callable[[Any], object]) -> Any:
        future = self._loop.create_future()
        ask(future)
        self._wake.set()
        return await future

    def _cancel(self, call: Any) -> bool | None:
        answer = self._core.cancel(call)
        self._turn()
        return answer

    async def _read(self) -> None:
        core, socket, now = self._core, self._socket, self._loop.time
        code, reason = int(CloseCode.ABNORMAL), ""
        try:
            while True:
                core.receive(await socket.recv(decode=False), now())
                self._turn()
        except ConnectionClosed as exc:
            if exc.rcvd is not None:
                code, reason = exc.rcvd.code, exc.rcvd.reason
            elif exc.sent is not None:
                code, reason = exc.sent.code, exc.sent.reason
        finally:
            core.connection_lost(code, reason)
            self._turn()

    async def _write(self) -> None:
        core, socket, wake = self._core, self._socket, self._wake
        try:
            while True:
                await wake.wait()
                wake.clear()
                frames = core.frames_to_send(self._loop.time())
                self._dispatch()
                for frame in frames:
                    await socket.send(frame, text=True)
                if core.phase >= Phase.ENDED:
                    break
                self._set_timer()
        except ConnectionClosed:
            pass  # the reader has seen it, and why
        finally:
            self._clear_timer()
            if self._abort is not None:
                self._abort.cancel()
            broken = core.phase is Phase.LOST
            await socket.close(CloseCode.PROTOCOL_ERROR if broken else CloseCode.DONE)

    def _turn(self) -> None:
        """After everything that happened to the core."""
        self._dispatch()
        self._wake.set()

    def _set_timer(self) -> None:
        """One timer, and only where there is something to wait for."""
        deadline = self._core.next_deadline()
        if self._timer is not None:
            if self._timer.when() == deadline and not self._timer.cancelled():
                return
            self._clear_timer()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer = None
        self._wake.set()

    def _dispatch(self) -> None:
        for event in self._core.events():
            kind = type(event)
            if kind is CallEnded:
                event.call.owner._on_ended()  # type: ignore[union-attr]
            elif isinstance(event, CallAccepted):
                event.call.owner._on_accepted()
            elif isinstance(event, CallProgress):
                event.call.owner._on_progress(event.value)
            elif isinstance(event, CancelAnswered):
                event.call.owner._on_cancel(event.answer)
            elif isinstance(event, Answered):
                _resolve(event.ask.owner, event.answer)
            elif isinstance(event, StateChanged):
                self._tell(event.name)
            elif isinstance(event, Ended):
                if not event.receipt.verified:
                    log.error("the server's two countings differ: %r", event.receipt)
            elif isinstance(event, OutcomeCame):
                self._outcome_came.set()
            elif isinstance(event, Opened):
                _resolve(self._opened, None)
            elif isinstance(event, LoginRefused | Lost):
                _resolve(self._opened, event.error)
                self._outcome_came.set()
        if self._core.phase >= Phase.ENDED and self._abort is None:
            # The writer may hang in its send: a peer that reads nothing can't keep us.
            self._abort = self._loop.call_later(CLOSE_TIMEOUT, self._socket.transport.abort)

    def _tell(self, name: str) -> None:
        if self._on_state is not None:
            try:
                self._on_state(name)
            except Exception:
                log.exception("on_state(%r) raised", name)


def _resolve(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, InorderError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
