"""What a node's adapter remembers of the sessions that it owns."""

from __future__ import annotations


class Own:
    """A session under its epoch.

    ``loaded`` is what was accepted when it was claimed: rows up to there bear the stamp's try.
    ``tries`` are those of the later ones that are there and not settled yet, by seq.
    ``accepted`` and ``acked`` are what this node has been told is durable, never more.
    ``swept`` is up to where its stripped rows are known to be gone. ``unsure``: it may have
    been given up by a write whose answer was lost.
    """

    __slots__ = ("accepted", "acked", "epoch", "loaded", "swept", "tries", "unsure")

    def __init__(self, epoch: int, accepted: int = 0, acked: int = 0) -> None:
        self.epoch = epoch
        self.loaded = self.accepted = accepted
        self.acked = acked
        self.swept = 0
        self.tries: dict[int, int] = {}
        self.unsure = False

    def attempt(self, seq: int) -> int:
        """The row's ``try``, by which its owner's writes find it.

        An insert that was sent twice may come once more when the row is gone, whatever it went
        by: then the row that it makes bears a try that nobody knows.
        """
        return STAMPED if seq <= self.loaded else self.tries.get(seq, UNKNOWN)


# A stamp is sent once in an epoch: where its answer is lost, the claim is made again.
STAMPED = 0
UNKNOWN = -1


class Owned:
    """The sessions that ``node`` owns, by id."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.sessions: dict[str, Own] = {}
        self._tries = 0
        self.was_clean: dict[str, tuple[int, bool]] = {}
        """Of claims that were made but could not be read yet: the epoch, and what the last
        owner had said."""

    def new_try(self) -> int:
        """For another sending of inserts: no other one has it, whether or not it is answered."""
        self._tries += 1
        return self._tries
