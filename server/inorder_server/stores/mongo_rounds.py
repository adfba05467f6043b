"""In which order a group's writes go to MongoDB, decided without it.

A session's writes must take effect in their order, a bulk goes to one collection, and a request
is settled or marked only once it is accepted. So a group goes in rounds, nearly always one:
new sessions; rows inserted, settled and marked; sessions confirmed, attached, acknowledged;
sessions given up. What can't go with what came before it in its session waits for the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .mongo_documents import Found, encode_receipt
from .mongo_owned import Own, Owned
from .port import (
    Acknowledge,
    Attach,
    Create,
    End,
    Insert,
    MarkCancel,
    MarkStart,
    Release,
    Settle,
    Write,
)

Change = Settle | MarkCancel | MarkStart


class Round:
    """What goes together, each with its place in the group."""

    def __init__(self) -> None:
        self.creates: list[tuple[int, Create]] = []
        self.inserts: list[tuple[int, Insert]] = []
        self.changes: list[tuple[int, Change]] = []
        self.attaches: dict[str, tuple[int, Attach]] = {}
        self.acknowledges: dict[str, tuple[int, Acknowledge]] = {}
        self.gives: list[tuple[int, Release | End]] = []


class _Turn:
    """How far a session has come."""

    __slots__ = ("accepted", "fresh", "gave", "round")

    def __init__(self, accepted: int) -> None:
        self.round = 0
        self.accepted = accepted
        # The lowest number that this round inserts.
        self.fresh: float = math.inf
        self.gave = False

    def next_round(self) -> None:
        self.round += 1
        self.fresh = math.inf
        self.gave = False


class Plan:
    """A group's rounds. ``fenced`` has the place of each session's first write that matches
    nothing, as far as that is known here; writes up to ``skip`` are in effect already."""

    def __init__(self, owned: Owned, writes: Sequence[Write], skip: dict[str, int]) -> None:
        self.rounds: list[Round] = []
        self.fenced: dict[str, int] = {}
        self._owned = owned
        self._turns: dict[str, _Turn] = {}
        for i, w in enumerate(writes):
            if w.session in self.fenced or i <= skip.get(w.session, -1):
                continue
            if not self._place(i, w):
                self.fenced[w.session] = i

    def _place(self, i: int, w: Write) -> bool:
        """Puts a write into its round. False where it can't match."""
        own = self._owned.sessions.get(w.session)
        if type(w) is Create:
            if w.node != self._owned.node:
                return False
            if own is None:
                own = self._owned.sessions[w.session] = Own(w.epoch)
        if own is None or own.epoch != w.epoch:
            return False
        turn = self._turns.get(w.session)
        if turn is None:
            turn = self._turns[w.session] = _Turn(own.accepted)
        if turn.gave:
            turn.next_round()
        kind = type(w)
        if kind is Insert:
            assert isinstance(w, Insert)
            return self._insert(i, w, own, turn)
        if kind is Settle or kind is MarkCancel or kind is MarkStart:
            assert isinstance(w, Settle | MarkCancel | MarkStart)
            if w.seq > turn.accepted:
                return False
            if w.seq >= turn.fresh:
                turn.next_round()
            self._round(turn).changes.append((i, w))
        elif kind is Acknowledge:
            assert isinstance(w, Acknowledge)
            # These and attaches go behind what else is in their round: nothing depends on them.
            acknowledges = self._round(turn).acknowledges
            if w.seq > turn.accepted:
                return False
            if w.session not in acknowledges or w.seq > acknowledges[w.session][1].seq:
                acknowledges[w.session] = (i, w)
        elif kind is Attach:
            assert isinstance(w, Attach)
            attaches = self._round(turn).attaches
            if w.session not in attaches or w.attach > attaches[w.session][1].attach:
                attaches[w.session] = (i, w)
        elif kind is Create:
            assert isinstance(w, Create)
            self._round(turn).creates.append((i, w))
        else:
            assert isinstance(w, Release | End)
            self._round(turn).gives.append((i, w))
            turn.gave = True
        return True

    def _insert(self, i: int, w: Insert, own: Own, turn: _Turn) -> bool:
        seq = w.row.seq
        if seq > turn.accepted + 1:
            return False
        if seq <= own.acked:
            return True  # its row may be gone, and must not come back
        turn.accepted = max(turn.accepted, seq)
        turn.fresh = min(turn.fresh, seq)
        self._round(turn).inserts.append((i, w))
        return True

    def _round(self, turn: _Turn) -> Round:
        while len(self.rounds) <= turn.round:
            self.rounds.append(Round())
        return self.rounds[turn.round]


def gave_up(doc: Found, w: Release | End) -> bool:
    """Whether this write is what the session's document shows."""
    if (doc["epoch"], doc["left_ms"], doc["receipt"]) != (
        w.epoch,
        w.at_ms,
        encode_receipt(w.receipt),
    ):
        return False
    if isinstance(w, End):
        return (doc["state"], doc["accepted"]) == ("ended", w.accepted)
    there = (doc["state"], doc["attach"], doc["node"], doc["clean"], doc["open"], doc["held"])
    return there == ("live", w.attach, w.node, w.clean, w.open, w.held)


def given_up_at(doc: Found, writes: Sequence[Write]) -> int | None:
    """Where in the group the write stands that gave the session up.

    A call whose answer was lost is made again; what it did before it gave the session up can
    no longer be looked at, but took effect before it did.
    """
    for i, w in enumerate(writes):
        if w.session == doc["_id"] and isinstance(w, Release | End) and gave_up(doc, w):
            return i
    return None
