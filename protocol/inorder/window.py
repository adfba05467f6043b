"""Numbers: which requests are out, under which seq, and how many more may follow.

No I/O and no clock. The rules are SPEC.md's, section "Numbers": a request is accepted only
under the number it carries; a refused one takes none; then the client goes back once.

    UNSENT → SENT → ACCEPTED → ENDED
       ↑______|

UNSENT and SENT may end at once (refused, cancelled, connection lost), and an UNSENT one turns
out to be ACCEPTED where its id was known to the server from before.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from math import inf
from typing import Any

from .errors import InorderError
from .messages import Limits

RESTART = 32
"""Requests on their way after going back; it doubles with each round of acceptances."""


class Place(IntEnum):
    """Where a request is in its life."""

    UNSENT = 0
    SENT = 1
    ACCEPTED = 2
    ENDED = 3


_MOVES: tuple[tuple[Place, ...], ...] = (
    (Place.SENT, Place.ACCEPTED, Place.ENDED),
    (Place.ACCEPTED, Place.UNSENT, Place.ENDED),
    (Place.ENDED,),
    (),
)


class Call:
    """One request, from ``submit`` to its outcome.

    ``head`` is the encoded message without its seq and closing brace: encoded once, it may be
    sent under several numbers. ``owner`` belongs to whoever submitted it. ``watched`` asks
    for an event when the request is accepted.
    """

    __slots__ = (
        "cancelled_in",
        "error",
        "head",
        "id",
        "owner",
        "place",
        "result",
        "sent_in",
        "seq",
        "watched",
    )

    def __init__(self, id: str, head: bytes, owner: Any = None) -> None:
        self.id = id
        self.head = head
        self.owner = owner
        self.seq = 0
        self.place = Place.UNSENT
        self.watched = False
        self.sent_in = 0
        self.cancelled_in = -1
        self.result: Any = None
        self.error: InorderError | None = None

    def move(self, to: Place) -> None:
        """The only way from place to place."""
        if to not in _MOVES[self.place]:
            raise AssertionError(f"{self.id}: {self.place.name} to {to.name}")
        self.place = to

    def under(self, seq: int) -> bytes:
        """The encoded message under this number."""
        return b'%b,"seq":%d}' % (self.head, seq)


class Window:
    """The requests that are not accepted yet, and the session's numbers.

    ``accepted``: the highest number known to be accepted; ``held``: the highest whose outcome
    is here; ``acked``: the highest that the server was told it may forget.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.burst = size
        self.accepted = 0
        self.held = 0
        self.acked = 0
        self.next_seq = 1
        self.generation = 0
        """How often it went back."""
        self.paused_until = -inf
        self.unsent: deque[Call] = deque()
        self.sent: deque[Call] = deque()
        self._unsettled = size
        self._unacked = 0

    def resume(self, held: int, accepted: int) -> None:
        """Begins with the numbers that an earlier start of the program kept."""
        self.held, self.accepted = held, accepted
        self.next_seq = accepted + 1

    def open(self, limits: Limits, accepted: int, held: int, acked: int) -> list[Call]:
        """A connection stands; the numbers are those of ``welcome``. Returns the watched
        calls that were accepted, as they were sent in order.

        What stays in ``sent`` is to be sent again under its number. It may have been
        accepted meanwhile, so it is not UNSENT.
        """
        self._unsettled = min(self.size, limits.queue)
        self._unacked = limits.unacked
        self.paused_until = -inf
        if self.sent and accepted >= self.next_seq:
            # Somebody else has used the session, and these numbers are not ours.
            self.go_back(self.sent[0], accepted + 1)
        watched = self.accept(accepted)
        self.held, self.acked = held, acked
        self.next_seq = (self.sent[-1].seq if self.sent else accepted) + 1
        self.generation += 1
        for call in self.sent:
            call.sent_in = self.generation
        return watched

    def room(self, now: float) -> int:
        """How many requests may be sent now."""
        if now < self.paused_until:
            return 0
        last = self.next_seq - 1
        return min(
            self.burst - len(self.sent),
            self._unsettled - (last - self.held),
            self._unacked - (last - self.acked),
        )

    def next(self) -> Call | None:
        """The request whose turn it is; what ended while it waited is passed over."""
        unsent = self.unsent
        while unsent:
            if unsent[0].place is Place.UNSENT:
                return unsent[0]
            unsent.popleft()
        return None

    def send(self, call: Call) -> bytes:
        """Gives the call that :meth:`next` named its number; returns the message."""
        self.unsent.popleft()
        call.move(Place.SENT)
        call.seq = self.next_seq
        call.sent_in = self.generation
        self.next_seq += 1
        self.sent.append(call)
        return call.under(call.seq)

    def accept(self, seq: int) -> list[Call]:
        """All up to ``seq`` are accepted. Returns the watched ones among the new."""
        watched = []
        sent = self.sent
        before = len(sent)
        while sent and sent[0].seq <= seq:
            call = sent.popleft()
            call.move(Place.ACCEPTED)
            if call.watched:
                watched.append(call)
        self.accepted = max(self.accepted, seq)
        self.burst = min(self.size, self.burst + before - len(sent))
        return watched

    def go_back(self, to: Call, seq: int | None = None) -> None:
        """From ``to`` on, everything is to be sent again, beginning with number ``seq``
        (default: the number that ``to`` had). Ids are kept."""
        first = to.seq if seq is None else seq
        floor = min(to.seq, first)
        sent, unsent = self.sent, self.unsent
        while sent and sent[-1].seq >= floor:
            call = sent.pop()
            call.move(Place.UNSENT)
            unsent.appendleft(call)
        self.next_seq = first
        self.generation += 1
        self.burst = min(self.size, RESTART)

    def known(self, call: Call, seq: int) -> None:
        """The server has had this id before, as ``seq``: the number it was sent under is free,
        and what was sent behind it was out of order."""
        if call.place is Place.SENT:
            self.go_back(call)
        call.seq = seq
        call.move(Place.ACCEPTED)

    def pause(self, until: float) -> None:
        """Nothing is sent before ``until``."""
        self.paused_until = max(self.paused_until, until)
