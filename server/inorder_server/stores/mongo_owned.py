"""What a node's adapter remembers of the sessions that it owns."""

from __future__ import annotations


class Own:
    """A session under its epoch.

    ``loaded`` is what was accepted when it was claimed: rows up to there bear the stamp's try.
    ``accepted`` and ``acked`` are what this node has been told is durable, never more.
    ``swept`` is up to where its stripped rows are known to be gone. ``unsure``: it may have
    been given up by a write whose answer was lost.
    """

    __slots__ = ("accepted", "acked", "epoch", "loaded", "swept", "unsure")

    def __init__(self, epoch: int, accepted: int = 0, acked: int = 0) -> None:
        self.epoch = epoch
        self.loaded = self.accepted = accepted
        self.acked = acked
        self.swept = 0
        self.unsure = False

    def attempt(self, seq: int) -> int:
        """The row's ``try``. A number is never given up within an epoch, so that each epoch
        makes one attempt at it, however often that is sent."""
        return STAMPED if seq <= self.loaded else INSERTED


STAMPED = 0
INSERTED = 1


class Owned:
    """The sessions that ``node`` owns, by id."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.sessions: dict[str, Own] = {}
        self.was_clean: dict[str, tuple[int, bool]] = {}
        """Of claims that were made but could not be read yet: the epoch, and what the last
        owner had said."""
