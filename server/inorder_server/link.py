"""What a queue says to its connection.

Source: SPEC.md, "Messages". :class:`inorder_server.voice.Voice` is the one that speaks to a
socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from inorder.codes import CloseCode
from inorder.messages import Receipt

from .handlers.api import Request
from .session import Entry, Refused
from .stores.port import Outcome


class Link(Protocol):
    """The attached connection, as its queue sees it. Only ``caught_up`` waits."""

    @property
    def gone(self) -> bool:
        """Whether its peer has closed it, or it broke: nobody hears what is said."""

    def accepted(self, entries: Sequence[Entry], ahead: int, expected: bool) -> None:
        """These requests, which follow each other, are durable; ``ahead`` are before the first.
        ``expected``: their outcomes are about to go to the journal, unless it is told otherwise:
        """

    def unexpected(self) -> None:
        """Outcomes that were expected are not on their way yet."""

    def progress(self, request: Request, n: int, body: bytes) -> None:
        """A handler said how far it is. May be dropped."""

    def settled(self, outcomes: Sequence[Outcome]) -> None:
        """These outcomes, which follow each other, became durable."""

    def repeat(self, seq: int) -> None:
        """The outcome ``seq`` is asked for again."""

    def cancelling(self, entry: Entry) -> None:
        """A cancel is durable."""

    def refused(self, of: str, refused: Refused, id: str | None) -> None:
        """A message was refused."""

    def shut(self, code: CloseCode, reason: str) -> None:
        """Say nothing more and close."""

    def finish(self, code: CloseCode, reason: str) -> None:
        """Write what is left to say, then close."""

    def draining(self, deadline: float) -> None:
        """The node goes down in ``deadline`` seconds."""

    async def caught_up(self) -> bool:
        """Returns once every outcome that is due was written; False where the connection
        ends before."""

    def farewell(self, receipt: Receipt) -> None:
        """The session ended as its client asked: say ``bye``, close with 1000."""
