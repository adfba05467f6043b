"""Which `accepted` a program is told, and when.

Source: SPEC.md, "accepted": one may stand for all earlier ones, and an outcome for its own. So
only the newest one is kept, and it waits for an outcome that is on its way. The outbox asks for
it when it makes a frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from inorder import codec
from inorder.messages import Accepted

# Seconds (at most twice so many) for which one waits for an outcome that is on its way.
_HOLD = 0.25


class Acceptances:
    """Those of one connection.

    ``put`` takes an encoded one that has to be written where it comes, ``notify`` is called when
    there may be one to :meth:`take`.
    """

    __slots__ = ("_coming", "_each", "_held", "_newest", "_notify", "_put", "_settled", "_timer")

    def __init__(self, put: Callable[[bytes], None], notify: Callable[[], None]) -> None:
        self._put = put
        self._notify = notify
        self._newest: Accepted | None = None
        self._each = False
        self._settled = 0
        self._coming: Callable[[], int] = lambda: 0
        # What the timer that runs was begun for.
        self._held = 0
        self._timer: asyncio.TimerHandle | None = None

    def open(self, coming: Callable[[], int]) -> None:
        """A welcome tells what was accepted so far. ``coming`` says up to which seq there are
        outcomes in the journal's hands at least."""
        self._newest = None
        self._settled = 0
        self._coming = coming

    def add(self, accepted: Accepted, *, by_itself: bool) -> None:
        """``by_itself``: it does not stand for earlier ones, so none after it may overtake it."""
        newest = self._newest
        if by_itself:
            self._each = True
            self.tell()
        if self._each or (newest is not None and newest.seq >= accepted.seq):
            self._put(codec.encode(accepted))
        else:
            self._newest = accepted
            self._notify()

    def settled(self, seq: int) -> None:
        """An outcome waits to be written: it says that all up to it are accepted."""
        self._settled = seq

    def take(self, at_once: bool) -> bytes | None:
        """The one to be written now, if there is any. ``at_once``: it waits for no outcome, which
        it mostly does for no longer than a commit: half of all frames where a client has one
        request under way (a tenth of the time, measured)."""
        newest = self._newest
        if newest is None:
            return None
        if newest.seq <= self._settled:
            self._newest = None
            return None
        if newest.seq <= self._coming() and not at_once:
            if self._timer is None:
                self._held = newest.seq
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(_HOLD, self._hold_no_longer)
            return None
        self._newest = None
        return codec.encode(newest)

    def tell(self) -> None:
        """The one that waits goes before what is put next."""
        newest, self._newest = self._newest, None
        if newest is not None and newest.seq > self._settled:
            self._put(codec.encode(newest))

    def close(self) -> None:
        """None is told any more, and there is no way back to who was told."""
        self._newest = None
        self._put = self._notify = _nobody
        if self._timer is not None:
            self._timer.cancel()

    def _hold_no_longer(self) -> None:
        """Where the store takes its time: what was accepted is told without the outcome."""
        self._timer = None
        if self._held > self._settled:
            self.tell()
        else:
            # What waits now came later.
            self._notify()


def _nobody(*_: object) -> None:
    """Who is told once the connection has ended."""
