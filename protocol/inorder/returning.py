"""The client's core, second part: what a lost connection means, and how one comes back.

Source: SPEC.md, "Resume". Callers see nothing of it but the time it takes: what was accepted
is the server's to finish, the rest is sent again under the same ids and numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import inf

from . import errors, retry
from .codec import encode
from .codes import CloseCode
from .credentials import State
from .errors import ConnectionLost, InorderError, SessionGone
from .events import CallAccepted, CancelAnswered, Dropped, Opened, StateChanged
from .messages import Cancel, Welcome
from .phases import LIVE, Phase
from .retry import Backoff, Verdict
from .sending import ACK_AFTER, ACK_EVERY, LIMITS, Sending
from .window import Place

STEADY = 5.0
"""Seconds after which a connection counts as good even if nothing was done on it."""
LATE = 60.0
"""Seconds for which a ``hello`` that was not answered may still be read by the server."""


class Returning(Sending):
    """``give_up_after``: seconds without a connection until the session is lost; 0: at the
    first failure, None: never. ``backoff`` yields the seconds between attempts."""

    def __init__(
        self,
        window: int = 256,
        resume: State | None = None,
        prefix: str | None = None,
        *,
        give_up_after: float | None = 0.0,
        backoff: Backoff = retry.backoff,
    ) -> None:
        super().__init__(window, resume, prefix)
        self._patience = inf if give_up_after is None else give_up_after
        self._backoff = backoff
        self._delays: Iterator[float] = backoff()
        self._retry_at = inf
        self._last: InorderError | None = None
        self._out_since = -inf
        self._give_up_at = -inf
        self._welcomed_at = 0.0
        self._mark: tuple[int, int] | None = None
        self._repeats = False
        # When attempts were given up whose hello, with a session, was not answered.
        self._unanswered: deque[float] = deque()

    # ---- what the shell does

    def begin(self, now: float, patience: float = 0.0) -> None:
        """Before the first connection: for how many seconds it may be tried again."""
        self._out_since, self._give_up_at = now, now + patience

    def due(self, now: float) -> bool:
        """Whether a connection is to be opened now. Past the deadline it gives up."""
        if self.phase is not Phase.AWAY:
            return self.phase is Phase.NEW
        if now >= self._give_up_at:
            assert self._last is not None
            self._forget(self._gave_up(self._last, now))
            return False
        return now >= self._retry_at

    def time_left(self, now: float) -> float:
        """How many seconds an attempt that is begun now may take."""
        return self._give_up_at - now if self.phase is Phase.AWAY else inf

    def next_deadline(self) -> float | None:
        """While away: when to ask :meth:`due`; else as :class:`Sending` has it."""
        if self.phase is Phase.AWAY:
            return min(self._retry_at, self._give_up_at)
        return super().next_deadline()

    def connect_failed(self, error: InorderError, now: float) -> None:
        """An attempt came to nothing: no socket, no ``welcome`` in time, or a login refused
        for good."""
        if self.phase < Phase.OPEN:
            self._lose(error, now)

    def connection_lost(self, close_code: int, reason: str, now: float) -> None:
        """The socket has closed (1006: without a close frame)."""
        if Phase.AWAY < self.phase < Phase.ENDED:
            self._lose(errors.closed(close_code, reason), now)

    # ---- losing

    def _break(self, message: str, now: float, code: str = "protocol_error") -> None:
        """The connection can't be trusted any more."""
        self._lose(ConnectionLost(code, message, retry=True), now, broken=True)

    def _lose(self, error: InorderError, now: float, *, broken: bool = False) -> None:
        """The connection is of no more use: come back, or stop."""
        again = self._patience > 0
        if self.phase in LIVE:
            self._note_outage(now, broken)
        late = self._may_be_late(error, now)
        if again and isinstance(error, SessionGone) and self._nothing_at_stake():
            # The server keeps no session that accepted nothing: another is as good.
            self.session = ""
            delay = 0.0
        elif retry.judge(error, by_a_late_hello=late) is not Verdict.COME_BACK:
            return self._forget(error)
        elif now < self._give_up_at:
            delay = next(self._delays, retry.MOST) + (error.after or 0.0)
        else:
            tried = self._give_up_at > self._out_since
            return self._forget(self._gave_up(error, now) if tried else error)
        if self.phase in LIVE:
            self._events.append(StateChanged("reconnecting"))
        self._last = error
        self._control.clear()
        self._retry_at = now + delay
        if self.phase is not Phase.AWAY:
            self._enter(Phase.AWAY)
        self._events.append(Dropped(error))
        return None

    def _may_be_late(self, error: InorderError, now: float) -> bool:
        """Whether a hello of our own may have replaced us: each that was not answered does it
        once at most."""
        unanswered = self._unanswered
        while unanswered and now - unanswered[0] > LATE:
            unanswered.popleft()
        if getattr(error, "close_code", None) == CloseCode.REPLACED:
            if unanswered:
                unanswered.popleft()
                return True
        elif self.phase is Phase.GREETING and self.session:
            unanswered.append(now)
        return False

    def _gave_up(self, error: InorderError, now: float) -> InorderError:
        return errors.gave_up(error, now - self._out_since)

    def _note_outage(self, now: float, broken: bool) -> None:
        """Begins an outage; or goes on with the last one, where coming back has not helped."""
        window = self._window
        helped = self._mark != (window.held, window.accepted)
        if helped or now - self._welcomed_at >= STEADY:
            self._delays = self._backoff()
            self._repeats = False
        elif broken and self._repeats:
            return  # a server that breaks the rules each time: this must end
        self._repeats = broken
        self._out_since, self._give_up_at = now, now + self._patience

    def _nothing_at_stake(self) -> bool:
        """Whether nothing was accepted, or may have been. The numbers that a program kept
        say nothing of what it had sent besides."""
        return not (self._foreign or self._window.accepted or self._window.sent)

    def _forget(self, error: InorderError) -> None:
        self._fail(Phase.LOST, error.about)

    # ---- coming back

    def _welcome(self, welcome: Welcome, now: float) -> None:
        """``welcome``'s arithmetic: what is accepted, what is here, what to send again."""
        window = self._window
        if self.session and not (welcome.resumed and welcome.session == self.session):
            said = "the server has started another session"
            return self._forget(SessionGone("session_gone", said))
        if welcome.settled < window.held or welcome.accepted < window.accepted:
            said = "the server has less than it had promised"
            return self._forget(errors.HistoryLost("history_lost", said))
        first = not self._welcomed
        self._welcomed, self._welcomed_at = True, now
        self.session, self.user = welcome.session, welcome.user
        self.token = welcome.token or self.token
        self.limits = welcome.limits or LIMITS
        self._ack_every = max(1, min(ACK_EVERY, self.limits.unacked // 2))
        if first or welcome.accepted >= window.next_seq:
            self._inherited = welcome.accepted
        # What was acknowledged elsewhere does not come again.
        held = max(window.held, welcome.acked)
        forgotten = held > window.held
        watched = window.open(self.limits, welcome.accepted, held, welcome.acked)
        self._mark = (window.held, window.accepted)
        self._events += map(CallAccepted, watched)
        if forgotten:
            self._end_forgotten(held)
        self._ack_at = now + ACK_AFTER if held > window.acked else None
        self._enter(Phase.OPEN)
        name = "connected" if first or not welcome.resumed else "resumed"
        self._events += (StateChanged(name), Opened())
        self._send_again()
        if self._mode is not None:
            self._close_again()
        return None

    def _end_forgotten(self, held: int) -> None:
        for call in list(self._calls.values()):
            if call.place is Place.ACCEPTED and call.seq <= held:
                self._end(call, errors.forgotten())

    def _send_again(self) -> None:
        """What was not answered: requests, then cancels, then questions."""
        control = self._control
        control += [call.under(call.seq) for call in self._window.sent]
        for call in list(self._cancels.values()):
            if call.place is Place.UNSENT:
                # It was refused meanwhile, and now it need not be sent again.
                self._end(call, errors.unsent())
                self._events.append(CancelAnswered(call, True))
            else:
                call.cancelled_in = self._window.generation
                control.append(encode(Cancel(id=call.id)))
        for asks in self._asks.values():
            for ask in [ask for ask in asks if ask.owner is self]:
                asks.remove(ask)
            control += [ask.message for ask in asks]

    def _close_again(self) -> None:
        """The program has said :meth:`close`: go on with it."""
        self._enter(Phase.CLOSING)
        self._bye_at = self._look_at = -inf
        self._blocked = False
        if self._mode == "cancel":
            self._refuse_unsent()
