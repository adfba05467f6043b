"""Where a session is, as its client knows it, and which moves there are.

    NEW → GREETING → OPEN → (DRAINING →) CLOSING → BYE → ENDED

Besides: GREETING → NEW (another try), BYE → CLOSING (another ``bye``), any live one → ENDED
(the server ended it), and all but ENDED → LOST or DETACHED.
"""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    """The phases, in the order of a life that goes well."""

    NEW = 0
    GREETING = 1
    OPEN = 2
    DRAINING = 3
    CLOSING = 4
    BYE = 5
    ENDED = 6
    LOST = 7
    DETACHED = 8


_GONE = (Phase.LOST, Phase.DETACHED)
PHASES: dict[Phase, tuple[Phase, ...]] = {
    Phase.NEW: (Phase.GREETING, *_GONE),
    Phase.GREETING: (Phase.NEW, Phase.OPEN, *_GONE),
    Phase.OPEN: (Phase.DRAINING, Phase.CLOSING, Phase.ENDED, *_GONE),
    Phase.DRAINING: (Phase.CLOSING, Phase.ENDED, *_GONE),
    Phase.CLOSING: (Phase.BYE, Phase.ENDED, *_GONE),
    Phase.BYE: (Phase.CLOSING, Phase.ENDED, *_GONE),
    Phase.ENDED: (),
    Phase.LOST: (),
    Phase.DETACHED: (),
}
NAMES = {
    Phase.OPEN: "connected",
    Phase.DRAINING: "draining",
    Phase.ENDED: "closed",
    Phase.LOST: "lost",
    Phase.DETACHED: "detached",
}
"""What ``on_state`` is told."""
LIVE = (Phase.OPEN, Phase.DRAINING, Phase.CLOSING, Phase.BYE)
"""The phases in which the server listens to more than ``hello``."""
