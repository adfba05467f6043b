"""What a queue is for at the moment, and which change follows which.

Source: design.md section 5, "Disconnect" and "SIGTERM/SIGINT".
"""

from __future__ import annotations

from enum import Enum
from typing import Literal


class Mode(Enum):
    """What the consumer is for. It ends by itself in every mode but RUN."""

    RUN = "run"  # a connection is attached
    FINISH = "finish"  # run what was accepted, then end
    HOLD = "hold"  # end after the running request, keep the rest
    CANCEL = "cancel"  # cancel what is left, then end
    STOP = "stop"  # end at once, keep the rest: the node is going down


# Global names: to look a member up by its class takes ten times as long (Python 3.11).
RUN, FINISH, HOLD, CANCEL, STOP = Mode
IDLE = (HOLD, STOP)
"""What is left is not run."""

NEXT_MODES: dict[Mode, tuple[Mode, ...]] = {
    Mode.RUN: (Mode.FINISH, Mode.HOLD, Mode.CANCEL, Mode.STOP),
    Mode.FINISH: (Mode.RUN, Mode.HOLD, Mode.CANCEL, Mode.STOP),
    Mode.HOLD: (Mode.RUN, Mode.FINISH, Mode.CANCEL, Mode.STOP),
    Mode.CANCEL: (Mode.RUN, Mode.STOP),
    Mode.STOP: (),
}


Word = Literal["retry", "skip"]
"""What an operator says of a head that blocks its queue."""
