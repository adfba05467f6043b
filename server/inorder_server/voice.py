"""What the server says on one connection: its queue's link, and its errors.

Source: SPEC.md, "Messages". Nothing here waits: everything goes to the outbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from loguru import logger
from msgspec import Raw, Struct
from websockets.protocol import State

from inorder import codec
from inorder.codes import ERROR_CODES, CloseCode
from inorder.messages import (
    Accepted,
    ByeReceipt,
    Cancelling,
    Draining,
    Error,
    Progress,
    Receipt,
)

from .acceptances import Hold
from .handlers.api import Request
from .metrics import Metrics
from .outbox import Outbox
from .refusal import Refusal
from .session import Entry, Refused
from .stores.port import Outcome
from .wire import Wire


class Phase(Enum):
    """Where a connection stands; it only moves down this list."""

    GREETING = 1  # not logged in
    OPEN = 2  # attached to a session
    CLOSED = 3  # nothing that still comes in counts


class Voice:
    """Satisfies :class:`inorder_server.queue.Link`."""

    def __init__(
        self, socket: Wire, metrics: Metrics, hold: Hold, *, batch: int, patience: float
    ) -> None:
        self.phase = Phase.GREETING
        self.outbox = Outbox(socket, hold, batch=batch, patience=patience)
        self._socket = socket
        self._metrics = metrics
        self._log = logger

    # ---- what the queue says (its Link)

    @property
    def gone(self) -> bool:
        return self._socket.state is not State.OPEN

    def accepted(self, entries: Sequence[Entry], ahead: int, expected: bool) -> None:
        outbox, last = self.outbox, entries[-1]
        one_for_all = outbox.arrays and last.numbered
        for entry in entries:
            if entry is last or not (one_for_all and entry.numbered):
                message = Accepted(id=entry.id, seq=entry.seq, ahead=ahead)
                outbox.accepted(message, cumulative=entry.numbered, expected=expected)
            ahead += 1

    def unexpected(self) -> None:
        self.outbox.look()

    def progress(self, request: Request, n: int, body: bytes) -> None:
        message = Progress(
            id=request.id, seq=request.seq, attempt=request.attempt, n=n, progress=Raw(body)
        )
        self.outbox.progress(codec.encode(message))

    def settled(self, outcomes: Sequence[Outcome]) -> None:
        self.outbox.outcomes(outcomes)

    def repeat(self, seq: int) -> None:
        self.outbox.repeat(seq)

    def cancelling(self, entry: Entry) -> None:
        if self.phase is Phase.OPEN:
            self.put(Cancelling(id=entry.id, seq=entry.seq))

    def refused(self, of: str, refused: Refused, id: str | None) -> None:
        self.put(
            Error(
                code=refused.code,
                message=refused.message,
                retry=ERROR_CODES[refused.code].retry,
                of=of,
                id=id,
                after=refused.after,
                details=refused.details,
            )
        )

    def draining(self, deadline: float) -> None:
        if self.phase is Phase.OPEN:
            self.put(Draining(deadline=round(deadline, 3)))

    async def caught_up(self) -> bool:
        return await self.outbox.caught_up()

    def farewell(self, receipt: Receipt) -> None:
        self.put(ByeReceipt(receipt=receipt))
        self.finish(CloseCode.DONE, "done")

    def finish(self, code: CloseCode, reason: str) -> None:
        self.phase = Phase.CLOSED
        self.outbox.finish(code, reason)

    def shut(self, code: CloseCode, reason: str) -> None:
        self.phase = Phase.CLOSED
        self.outbox.shut(code, reason)

    def too_slow(self, bound: float) -> None:
        """The peer took nothing for ``bound`` seconds; its outcomes stay in the journal."""
        self._log.warning("closed a slow client: it took nothing for {:g} s", bound)
        self.shut(CloseCode.SLOW_CLIENT, "slow_client")

    # ---- what it says itself

    def put(self, message: Struct) -> None:
        self.outbox.put(codec.encode(message))

    def unauthenticated(self, of: str | None, id: str | None) -> None:
        self.error("unauthenticated", "log in first", of=of, id=id)

    def refusal(self, of: str, refusal: Refusal) -> None:
        self._metrics.refused[refusal.code] += 1
        self.put(
            Error(
                code=refusal.code,
                message=refusal.message,
                retry=ERROR_CODES[refusal.code].retry,
                of=of,
                after=refusal.after,
                details=refusal.details,
            )
        )

    def error(
        self, code: str, message: str, *, of: str | None = None, id: str | None = None
    ) -> None:
        self._metrics.refused[code] += 1
        retry = ERROR_CODES[code].retry
        self.put(Error(code=code, message=message, retry=retry, of=of, id=id))
