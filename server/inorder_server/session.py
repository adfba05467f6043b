"""The numbers of one session, without I/O: what to accept, what to repeat, what is due.

Source: SPEC.md, "Numbers" and "Resume". Three numbers say where a session stands: ``accepted``
(highest seq that is durable), ``settled`` (highest with an outcome) and ``acked``; ``last`` is
the highest that was given out and may still be on its way to the journal. Outcomes come in seq
order, so everything else is arithmetic on them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import islice
from typing import Any, NamedTuple

from msgspec import Struct

from inorder.messages import RequestLine

from .stores.port import Claimed, Damaged, Ending, Outcome, RequestRow


class Stage(IntEnum):
    """Where a request stands. A table below says which moves are allowed."""

    COMMITTING = 0  # given a number, not yet durable
    WAITING = 1  # accepted
    RUNNING = 2  # at the head, its handler was started (or is about to be)
    SETTLING = 3  # its outcome is on its way to the journal
    SETTLED = 4  # its outcome is durable


# Global names: to look a member up by its class takes ten times as long (Python 3.11).
COMMITTING, WAITING, RUNNING, SETTLING, SETTLED = Stage

_MOVES: dict[Stage, tuple[Stage, ...]] = {
    Stage.COMMITTING: (Stage.WAITING,),
    # A cancelled request settles without ever running.
    Stage.WAITING: (Stage.RUNNING, Stage.SETTLING),
    # Parked: the head of a queue that was blocked when its connection went waits again.
    Stage.RUNNING: (Stage.SETTLING, Stage.WAITING),
    Stage.SETTLING: (Stage.SETTLED,),
    Stage.SETTLED: (),
}


class Entry(Struct, eq=False, gc=False):
    """A request of this session. ``params`` is dropped once it is settled.

    ``attempt`` counts its durable start marks, ``tries`` the attempts of this process;
    ``due`` is when the next may begin, by the monotonic clock, or infinity: on an operator's
    word.
    ``loaded``: it came from the store; ``suspect``: it may have been running when the last
    owner died. ``numbered``: it carried its seq, so a later ``accepted`` covers it.
    ``since`` is when it was taken, by the monotonic clock; 0 where it was loaded.
    ``free``: it may start, and run again, while outcomes before it are not durable yet.
    """

    seq: int
    id: str
    digest: bytes
    method: str
    params: bytes | None
    timeout: float | None
    traceparent: str | None
    since: float
    numbered: bool = False
    free: bool = False
    stage: Stage = Stage.COMMITTING
    attempt: int = 0
    tries: int = 0
    due: float = 0.0
    loaded: bool = False
    suspect: bool = False
    skip: bool = False
    cancel_asked: bool = False
    ending: Ending | None = None

    def move(self, stage: Stage) -> None:
        """The one setter of the stage. Raises :class:`ValueError` for a move not allowed."""
        if stage not in _MOVES[self.stage]:
            raise ValueError(f"request {self.seq}: {self.stage.name} to {stage.name}")
        self.stage = stage


class Refused(NamedTuple):
    """A refusal: an error code, words, ``after`` seconds where waiting helps, details."""

    code: str
    message: str
    after: float | None = None
    details: dict[str, Any] | None = None


class Silent:
    """Refused without an answer of its own: another refusal said it (SPEC.md, "Numbers")."""


SILENT = Silent()


class Counts(NamedTuple):
    """The queue's own counting for a receipt; the journal's is a ``Tally``."""

    accepted: int
    done: int
    failed: int
    cancelled: int
    pending: int


class Session:
    """One session's numbers and its requests, from the oldest that is remembered.

    ``queue_limit`` bounds unsettled requests, ``unacked_limit`` those whose outcomes are
    kept; ``rate`` is requests a second, 0 for none. Acknowledged ids are remembered for
    ``queue_limit`` further numbers, so that a late repeat is told so.
    """

    def __init__(
        self,
        id: str,
        user: str,
        *,
        queue_limit: int,
        unacked_limit: int,
        rate: float = 0,
    ) -> None:
        self.id = id
        self.user = user
        self.queue_limit = queue_limit
        self.unacked_limit = unacked_limit
        self.epoch = 1
        self.attach = 1
        self.has_row = False
        self.last = 0
        self.accepted = 0
        self.settled = 0
        self.acked = 0
        self.tally: dict[Ending, int] = {"done": 0, "failed": 0, "cancelled": 0}
        self.unsettled: deque[Entry] = deque()
        self.settling = 0
        """How many at the front of ``unsettled`` have an outcome on its way to the journal."""
        self._retained: deque[Entry] = deque()
        self._by_id: dict[str, Entry] = {}
        self.known = self._by_id.get
        """The request that bears this id, if it is still remembered."""
        self._gap = False
        self._rate = rate
        self._tokens = max(rate, 1.0)
        self._refilled: float | None = None

    # ---- what to accept

    def out_of_step(self, seq: int) -> Refused | Silent | None:
        """Whether a request that carries ``seq``, with an id not known, must be refused."""
        expected = self.last + 1
        if seq == expected:
            return None
        if seq <= self.acked:
            return Refused(
                "already_acknowledged", f"outcome {seq} was acknowledged", None, {"seq": seq}
            )
        if self._gap:
            return SILENT
        self._gap = True
        return Refused(
            "out_of_order", f"expected seq {expected}, got {seq}", 0, {"expected": expected}
        )

    def room(self, now: float) -> Refused | None:
        """Whether one more request fits the session's bounds. Takes a token of its rate."""
        if self.last - self.settled >= self.queue_limit:
            return Refused("queue_full", f"{self.queue_limit} requests are waiting or running", 1.0)
        if self.last - self.acked >= self.unacked_limit:
            return Refused("queue_full", f"{self.unacked_limit} outcomes are not acknowledged", 1.0)
        if self._rate:
            if self._refilled is not None:
                self._tokens = min(
                    max(self._rate, 1.0), self._tokens + (now - self._refilled) * self._rate
                )
            self._refilled = now
            # Who waited as long as told has a token, whatever the rounding took.
            if self._tokens < 1 - 1e-6:
                wait = (1 - self._tokens) / self._rate
                return Refused("rate_limited", f"{self._rate:g} requests a second", wait)
            self._tokens -= 1
        return None

    def close_gap(self) -> None:
        """A new connection begins without a gap."""
        self._gap = False

    def open_gap(self) -> None:
        """After a refusal of a numbered request, what is numbered behind it is silent."""
        self._gap = True

    def take(
        self,
        id: str | None,
        digest: bytes,
        method: str,
        params: bytes | None,
        timeout: float | None,
        traceparent: str | None,
        now: float,
        *,
        numbered: bool = False,
        free: bool = False,
    ) -> Entry:
        """Gives the request the next number. It is accepted once :meth:`confirm` is told."""
        seq = self.last + 1
        if id is None:
            id = f"#{seq}"
        entry = Entry(seq, id, digest, method, params, timeout, traceparent, now, numbered, free)
        self.add({id: entry})
        return entry

    def spare(self) -> int:
        """How many more requests :meth:`room` lets in for certain."""
        if self._rate:
            return 0
        return min(
            self.queue_limit - self.last + self.settled, self.unacked_limit - self.last + self.acked
        )

    def add(self, entries: dict[str, Entry]) -> None:
        """Takes requests with the next numbers, by their ids."""
        self.last += len(entries)
        self._gap = False
        self._by_id.update(entries)
        self._retained.extend(entries.values())
        self.unsettled.extend(entries.values())

    def confirm(self, entries: Sequence[Entry]) -> None:
        """These requests are durable: they count from now on."""
        for entry in entries:
            if entry.stage is not COMMITTING:
                entry.move(WAITING)
            entry.stage = WAITING
        self.accepted = entries[-1].seq

    # ---- what is due

    def head(self) -> Entry | None:
        """The lowest unsettled request, once it is accepted."""
        if self.unsettled and self.unsettled[0].stage is not Stage.COMMITTING:
            return self.unsettled[0]
        return None

    def next(self) -> Entry | None:
        """The lowest request that has no outcome yet, once it is accepted."""
        if len(self.unsettled) > self.settling:
            entry = self.unsettled[self.settling]
            if entry.stage is not COMMITTING:
                return entry
        return None

    @property
    def in_flight(self) -> int:
        """How many requests have a number but are not durable yet."""
        return self.last - self.accepted

    def following(self, most: int) -> list[Entry]:
        """The :meth:`next` request and those behind it, at most so many."""
        return list(islice(self.unsettled, self.settling, self.settling + most))

    def hand_over(self, outcomes: Sequence[Outcome]) -> None:
        """The outcomes of the :meth:`next` requests go to the journal."""
        start = self.settling
        for entry, outcome in zip(islice(self.unsettled, start, None), outcomes, strict=False):
            if entry.seq != outcome.seq:
                raise ValueError(f"request {outcome.seq} has an outcome out of its turn")
            if entry.stage is RUNNING:
                entry.stage = SETTLING
            else:
                entry.move(SETTLING)
            self.settling += 1
        if self.settling != start + len(outcomes):
            raise ValueError(f"request {outcomes[-1].seq} has an outcome out of its turn")

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """The outcomes of the lowest unsettled requests are durable."""
        unsettled = self.unsettled
        for outcome in outcomes:
            entry = unsettled[0]
            if entry.seq != outcome.seq:
                raise ValueError(f"request {outcome.seq} settled before {entry.seq}")
            if entry.stage is not SETTLING:
                entry.move(SETTLED)
            entry.stage = SETTLED
            entry.ending = outcome.ending
            entry.params = None
            unsettled.popleft()
        for ending, count in counted(outcomes):
            self.tally[ending] += count
        self.settling -= len(outcomes)
        self.settled = outcomes[-1].seq

    def acknowledge(self, seq: int) -> bool:
        """Outcomes up to ``seq`` are held by the client. False where that is no news."""
        upto = min(seq, self.settled)
        if upto <= self.acked:
            return False
        self.acked = upto
        self._forget()
        return True

    def _forget(self) -> None:
        retained, by_id, last = self._retained, self._by_id, self.acked - self.queue_limit
        while retained and retained[0].seq <= last:
            del by_id[retained.popleft().id]

    def cancellable(self, id: str) -> Entry | None:
        """The request that bears this id, if its outcome is still open."""
        entry = self._by_id.get(id)
        return entry if entry is not None and entry.stage < Stage.SETTLING else None

    # ---- what it says of itself

    def lines(self, start: int, most: int) -> list[RequestLine]:
        """Up to ``most`` requests from seq ``start`` on that are not acknowledged."""
        return [
            RequestLine(entry.id, entry.seq, entry.method, _state(entry))
            for entry in islice(self._from(start), most)
        ]

    def _from(self, start: int) -> Iterator[Entry]:
        start = max(start, self.acked + 1)
        for entry in self._retained:
            if entry.seq >= start and entry.stage is not Stage.COMMITTING:
                yield entry

    def counts(self) -> Counts:
        """The queue's own counting. ``pending`` is counted, not computed."""
        pending = sum(1 for entry in self.unsettled if entry.stage is not Stage.COMMITTING)
        return Counts(self.accepted, **self.tally, pending=pending)

    # ---- where it comes from

    def load(self, claimed: Claimed) -> None:
        """Takes up a session that was just claimed from the store.

        Raises :class:`Damaged` where a request in (acked, accepted] has no row.
        """
        row = claimed.session
        self.has_row = True
        self.epoch, self.attach = row.epoch, row.attach
        self.last = self.accepted = row.accepted
        self.acked = self.settled = row.acked
        self.tally = {"done": row.done, "failed": row.failed, "cancelled": row.cancelled}
        expected = row.acked + 1
        for stored in claimed.rows:
            if stored.seq > row.acked:
                if stored.seq != expected:
                    raise Damaged(f"request {expected} of session {self.id} has no row")
                expected += 1
            self._restore(stored)
        if expected != row.accepted + 1:
            raise Damaged(f"request {expected} of session {self.id} has no row")
        if self.unsettled and not claimed.was_clean:
            # Only the head can have run when the last owner died.
            self.unsettled[0].suspect = True

    def _restore(self, stored: RequestRow) -> None:
        entry = Entry(
            stored.seq,
            stored.id,
            stored.digest,
            stored.method,
            stored.params,
            stored.timeout,
            stored.traceparent,
            0.0,
        )
        entry.attempt = stored.attempt
        entry.cancel_asked = stored.cancel
        self._by_id[entry.id] = entry
        self._retained.append(entry)
        if stored.stripped or stored.seq <= self.acked:
            entry.stage = Stage.SETTLED
        elif stored.ending is not None:
            if self.unsettled:
                raise Damaged(f"request {stored.seq} of session {self.id} has an outcome too early")
            entry.stage = Stage.SETTLED
            entry.ending = stored.ending
            self.settled = stored.seq
            self.tally[stored.ending] += 1
        else:
            entry.stage = Stage.WAITING
            entry.loaded = True
            self.unsettled.append(entry)


def counted(outcomes: Sequence[Outcome]) -> list[tuple[Ending, int]]:
    """How many ended in each way that there is among them."""
    endings = [outcome.ending for outcome in outcomes]
    return [(ending, endings.count(ending)) for ending in set(endings)]


def _state(entry: Entry) -> str:
    if entry.ending is not None:
        return entry.ending
    if entry.cancel_asked:
        return "cancelling"
    return "running" if entry.stage in (Stage.RUNNING, Stage.SETTLING) else "waiting"
