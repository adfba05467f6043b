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


class Hold:
    """Those connections of a node that have one held: one timer for all of them."""

    def __init__(self) -> None:
        self._young: dict[Acceptances, None] = {}
        self._old: dict[Acceptances, None] = {}
        self._runs = False

    def add(self, held: Acceptances) -> None:
        """Calls its :meth:`Acceptances.expire` after ``_HOLD``, at the latest after twice that."""
        self._young[held] = None
        if not self._runs:
            self._runs = True
            asyncio.get_running_loop().call_later(_HOLD, self._turn)

    def discard(self, held: Acceptances) -> None:
        self._young.pop(held, None)
        self._old.pop(held, None)

    def _turn(self) -> None:
        expired, self._old, self._young = self._old, self._young, {}
        self._runs = bool(self._old)
        if self._runs:
            asyncio.get_running_loop().call_later(_HOLD, self._turn)
        for held in expired:
            held.expire()


class Acceptances:
    """Those of one connection.

    ``put`` takes an encoded one that has to be written where it comes, ``notify`` is called when
    there may be one to :meth:`take`.
    """

    __slots__ = ("_coming", "_each", "_held", "_hold", "_newest", "_notify", "_put", "_settled")

    def __init__(
        self, put: Callable[[bytes], None], notify: Callable[[], None], hold: Hold
    ) -> None:
        self._put = put
        self._notify = notify
        self._hold = hold
        self._newest: Accepted | None = None
        self._each = False
        self._settled = 0
        self._coming: Callable[[], int] = lambda: 0
        # Which one was the newest when it began to be held, or 0.
        self._held = 0

    def open(self, coming: Callable[[], int]) -> None:
        """A welcome tells what was accepted so far. ``coming`` says up to which seq there are
        outcomes in the journal's hands at least."""
        self._newest = None
        self._settled = 0
        self._coming = coming

    def add(self, accepted: Accepted, *, by_itself: bool, expected: bool = False) -> None:
        """``by_itself``: it does not stand for earlier ones, so none after it may overtake it.
        ``expected``: an outcome is, so it is held unless somebody notifies after all."""
        newest = self._newest
        if by_itself:
            self._each = True
            self.tell()
        if self._each or (newest is not None and newest.seq >= accepted.seq):
            self._put(codec.encode(accepted))
        else:
            self._newest = accepted
            if expected:
                self._keep(accepted.seq)
            else:
                self._notify()

    def settled(self, seq: int) -> None:
        """An outcome waits to be written: it says that all up to it are accepted."""
        self._settled = seq
        if 0 < self._held <= seq:
            self._held = 0
            self._hold.discard(self)

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
            self._keep(newest.seq)
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
        self._hold.discard(self)

    def _keep(self, seq: int) -> None:
        if not self._held:
            self._held = seq
            self._hold.add(self)

    def expire(self) -> None:
        """Where the store takes its time: what was accepted is told without the outcome."""
        self._held = 0
        self.tell()


def _nobody(*_: object) -> None:
    """Who is told once the connection has ended."""
