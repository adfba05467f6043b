"""Where a session is, as its client knows it, and which moves there are.

    NEW → GREETING → OPEN → (DRAINING →) CLOSING → BYE → ENDED
             ↑___ AWAY ←___|__________________|______|

Besides: GREETING → NEW or AWAY (another try), BYE → CLOSING (another ``bye``), any live one or
GREETING → ENDED (the server ended it), and all but ENDED → LOST or DETACHED.
"""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    """The phases, in the order of a life that goes well. AWAY: between two connections."""

    NEW = 0
    AWAY = 1
    GREETING = 2
    OPEN = 3
    DRAINING = 4
    CLOSING = 5
    BYE = 6
    ENDED = 7
    LOST = 8
    DETACHED = 9


_GONE = (Phase.LOST, Phase.DETACHED)
PHASES: dict[Phase, tuple[Phase, ...]] = {
    Phase.NEW: (Phase.GREETING, Phase.AWAY, *_GONE),
    Phase.AWAY: (Phase.GREETING, *_GONE),
    Phase.GREETING: (Phase.NEW, Phase.AWAY, Phase.OPEN, Phase.ENDED, *_GONE),
    Phase.OPEN: (Phase.DRAINING, Phase.CLOSING, Phase.AWAY, Phase.ENDED, *_GONE),
    Phase.DRAINING: (Phase.CLOSING, Phase.AWAY, Phase.ENDED, *_GONE),
    Phase.CLOSING: (Phase.BYE, Phase.AWAY, Phase.ENDED, *_GONE),
    Phase.BYE: (Phase.CLOSING, Phase.AWAY, Phase.ENDED, *_GONE),
    Phase.ENDED: (),
    Phase.LOST: (),
    Phase.DETACHED: (),
}
NAMES = {
    Phase.DRAINING: "draining",
    Phase.ENDED: "closed",
    Phase.LOST: "lost",
    Phase.DETACHED: "detached",
}
"""What ``on_state`` is told, beside ``connected``, ``reconnecting`` and ``resumed``."""
LIVE = (Phase.OPEN, Phase.DRAINING, Phase.CLOSING, Phase.BYE)
"""The phases in which the server listens to more than ``hello``."""
