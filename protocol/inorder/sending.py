"""The client's core, first half: what the program wants, and what is sent for it when."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator
from math import inf, isfinite
from typing import Any, Literal

from msgspec import UNSET, Raw, Struct

from . import errors
from .codec import encode, join
from .credentials import Credentials, State
from .errors import InorderError
from .events import Answered, Ask, CallEnded, Ended, Event, Lost, Outcome, StateChanged
from .messages import Ack, Bye, Cancel, Limits, Methods, Ping, Receipt, Status
from .phases import LIVE, NAMES, PHASES, Phase
from .window import Call, Place, Window

ACK_EVERY = 100
"""Outcomes after which an ``ack`` is sent at once (SPEC.md, "ack")."""
ACK_AFTER = 1.0
"""Seconds after which the rest is acknowledged."""
_SEQ_BYTES = len(b',"seq":9007199254740991}') + len(b"[]")
# Where ``welcome`` names none: the server's defaults.
LIMITS = Limits(
    queue=1000,
    unacked=10_000,
    message_bytes=262_144,
    outcome_bytes=262_144,
    batch=256,
    rate=0,
    ping=20,
)


class _Outgoing(Struct, tag_field="type", tag="request", omit_defaults=True):
    """A request as it is encoded: params in one go with the rest, and no seq yet."""

    method: str
    id: str
    params: Any = None
    timeout: float | None = None


class Sending:
    """The half of the core that the program talks to, and that fills frames.

    ``window``: the most requests without an outcome; ``resume``: go on with an older session;
    ``prefix``: what ids begin with, random unless a test sets it.
    """

    def __init__(
        self, window: int = 256, resume: State | None = None, prefix: str | None = None
    ) -> None:
        if window < 1:
            raise ValueError("window is at least 1")
        self.phase = Phase.NEW
        self.limits = LIMITS
        self.session = resume.session if resume else ""
        self.user = ""
        self.token: str | None = None
        self.receipt: Receipt | None = None
        self.error: InorderError | None = None
        self._resume = resume
        self._window = Window(window)
        self._prefix = f"{secrets.token_hex(4)}-" if prefix is None else prefix
        self._count = 0
        self._calls: dict[str, Call] = {}
        self._asks: dict[str, deque[Ask]] = {"status": deque(), "methods": deque(), "ping": deque()}
        self._events: list[Event] = []
        self._control: list[bytes] = []
        self._mode: Literal["finish", "cancel"] = "finish"
        self._inherited = 0
        self._outcomes: deque[Outcome] = deque()
        self._bye_at = -inf
        self._ack_every = ACK_EVERY
        self._ack_at: float | None = None

    # ---- what the program wants

    @property
    def state(self) -> State:
        """What to keep in order to come back later."""
        return State(self.session, self._taken(), self._window.accepted)

    def next_outcome(self) -> Outcome | None:
        """Takes an outcome of a request that an earlier start had sent, if one is here."""
        return self._outcomes.popleft() if self._outcomes else None

    @property
    def expects_outcomes(self) -> bool:
        """Whether there are, or will be, outcomes for :meth:`next_outcome`."""
        return bool(self._outcomes) or self._window.held < self._inherited

    def hello(self, credentials: Credentials, client: str | None = None) -> None:
        """Greets. Answered by :class:`Opened` or :class:`LoginRefused`, after which
        another try is possible."""
        self._enter(Phase.GREETING)
        self._control.append(encode(credentials.greeting(self._resume, client)))

    def submit(
        self,
        method: str,
        params: Any = None,
        id: str | None = None,
        timeout: float | None = None,
        owner: Any = None,
    ) -> Call:
        """Takes a request, to be sent when its turn comes.

        Raises the session's error where it is over, ``Refused`` (``closing``) after
        :meth:`close`, ``ValueError`` for an id that can't be used, ``TypeError`` for params
        that are no JSON.
        """
        if self.phase >= Phase.CLOSING:
            raise self._over()
        if id is None:
            self._count += 1
            id = f"{self._prefix}{self._count}"
        elif not 1 <= len(id) <= 64 or id[0] == "#":
            raise ValueError("an id has 1 to 64 characters and no # at its start")
        elif id in self._calls:
            raise ValueError(f"the id {id!r} is in use")
        head = encode(_Outgoing(method, id, params, timeout))
        call = Call(id, head[:-1], owner)
        self._calls[id] = call
        self._window.unsent.append(call)
        return call

    def cancel(self, call: Call) -> bool | None:
        """Asks that a call be cancelled. Returns whether it is, where that is known at once;
        else :class:`CancelAnswered` follows."""
        if call.place is Place.ENDED:
            return isinstance(call.error, errors.Cancelled)
        if call.place is Place.UNSENT:
            self._end(call, errors.Cancelled("cancelled", "cancelled unsent", accepted=False))
            return True
        call.cancelled_in = self._window.generation
        self._control.append(encode(Cancel(id=call.id)))
        return None

    def status(self, from_seq: int | None = None, owner: Any = None) -> Ask:
        """Asks for a ``StatusReport``; :class:`Answered` follows."""
        return self._ask("status", Status(from_=from_seq), owner)

    def methods(self, owner: Any = None) -> Ask:
        """Asks for a ``MethodsReport``; :class:`Answered` follows."""
        return self._ask("methods", Methods(), owner)

    def ping(self, data: Any = UNSET, owner: Any = None) -> Ask:
        """Asks for the same ``data`` back; :class:`Answered` follows."""
        raw = UNSET if data is UNSET else Raw(encode(data))
        return self._ask("ping", Ping(data=raw), owner)

    def close(self, mode: Literal["finish", "cancel"] = "finish") -> None:
        """Ends the session: ``bye`` follows what was submitted. Answered by :class:`Ended`.

        With ``cancel`` what was not sent yet is refused here (``closing``). Raises the
        session's error where it is over.
        """
        if mode not in ("finish", "cancel"):
            raise ValueError("mode is finish or cancel")
        if self.phase not in (Phase.OPEN, Phase.DRAINING):
            raise self._over()
        self._enter(Phase.CLOSING)
        self._mode = mode
        if mode == "cancel":
            self._refuse_unsent()

    def detach(self) -> None:
        """Leaves the connection, not the session. All open calls end with an error."""
        if self.phase in (Phase.ENDED, Phase.LOST, Phase.DETACHED):
            return
        if self._taken() > self._window.acked:
            self._ack()
        self._fail(
            Phase.DETACHED,
            lambda accepted: errors.ConnectionLost(
                "detached", "the program left the session", retry=True, accepted=accepted
            ),
        )

    # ---- what the shell does

    def events(self) -> list[Event]:
        """What happened since the last time. Outcomes in it count as taken."""
        events, self._events = self._events, []
        return events

    def frames_to_send(self, now: float) -> list[bytes]:
        """What is to be sent now, as text frames. Call it after :meth:`events`."""
        if self.phase in LIVE:
            if self._ack_due(now):
                self._ack()
            messages: Iterator[bytes] = self._messages(now)
        else:
            messages, self._control = iter(self._control), []
        return list(self._pack(messages))

    def next_deadline(self) -> float | None:
        """When :meth:`frames_to_send` is to be called at the latest; None: not for time."""
        if self.phase not in LIVE:
            return None
        times = []
        if self._ack_at is not None and self._taken() > self._window.acked:
            times.append(self._ack_at)
        if isfinite(self._window.paused_until) and self._window.next():
            times.append(self._window.paused_until)
        if self.phase is Phase.CLOSING and isfinite(self._bye_at):
            times.append(self._bye_at)
        return min(times, default=None)

    # ---- sending

    def _messages(self, now: float) -> Iterator[bytes]:
        control, self._control = self._control, []
        yield from control
        window = self._window
        room = window.room(now)
        largest = self.limits.message_bytes - _SEQ_BYTES
        while room > 0 and (call := window.next()):
            if len(call.head) > largest:
                limit = self.limits.message_bytes
                message = f"a request has at most {limit} bytes"
                refused = errors.MessageTooLarge("message_too_large", message, accepted=False)
                self._end(call, refused)
                continue
            room -= 1
            yield window.send(call)
        if self.phase is Phase.CLOSING and now >= self._bye_at and not window.next():
            # A request that is refused after ``bye`` could not be sent again.
            if self._mode == "finish" and window.sent:
                return
            if self._taken() > window.acked:
                yield self._acknowledged()
            self._enter(Phase.BYE)
            yield encode(Bye(mode=self._mode))

    def _pack(self, messages: Iterator[bytes]) -> Iterator[bytes]:
        batch: list[bytes] = []
        size = 2
        for message in messages:
            size += len(message) + 1
            if batch and (size > self.limits.message_bytes or len(batch) >= self.limits.batch):
                yield batch[0] if len(batch) == 1 else join(batch)
                batch = []
                size = len(message) + 3
            batch.append(message)
        if batch:
            yield batch[0] if len(batch) == 1 else join(batch)

    def _ack_due(self, now: float) -> bool:
        ripe = self._ack_every
        if self._ack_at is not None and now >= self._ack_at:
            ripe = 1
        return self._taken() - self._window.acked >= ripe

    def _taken(self) -> int:
        """Outcomes up to this seq are with the program."""
        return self._outcomes[0].seq - 1 if self._outcomes else self._window.held

    def _ack(self) -> None:
        self._control.append(self._acknowledged())

    def _acknowledged(self) -> bytes:
        self._window.acked = self._taken()
        self._ack_at = None
        return encode(Ack(seq=self._window.acked))

    def _ask(self, kind: str, message: Struct, owner: Any) -> Ask:
        if self.phase not in LIVE:
            raise self._over()
        ask = Ask(kind, owner)
        self._asks[kind].append(ask)
        self._control.append(encode(message))
        return ask

    # ---- endings

    def _enter(self, phase: Phase) -> None:
        """The only way from phase to phase."""
        if phase not in PHASES[self.phase]:
            raise AssertionError(f"{self.phase.name} to {phase.name}")
        self.phase = phase
        if name := NAMES.get(phase):
            self._events.append(StateChanged(name))

    def _end(self, call: Call, error: InorderError | None) -> None:
        call.error = error
        call.move(Place.ENDED)
        del self._calls[call.id]
        self._events.append(CallEnded(call))

    def _refuse_unsent(self) -> None:
        while call := self._window.next():
            refused = errors.Refused("closing", "the session is being closed", accepted=False)
            self._end(call, refused)

    def _break(self, message: str, code: str = "protocol_error") -> None:
        """The connection can't be trusted any more."""
        self._fail(
            Phase.LOST,
            lambda accepted: errors.ConnectionLost(code, message, retry=True, accepted=accepted),
        )

    def _forget(self, error: InorderError) -> None:
        self._fail(Phase.LOST, error.about)

    def _fail(self, phase: Phase, error: Callable[[bool | None], InorderError]) -> None:
        """Ends everything that is open. A call that was sent and not answered may have been
        accepted or not: its error says None."""
        verdict = {Place.UNSENT: False, Place.SENT: None, Place.ACCEPTED: True}
        self.error = error(None)
        self._enter(phase)
        if phase is Phase.ENDED and self._window.sent:
            self._window.go_back(self._window.sent[0])  # the receipt says that they are not
        for call in list(self._calls.values()):
            self._end(call, error(verdict[call.place]))
        for asks in self._asks.values():
            while asks:
                self._events.append(Answered(asks.popleft(), error(None)))
        if phase is Phase.ENDED:
            assert self.receipt is not None
            self._events.append(Ended(self.receipt))
        else:
            self._events.append(Lost(self.error))

    def _over(self) -> InorderError:
        """Why nothing more is taken."""
        if self.phase in (Phase.CLOSING, Phase.BYE):
            return errors.Refused("closing", "the session is being closed", accepted=False)
        if self.error is None:
            return errors.ConnectionLost("connection_lost", "not connected", accepted=False)
        return self.error.about(False)
