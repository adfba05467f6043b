"""A session under asyncio: sockets, a clock and a few tasks around :class:`inorder.core.Core`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Literal

from msgspec import UNSET

from .codes import CloseCode
from .core import Core
from .credentials import Login, State
from .dialing import Dialer
from .errors import ConnectionLost, InorderError
from .events import (
    Answered,
    CallAccepted,
    CallEnded,
    CallProgress,
    CancelAnswered,
    Dropped,
    Ended,
    Event,
    LoginRefused,
    Lost,
    Opened,
    Outcome,
    OutcomeCame,
    StateChanged,
)
from .job import Job
from .link import CLOSE_TIMEOUT, DROP_TIMEOUT, Link
from .messages import MethodLine, Receipt, StatusReport
from .phases import Phase

log = logging.getLogger("inorder")


class Session:
    """A session, which comes back by itself when its connection is lost;
    :class:`inorder.connect` makes it.

    Its methods belong to the event loop that it was made on.
    """

    def __init__(
        self,
        core: Core,
        dialer: Dialer,
        login: Login,
        *,
        client: str | None = None,
        open_timeout: float = 30.0,
        on_state: Callable[[str], object] | None = None,
    ) -> None:
        self._core = core
        self._dialer = dialer
        self._login = login
        self._client = client
        self._open_timeout = open_timeout
        self._on_state = on_state
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._wake = asyncio.Event()
        self._greeted: asyncio.Future[InorderError | None] = self._loop.create_future()
        self._connecting = False
        self._comeback: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._outcome_came = asyncio.Event()
        self._over = asyncio.Event()

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
        it is over, ``ValueError`` for an id that can't be used and for params that are nested
        more than 500 deep, ``TypeError`` for params that are no JSON.
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
        A lost connection does not keep it from its receipt. Raises the error that ended the
        session where that came first.
        """
        if self._core.phase < Phase.CLOSING and not self._core.closing:
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
        """Waits until it is over and nothing of it is left."""
        await self._over.wait()
        if self._comeback is not None:
            self._comeback.cancel()
            await asyncio.wait([self._comeback], timeout=CLOSE_TIMEOUT)
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._failure is not None:
            raise self._failure

    # ---- connecting

    async def _open(self, patience: float) -> None:
        """The first connection, tried again for ``patience`` seconds."""
        self._core.begin(self._loop.time(), patience)
        try:
            await self._connect()
            if self._core.error is not None:
                raise self._core.error
        except BaseException:
            await self.detach()
            raise

    async def _connect(self) -> None:
        """Tries until a connection stands or the core has had enough."""
        core, now = self._core, self._loop.time
        self._connecting = True
        try:
            while core.phase <= Phase.AWAY:
                if core.due(now()):
                    await self._attempt()
                elif (deadline := core.next_deadline()) is not None:
                    await asyncio.sleep(max(0.0, deadline - now()))
                self._dispatch()
        finally:
            self._connecting = False

    async def _attempt(self) -> None:
        core, now = self._core, self._loop.time
        limit = min(self._open_timeout, core.time_left(now()))
        try:
            async with asyncio.timeout(limit):
                await self._greet(Link(core, await self._dialer.open(), self._dispatch))
                return
        except InorderError as exc:
            error = exc
        except TimeoutError:
            error = ConnectionLost("unreachable", f"no welcome within {limit:.3g} s", retry=True)
        self._leave(CloseCode.DONE, DROP_TIMEOUT)
        core.connect_failed(error, now())

    async def _greet(self, link: Link) -> None:
        """Logs in. Raises the error of a refusal; what else went wrong the core knows."""
        self._link, self._wake = link, link.wake
        for task in link.tasks:
            self._tasks.add(task)
            task.add_done_callback(self._done)
        refused: InorderError | None = None
        async with aclosing(self._login.tries(self._core.token)) as tries:
            async for credentials in tries:
                self._greeted = self._loop.create_future()
                self._core.hello(credentials, self._client)
                link.wake.set()
                error = await self._greeted
                if error is None:
                    return
                # That the name is taken says more than that its password is another.
                if refused is None or refused.code != "name_taken":
                    refused = error
                if not self._login.goes_on(error):
                    break
        assert refused is not None
        raise refused

    async def _come_back(self) -> None:
        try:
            await self._connect()
        except Exception as exc:
            log.exception("coming back to session %s failed", self.id)
            error = ConnectionLost("internal", f"coming back failed: {exc!r}")
            self._core.connect_failed(error, self._loop.time())
            self._dispatch()

    def _leave(self, code: CloseCode, timeout: float) -> None:
        if self._link is not None:
            self._link.leave(code, timeout)
            self._link, self._wake = None, asyncio.Event()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=failure)
            self._failure = failure

    # ---- inside

    async def _ask(self, ask: Callable[[Any], object]) -> Any:
        future = self._loop.create_future()
        ask(future)
        self._wake.set()
        return await future

    def _cancel(self, call: Any) -> bool | None:
        answer = self._core.cancel(call)
        self._turn()
        return answer

    def _turn(self) -> None:
        """After everything that the program did to the core."""
        self._dispatch()
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
            elif isinstance(event, OutcomeCame):
                self._outcome_came.set()
            else:
                self._on_turn(event)

    def _on_turn(self, event: Event) -> None:
        """What happens to the session as a whole."""
        if isinstance(event, Opened):
            self._login.succeeded()
            _resolve(self._greeted, None)
        elif isinstance(event, LoginRefused):
            if not self._greeted.done():
                self._greeted.set_result(event.error)
        elif isinstance(event, Dropped):
            log.info("session %s: %s", self.id, event.error)
            self._leave(CloseCode.PROTOCOL_ERROR, DROP_TIMEOUT)
            _resolve(self._greeted, None)
            if not self._connecting:
                self._connecting = True
                self._comeback = asyncio.create_task(self._come_back(), name="inorder-comeback")
        elif isinstance(event, Ended | Lost):
            if isinstance(event, Ended) and not event.receipt.verified:
                log.error("the server's two countings differ: %r", event.receipt)
            broken = self._core.phase is Phase.LOST
            code = CloseCode.PROTOCOL_ERROR if broken else CloseCode.DONE
            self._leave(code, CLOSE_TIMEOUT)
            _resolve(self._greeted, None)
            self._outcome_came.set()
            self._over.set()

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
