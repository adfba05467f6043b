"""What the client's core has to tell its shell, pulled with ``Core.events()``."""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct

from .errors import InorderError
from .messages import Receipt
from .window import Call


class Ask:
    """A question that is answered in turn: ``status``, ``methods`` or ``ping``.

    ``message`` is its encoding: what a lost connection left unanswered is asked again.
    """

    __slots__ = ("kind", "message", "owner")

    def __init__(self, kind: str, message: bytes, owner: Any = None) -> None:
        self.kind = kind
        self.message = message
        self.owner = owner


class Opened(Struct):
    """``welcome`` came: the session stands."""


class LoginRefused(Struct):
    """The server did not let us in; the socket is still open for another try."""

    error: InorderError


class CallAccepted(Struct):
    """A watched call is durable under its seq."""

    call: Call


class CallProgress(Struct):
    """A call that runs tells how far it is (encoded JSON)."""

    call: Call
    value: Raw


class CallEnded(Struct):
    """A call has its result, or its error."""

    call: Call


class Outcome(Struct, frozen=True):
    """How a request ended that an earlier start of this program had sent."""

    id: str
    seq: int
    result: Any = None
    error: InorderError | None = None


class OutcomeCame(Struct):
    """There is an :class:`Outcome` for ``Core.next_outcome()``."""


class CancelAnswered(Struct):
    """``answer``: is the call being cancelled, or why that can't be said."""

    call: Call
    answer: bool | InorderError


class Answered(Struct):
    """The answer to a question, or why there is none."""

    ask: Ask
    answer: Any


class StateChanged(Struct):
    """The session's state, as a word for ``on_state``."""

    name: str


class Ended(Struct):
    """The session ended with this receipt; the socket can be closed."""

    receipt: Receipt


class Dropped(Struct):
    """The connection is of no more use, and another is wanted when ``Core.due`` says so."""

    error: InorderError


class Lost(Struct):
    """The session is over here: close the socket, if it is still open."""

    error: InorderError


Event = (
    Opened
    | LoginRefused
    | CallAccepted
    | CallProgress
    | CallEnded
    | OutcomeCame
    | CancelAnswered
    | Answered
    | StateChanged
    | Ended
    | Dropped
    | Lost
)
