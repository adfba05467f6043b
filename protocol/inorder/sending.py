"""The client's core, first half: what the program wants, and what is sent for it when."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator
from math import inf, isfinite
from typing import Any, Literal

from msgspec import UNSET, Raw, Struct

from . import errors
from .codec import encode, encode_given, join
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
LOOK_FIRST = 0.5
LOOK_EVERY = 2.0
"""Seconds until a close that waits for outcomes asks whether the queue is blocked."""
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
        self.phase = self._before_hello = Phase.NEW
        self.limits = LIMITS
        self.session = resume.session if resume else ""
        self.user = ""
        self.token: str | None = None
        self.receipt: Receipt | None = None
        self.error: InorderError | None = None
        self._foreign = resume is not None
        self._window = Window(window)
        if resume:
            self._window.resume(resume.held, resume.accepted)
        self._prefix = f"{secrets.token_hex(4)}-" if prefix is None else prefix
        self._count = 0
        self._calls: dict[str, Call] = {}
        self._asks: dict[str, deque[Ask]] = {"status": deque(), "methods": deque(), "ping": deque()}
        self._events: list[Event] = []
        self._control: list[bytes] = []
        self._cancels: dict[str, Call] = {}
        self._mode: Literal["finish", "cancel"] | None = None
        self._welcomed = False
        self._inherited = 0
        self._outcomes: deque[Outcome] = deque()
        self._bye_at = -inf
        self._look_at = inf
        self._blocked = False
        self._ack_every = ACK_EVERY
        self._ack_at: float | None = None

    # ---- what the program wants

    @property
    def state(self) -> State:
        """What to keep in order to come back later."""
        return State(self.session, self._taken(), self._window.accepted)

    @property
    def closing(self) -> bool:
        """Whether the program has said :meth:`close`."""
        return self._mode is not None

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
        self._before_hello = self.phase
        self._enter(Phase.GREETING)
        state = self.state if self.session else None
        self._control.append(encode(credentials.greeting(state, client)))

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
        :meth:`close`, ``ValueError`` for an id that can't be used and for
        params that are nested more than 500 deep, ``TypeError`` for params that are no JSON.
        """
        if self._mode is not None or self.phase >= Phase.CLOSING:
            raise self._over()
        if id is None:
            self._count += 1
            id = f"{self._prefix}{self._count}"
        elif not 1 <= len(id) <= 64 or id[0] == "#":
            raise ValueError("an id has 1 to 64 characters and no # at its start")
        elif id in self._calls:
            raise ValueError(f"the id {id!r} is in use")
        head = encode_given(_Outgoing(method, id, params, timeout))
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
            self._end(call, errors.unsent())
            return True
        call.cancelled_in = self._window.generation
        self._cancels[call.id] = call
        if self.phase in LIVE:
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
        raw = UNSET if data is UNSET else Raw(encode_given(data))
        return self._ask("ping", Ping(data=raw), owner)

    def close(self, mode: Literal["finish", "cancel"] = "finish") -> None:
        """Ends the session: ``bye`` follows what was submitted. Answered by :class:`Ended`.

        ``finish`` waits for the outcomes first, unless the queue is blocked: the server
        forgets them with the session, and a connection may break. With ``cancel`` what was
        not sent yet is refused here (``closing``). Raises the session's error where it is
        over.
        """
        if mode not in ("finish", "cancel"):
            raise ValueError("mode is finish or cancel")
        if not self._welcomed or self._mode is not None or self.phase >= Phase.CLOSING:
            raise self._over()
        self._mode = mode
        self._look_at = -inf
        if self.phase in LIVE:
            self._enter(Phase.CLOSING)
        if mode == "cancel":
            self._refuse_unsent()

    def detach(self) -> None:
        """Leaves the connection, not the session. All open calls end with an error."""
        if self.phase in (Phase.ENDED, Phase.LOST, Phase.DETACHED):
            return
        if self.phase in LIVE and self._taken() > self._window.acked:
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
        if self.phase is Phase.CLOSING:
            looks = not self._window.sent and self._waits_for_outcomes()
            at = self._look_at if looks else self._bye_at
            if isfinite(at):
                times.append(at)
        return min(times, default=None)

    # ---- sending

    def _messages(self, now: float) -> Iterator[bytes]:
        control, self._control = self._control, []
        yield from control
        window = self._window
        if now >= window.paused_until:
            window.paused_until = -inf  # else it would stay the next deadline
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
            if self._mode == "finish" and (window.sent or self._waits_for_outcomes()):
                if not window.sent and (look := self._look(now)):
                    yield look
                return
            if self._taken() > window.acked:
                yield self._acknowledged()
            self._enter(Phase.BYE)
            assert self._mode is not None
            yield encode(Bye(mode=self._mode))

    def _waits_for_outcomes(self) -> bool:
        return bool(self._calls) and not self._blocked

    def _look(self, now: float) -> bytes | None:
        """Asks from time to time whether the queue is blocked: then no outcome will come."""
        if now < self._look_at:
            return None
        first = self._look_at == -inf
        self._look_at = now + (LOOK_FIRST if first else LOOK_EVERY)
        if first:
            return None
        ask = Ask("status", encode(Status()), self)
        self._asks["status"].append(ask)
        return ask.message

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
        if not self._welcomed or self.phase >= Phase.ENDED:
            raise self._over()
        ask = Ask(kind, encode(message), owner)
        self._asks[kind].append(ask)
        if self.phase in LIVE:
            self._control.append(ask.message)
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
        if self._cancels:
            self._cancels.pop(call.id, None)
        self._events.append(CallEnded(call))

    def _refuse_unsent(self) -> None:
        while call := self._window.next():
            refused = errors.Refused("closing", "the session is being closed", accepted=False)
            self._end(call, refused)

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
                if (ask := asks.popleft()).owner is not self:
                    self._events.append(Answered(ask, error(None)))
        if phase is Phase.ENDED:
            assert self.receipt is not None
            self._events.append(Ended(self.receipt))
        else:
            self._events.append(Lost(self.error))

    def _over(self) -> InorderError:
        """Why nothing more is taken."""
        if self.error is None and self._mode is not None:
            return errors.Refused("closing", "the session is being closed", accepted=False)
        if self.error is None:
            return errors.ConnectionLost("connection_lost", "not connected", accepted=False)
        return self.error.about(False)
