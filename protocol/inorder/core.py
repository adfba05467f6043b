"""The client's core: everything it decides, without I/O.

A shell gives it frames with :meth:`Core.receive`, and then asks for :meth:`Core.events`,
:meth:`Core.frames_to_send` and :meth:`Core.next_deadline`, in this order: taking the events
is what allows their outcomes to be acknowledged. ``now`` is any monotonic clock in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET

from . import errors
from .codec import Malformed, decode_server
from .events import (
    Answered,
    CallAccepted,
    CallProgress,
    CancelAnswered,
    LoginRefused,
    Outcome,
    OutcomeCame,
)
from .messages import (
    Accepted,
    ByeReceipt,
    Cancelling,
    Draining,
    Error,
    MethodsReport,
    Pong,
    Progress,
    Result,
    StatusReport,
    Token,
    Welcome,
)
from .phases import Phase
from .returning import Returning
from .sending import ACK_AFTER
from .window import Call, Place

WAIT = 1.0
"""Seconds to wait after a retryable refusal that names no ``after``."""

_decode = msgspec.json.decode


class Core(Returning):
    """One session's client side: :class:`Sending`, :class:`Returning`, and what the server
    says to it."""

    def receive(self, frame: str | bytes, now: float) -> None:
        """Takes a frame of the server. Never raises for what the frame holds."""
        if not self._listens():
            return
        try:
            messages = decode_server(frame)
        except Malformed as exc:
            self._break(f"the server's frame can't be read: {exc}", now)
            return
        for message in messages:
            if (on := self._ON.get(type(message))) and self._listens():
                on(self, message, now)

    def _listens(self) -> bool:
        return Phase.AWAY < self.phase < Phase.ENDED

    def _on_welcome(self, welcome: Welcome, now: float) -> None:
        if self.phase is Phase.GREETING:
            self._welcome(welcome, now)
        else:
            self._break("a second welcome", now)

    def _on_accepted(self, message: Accepted, now: float) -> None:
        call = self._calls.get(message.id)
        seq = message.seq
        if call and call.seq != seq and call.place <= Place.SENT:
            self._window.known(call, seq)
            if call.watched:
                self._events.append(CallAccepted(call))
        else:
            self._accept(seq, now)

    def _accept(self, seq: int, now: float) -> bool:
        window = self._window
        if seq >= window.next_seq:
            self._break(f"the server accepted {seq}, which was not sent", now)
            return False
        if seq > window.accepted:
            for call in window.accept(seq):
                self._events.append(CallAccepted(call))
        return True

    def _on_progress(self, message: Progress, now: float) -> None:
        if call := self._calls.get(message.id):
            self._events.append(CallProgress(call, message.progress))

    def _on_result(self, message: Result, now: float) -> None:
        if self._settle(message.id, message.seq, now):
            result = _decode(message.result)
            if call := self._calls.get(message.id):
                call.result = result
                self._end(call, None)
            else:
                self._keep(Outcome(message.id, message.seq, result))

    def _keep(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._events.append(OutcomeCame())

    def _settle(self, id: str, seq: int, now: float) -> bool:
        """An outcome came. Returns whether it is news."""
        window = self._window
        call = self._calls.get(id)
        if call and call.seq != seq and call.place <= Place.SENT:
            window.known(call, seq)
        if seq <= window.held:
            return call is not None
        if seq != window.held + 1:
            self._break(f"after outcome {window.held} came {seq}", now)
            return False
        if call is None and seq > self._inherited:
            self._break(f"outcome {seq} is for an id that was not sent", now)
            return False
        if not self._accept(seq, now):
            return False
        window.held = seq
        if self._ack_at is None:
            self._ack_at = now + ACK_AFTER
        return True

    def _on_error(self, error: Error, now: float) -> None:
        of = error.of
        if of is None and error.id is not None and error.seq is not None:
            if self._settle(error.id, error.seq, now):
                if call := self._calls.get(error.id):
                    self._end(call, errors.outcome(error))
                else:
                    self._keep(Outcome(error.id, error.seq, error=errors.outcome(error)))
        elif of == "request" and error.id is not None:
            if call := self._calls.get(error.id):
                self._refused(call, error, now)
        elif of == "cancel":
            if call := self._calls.get(error.id or ""):
                self._not_cancelled(call, error)
        elif of in ("hello", "register") and self.phase is Phase.GREETING:
            self._enter(self._before_hello)
            self._events.append(LoginRefused(errors.login(error)))
        elif of in self._asks:
            self._answer(of, errors.refusal(error))
        elif of == "bye" and error.retry and self.phase is Phase.BYE:
            self._enter(Phase.CLOSING)
            self._bye_at = now + _wait(error)
        else:
            # It answers something of ours, and what that was can't be known.
            self._break(error.message, now, error.code)

    def _refused(self, call: Call, error: Error, now: float) -> None:
        """Goes back once (SPEC.md, "Numbers")."""
        window = self._window
        details = error.details if isinstance(error.details, dict) else {}
        if not error.retry:
            # True of this id whenever it was said, also of an earlier sending.
            if call.place is Place.SENT:
                window.go_back(call)
            self._end(call, errors.refusal(error, accepted=_was_accepted(call, error, details)))
        elif call.place is not Place.SENT or details.get("seq", call.seq) != call.seq:
            return  # of an earlier sending: it has gone back since
        elif error.code == "out_of_order":
            expected = details.get("expected", call.seq)
            if not isinstance(expected, int) or expected <= window.accepted:
                if "seq" in details:  # without it this may be the echo of an old gap
                    said = f"the server expects {expected!r} after {window.accepted}"
                    self._break(said, now)
                return
            # Numbers that were not given here belong to requests of somebody else's.
            if expected > window.next_seq:
                self._inherited = expected - 1
            window.go_back(call, expected)
            window.pause(now + (error.after or 0.0))
        else:
            window.go_back(call)
            window.pause(inf if error.code == "draining" else now + _wait(error))
        if self.phase is Phase.BYE:
            self._refuse_unsent()

    def _not_cancelled(self, call: Call, error: Error) -> None:
        if error.code != "not_found":
            self._cancels.pop(call.id, None)
            self._events.append(CancelAnswered(call, errors.refusal(error)))
        elif call.place is Place.UNSENT:
            # The server had refused it, and now it need not be sent again.
            self._end(call, errors.unsent())
            self._events.append(CancelAnswered(call, True))
        elif call.sent_in > call.cancelled_in:
            self.cancel(call)
        else:
            self._cancels.pop(call.id, None)
            self._events.append(CancelAnswered(call, False))

    def _on_cancelling(self, message: Cancelling, now: float) -> None:
        if call := self._calls.get(message.id):
            self._cancels.pop(call.id, None)
            self._events.append(CancelAnswered(call, True))

    def _on_status(self, message: StatusReport, now: float) -> None:
        self._answer("status", message)

    def _on_methods(self, message: MethodsReport, now: float) -> None:
        self._answer("methods", message.methods)

    def _on_pong(self, message: Pong, now: float) -> None:
        self._answer("ping", None if message.data is UNSET else _decode(message.data))

    def _answer(self, kind: str, answer: Any) -> None:
        if not (asks := self._asks[kind]):
            return
        self._mark = None
        if (ask := asks.popleft()).owner is not self:
            self._events.append(Answered(ask, answer))
        elif isinstance(answer, StatusReport):
            blocked = answer.blocked
            self._blocked = blocked is not None and blocked.next_retry_s is None

    def _on_token(self, message: Token, now: float) -> None:
        self.token = message.token

    def _on_draining(self, message: Draining, now: float) -> None:
        self._window.pause(inf)
        if self.phase is Phase.OPEN:
            self._enter(Phase.DRAINING)

    def _on_bye(self, message: ByeReceipt, now: float) -> None:
        receipt = message.receipt
        self._window.accept(min(receipt.accepted, self._window.next_seq - 1))
        if self.phase is Phase.GREETING and self._mode is None:
            # Somebody else has ended it.
            self._fail(Phase.LOST, lambda accepted: errors.ended(receipt, accepted))
            return
        self.receipt = receipt
        self._fail(Phase.ENDED, lambda accepted: errors.ended(receipt, accepted is True))

    _ON: ClassVar[dict[type, Callable[[Core, Any, float], None]]] = {
        Welcome: _on_welcome,
        Accepted: _on_accepted,
        Progress: _on_progress,
        Result: _on_result,
        Error: _on_error,
        Cancelling: _on_cancelling,
        StatusReport: _on_status,
        MethodsReport: _on_methods,
        Pong: _on_pong,
        Token: _on_token,
        Draining: _on_draining,
        ByeReceipt: _on_bye,
    }


def _was_accepted(call: Call, error: Error, details: dict[str, Any]) -> bool | None:
    """Of a request that is refused for good: whether it had been accepted before."""
    if error.code != "already_acknowledged":
        return False
    # With its own number: the server does not remember the id.
    return True if details.get("seq", call.seq) != call.seq else None


def _wait(error: Error) -> float:
    return WAIT if error.after is None else error.after
