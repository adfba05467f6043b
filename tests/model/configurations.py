"""Within which bounds the model is explored: those of every run, and those that take minutes.

Not modelled: P0 (a node may be declared dead at any time, which is what P0 is to prevent),
failover and stale reads, bulks of several sessions, start marks, a P1 that comes when its session
is forgotten, bodies that are too large, rows of a bulk that are inserted in another order than
they stand in. The client hears what is announced at once, or never.

Two filters can be taken away without a promise being broken within the bounds of every run, for
others stand behind them: `an outcome is written once`, `confirm leaves no gap`. So can `end needs
OWN` and `end needs its numbers`, each while the other is there.
"""

from __future__ import annotations

from .checker import Checker, Found
from .moves import moves, start
from .world import Bounds, World

QUICK = {
    "a false lapse": Bounds(requests=2, hellos=1, lapses=1),
    "a false lapse, two at a time": Bounds(
        requests=2, hellos=1, lapses=1, pipeline=2, mixed=True
    ),
    "a false lapse and a late write": Bounds(requests=1, hellos=1, lapses=1, late=1),
    "a false lapse and a crash": Bounds(requests=2, hellos=1, lapses=1, crashes=1),
    "a crash and a late write": Bounds(requests=2, hellos=1, crashes=1, late=1),
    "a hand-over there and back": Bounds(requests=2, hellos=2, sweeps=0),
    "a cancel and an acknowledgement": Bounds(
        requests=2, hellos=1, lapses=1, acks=1, cancels=1
    ),
    "the same, and a late write": Bounds(requests=1, hellos=1, late=1, acks=1, cancels=1),
    "an end, an expiry": Bounds(
        requests=1, hellos=1, lapses=1, leaves=1, bye=True, expiry=True
    ),
    # Rows that are gone, and come again by an insert of a stale owner's that was sent twice.
    "an end, and a late write": Bounds(requests=1, hellos=1, lapses=1, late=1, bye=True),
    "an expiry, and a late write": Bounds(requests=1, hellos=0, lapses=1, late=1, expiry=True),
    "an acknowledgement that removes, and a late write": Bounds(
        requests=1, hellos=1, lapses=1, late=1, acks=1, removes=True
    ),
    "a client that forgets": Bounds(requests=2, hellos=1, lapses=1, forgets=True),
}  # fmt: skip

LONG = {
    "two false lapses": Bounds(requests=1, hellos=2, lapses=2),
    "two requests, a false lapse and a late write": Bounds(
        requests=2, hellos=1, lapses=1, late=1, pipeline=2
    ),
    "two hellos, a false lapse": Bounds(requests=2, hellos=2, lapses=1, forgets=True),
    "three requests": Bounds(requests=3, hellos=1, lapses=1, crashes=1, pipeline=2),
    "two late writes": Bounds(requests=1, hellos=1, crashes=1, late=2, acks=1),
    "an end, a false lapse and two late writes": Bounds(
        requests=1, hellos=1, lapses=1, late=2, bye=True
    ),
    "an acknowledgement that removes, a false lapse and two late writes": Bounds(
        requests=1, hellos=1, lapses=1, late=2, acks=1, removes=True
    ),
    "all at once": Bounds(
        requests=1, hellos=1, lapses=1, crashes=1, late=1, acks=1, cancels=1, leaves=1
    ),
}


def explored(bounds: Bounds) -> Found:
    """What the checker says of the model within these bounds."""
    checker: Checker[World] = Checker(start(bounds), lambda world: moves(world, bounds))
    return checker.run()
