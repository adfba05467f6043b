"""A session's queue: its FIFO in memory and its one consumer.

Source: design.md sections 2, 3 and 5. Frames come in through :meth:`Queue.request` and its
siblings; what they ask for goes to the journal, and only the journal's answer changes what is
counted, told or run. The consumer is exactly one named task: it takes the head, runs it, hands
its outcome to the journal, and goes on when that is durable (where both it and the next one are
``idempotent`` at once).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from loguru import logger

from inorder import codec
from inorder.codes import CloseCode
from inorder.messages import Blocked, Request, Running, StatusReport

from . import admission
from .admission import Repeat
from .auth import Identity
from .execution import Execution, Parked, run_through
from .handlers.api import Request as HandlerRequest
from .handlers.api import User
from .handover import Handover
from .link import Link
from .modes import CANCEL, IDLE, NEXT_MODES, Mode, Word
from .node import Node
from .session import Entry, Refused, Session, Silent, Stage, counted
from .stores.port import Outcome

# So many outcomes of a session may be on their way to the journal: what a crash makes run again.
_MOST_AHEAD = 256


class Block(NamedTuple):
    """Why the head does not run. ``until`` is by the node's monotonic clock, or None for an
    operator's word."""

    entry: Entry
    code: str
    until: float | None


class Queue:
    """One session's queue on this node.

    Made when a connection attaches or work is adopted; :meth:`start` begins its consumer.
    ``teardown`` is the registry's task that awaits and verifies its end. ``closing`` says that
    the client said ``bye``, ``parked`` why the head was left behind, ``fenced`` that another
    owner has the session.
    """

    def __init__(self, node: Node, session: Session, user: Identity) -> None:
        self.node = node
        self.session = session
        self.serve(user)
        self.link: Link | None = None
        self.mode = Mode.FINISH
        self.closing = False
        self.fenced = False
        self.expiring = False
        self.block: Block | None = None
        self.parked: Parked | None = None
        self.running: Execution | None = None
        self.consumer: asyncio.Task[None]
        self.teardown: asyncio.Task[None] | None = None
        self._runs_free = False
        # Whether the link was told to expect outcomes.
        self._expects = False
        self._handover = Handover(node, session, self)
        self._wake: asyncio.Future[None] | None = None
        self._word: Word | None = None

    # ---- lifecycle

    def serve(self, user: Identity) -> None:
        """The session is this user's, who may have become an administrator, or no longer be."""
        self.user = user
        self.sender = User(user.name, user.admin)
        """The user as handlers see it."""

    def start(self) -> None:
        """Makes the one consumer task."""
        self.consumer = asyncio.get_running_loop().create_task(
            self._consume(), name=f"consumer {self.session.id}"
        )

    def attach(self, link: Link) -> None:
        """A connection takes the queue over; work goes on for it."""
        self.link = link
        self.closing = self.expiring = False
        self.session.close_gap()
        if self.mode is Mode.CANCEL:
            # What was being cancelled stays so; only what comes from now on runs.
            for entry in self.session.unsettled:
                entry.cancel_asked = True
        self.turn(Mode.RUN)

    def turn(self, mode: Mode) -> None:
        """The one setter of the mode."""
        if mode is self.mode:
            return
        if mode not in NEXT_MODES[self.mode]:
            raise ValueError(f"queue of {self.session.id}: {self.mode.name} to {mode.name}")
        self.mode = mode
        if mode is Mode.CANCEL and self.running is not None:
            self.running.cancel()
        self.notify()

    @property
    def ended(self) -> bool:
        """Whether the consumer has ended: nothing more goes to the journal from here but the
        session's release."""
        return self.consumer.done()

    async def quiet(self) -> None:
        """Returns when the journal has answered everything this queue handed over."""
        await self._handover.quiet()

    def notify(self) -> None:
        """Wakes the consumer to look again."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # ---- what a connection asks for

    def requests(self, requests: Sequence[Request]) -> None:
        """Those of a frame, as :meth:`request` does each: in one piece, as far as nothing speaks
        against them."""
        while requests:
            entries = admission.admit_plain(
                self.node, self.session, self.user, requests, closing=self.closing
            )
            if entries:
                self._handover.insert(entries)
                requests = requests[len(entries) :]
            if requests:
                self.request(requests[0])
                requests = requests[1:]

    def request(self, request: Request) -> None:
        """Accepts a request once it is durable, repeats what was said of it, or refuses it."""
        decided = admission.admit(self.node, self.session, self.user, request, closing=self.closing)
        if isinstance(decided, Entry):
            self._handover.insert([decided])
        elif isinstance(decided, Repeat):
            if request.seq is None:
                # It asks by id alone: no later `accepted` answers it.
                decided.entry.numbered = False
            self._repeat(decided.entry)
        elif isinstance(decided, Silent):
            self.node.metrics.refused["out_of_order"] += 1
        else:
            self._refuse("request", decided, request.id)

    def cancel(self, id: str) -> None:
        """Marks a request as cancelled, durably; then the outcome follows in its turn."""
        entry = self.session.cancellable(id)
        if self.ended or entry is None:
            refused = Refused("not_found", f"no unsettled request {id!r}")
            self._refuse("cancel", refused, id)
            return
        if self.node.journal.overloaded:
            self._refuse("cancel", Refused("overloaded", "too much waits to be committed", 1.0), id)
            return
        entry.cancel_asked = True
        self._handover.cancel(entry, partial(self._cancel_marked, entry))
        if self.running is not None and self.running.entry is entry:
            self.running.cancel()
        self.notify()

    def acknowledge(self, seq: int) -> None:
        """The client holds the outcomes up to ``seq``: they may be forgotten."""
        session = self.session
        if not self.ended and session.acknowledge(seq):
            self._handover.acknowledge()

    def status(self, start: int | None) -> StatusReport:
        """How the session stands; with ``start`` up to 100 requests from that seq on."""
        session, now = self.session, self.node.now()
        report = StatusReport(
            session=session.id,
            epoch=session.epoch,
            accepted=session.accepted,
            settled=session.settled,
            acked=session.acked,
            queued=session.accepted - session.settled,
        )
        if self.running is not None and self.block is None:
            entry = self.running.entry
            report.running = Running(
                entry.id,
                entry.seq,
                entry.method,
                self.running.number,
                round(self.running.seconds(now), 3),
                self.running.overdue,
            )
        if self.block is not None:
            entry, code, until = self.block
            wait = None if until is None else round(max(until - now, 0.0), 3)
            report.blocked = Blocked(entry.id, entry.seq, code, wait)
        if start is not None:
            report.requests = session.lines(start, 100)
        return report

    def operate(self, word: Word, id: str | None = None) -> bool:
        """An operator's word on the head that blocks the queue; ``id`` says which is meant.
        False where that is another one, where it runs, or where the node is going down."""
        head = self.session.next()
        if head is None or id not in (None, head.id) or self.mode is Mode.STOP:
            return False
        if self.running is not None and self.block is None:
            return False
        if self.block is None:
            # Just taken up again: the word counts before it runs.
            head.skip = word == "skip"
            head.tries, head.due = 0, 0.0
        self._word = word
        self.notify()
        return True

    # ---- what became durable, or not

    def fence(self) -> None:
        """Another owner has the session: nothing more is said or run here."""
        if self.fenced:
            return
        self.fenced = True
        logger.bind(session=self.session.id, user=self.user.name).warning(
            "fenced: another owner has this session; its queue is dropped here"
        )
        if self.link is not None:
            self.link.shut(CloseCode.MOVED, "moved")
            self.link = None
        if self.mode is not Mode.STOP:
            self.turn(Mode.STOP)
        self.consumer.cancel()

    def inserted(self, entries: list[Entry]) -> None:
        """These requests count from now on."""
        session = self.session
        ahead = session.accepted - session.settled
        session.confirm(entries)
        self.node.metrics.accepted += len(entries)
        runs = ahead == session.settling
        if runs or self.mode is not Mode.RUN:
            self.notify()
        if self.link is not None:
            # Most are run in this turn of the loop, and settled with that. One that waits for
            # what it is told takes it from the outcome; a look at each in between cost 5 %.
            self._expects = runs and self._wake is not None and self.mode is Mode.RUN
            self.link.accepted(entries, ahead, self._expects)

    def settled(self, outcomes: list[Outcome]) -> None:
        """These outcomes may be told."""
        session, settled = self.session, self.node.metrics.settled
        session.settle(outcomes)
        for ending, count in counted(outcomes):
            settled[ending] += count
        if not session.settling and (session.unsettled or self.mode is not Mode.RUN):
            self.notify()
        if self.link is not None:
            self.link.settled(outcomes)

    def _cancel_marked(self, entry: Entry) -> None:
        if self.link is not None:
            self.link.cancelling(entry)

    def _repeat(self, entry: Entry) -> None:
        if self.link is None or entry.stage is Stage.COMMITTING:
            return  # the answer to its first sending is under way
        if entry.stage is Stage.SETTLED:
            self.link.repeat(entry.seq)
        else:
            self.link.accepted([entry], entry.seq - self.session.settled - 1, False)

    def _refuse(self, of: str, refused: Refused, id: str | None) -> None:
        self.node.metrics.refused[refused.code] += 1
        if self.link is not None:
            self.link.refused(of, refused, id)

    # ---- the consumer

    async def _consume(self) -> None:
        while True:
            entry = self.session.next()
            if entry is None or self.mode in IDLE:
                if self._over():
                    return
                await self.woken()
            elif self.session.settling and not self._may_run_ahead(entry):
                self._tell_unexpected()
                await self.woken()
            elif entry.cancel_asked or self.mode is CANCEL:
                self._settle_cancelled()
            elif (execution := self._begin(entry)) is not None:
                self._tell_unexpected()
                try:
                    await self._finish(execution)
                except Parked as parked:
                    entry.move(Stage.WAITING)
                    if await self._stays_parked():
                        self.parked = parked
                        return

    def _tell_unexpected(self) -> None:
        if self._expects and self.link is not None:
            self.link.unexpected()
        self._expects = False

    def _over(self) -> bool:
        """Whether the consumer's work is done, given that no head is to run now."""
        if self.mode is Mode.RUN:
            return False
        if self.mode in (Mode.FINISH, Mode.CANCEL):
            return not self.session.unsettled
        return not self.session.in_flight and not self.session.settling

    def _may_run_ahead(self, entry: Entry) -> bool:
        """Whether it may start while outcomes before it are not durable yet: only the head of
        a queue can have run before a crash, but for a run of requests that do no harm when
        they run again."""
        return entry.free and self._runs_free and self.session.settling < _MOST_AHEAD

    async def _stays_parked(self) -> bool:
        """Waits for what is on its way to the journal. False where somebody came back, or an
        operator's word sets it going, as it does once the queue is parked."""
        while self.mode not in (Mode.RUN, Mode.CANCEL):
            if self._word is not None and self.mode is not Mode.STOP:
                self.turn(Mode.FINISH)
                return False
            if not self.session.in_flight and not self.session.settling:
                return True
            await self.woken()
        return False

    async def woken(self, until: float | None = None) -> None:
        """Waits until something changed, at most to ``until`` by the node's clock."""
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        timer = None
        if until is not None:
            timer = loop.call_later(max(until - self.node.now(), 0), self.notify)
        try:
            await self._wake
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    def _begin(self, entry: Entry) -> Execution | None:
        """Begins the head and, where it has ended with that, as most do, those behind it that
        may run ahead of its outcome. None where all have ended, else the one that has not."""
        most = _MOST_AHEAD - self.session.settling if entry.free else 1
        entries = self.session.following(most) if most > 1 else [entry]
        outcomes, execution = run_through(self, entries)
        if outcomes:
            self._hand_over(outcomes, free=entry.free)
        return execution

    async def _finish(self, execution: Execution) -> None:
        """Runs it to its outcome. Raises :class:`Parked` where it stays pending."""
        self.running = execution
        try:
            ending, body = await execution.outcome()
        finally:
            self.running = None
        self.node.metrics.ran.observe(self.node.now() - execution.begun)
        entry = execution.entry
        self._hand_over([Outcome(entry.seq, entry.id, ending, body)], free=entry.free)

    def progress(self, request: HandlerRequest, n: int, body: bytes) -> None:
        """A handler said how far it is."""
        if self.link is not None:
            self.link.progress(request, n, body)

    def _settle_cancelled(self) -> None:
        """Settles the run of cancelled requests at the head in one commit: none of them runs,
        so the rule that only the head may have run still holds."""
        body, outcomes = cancelled_body(), []
        for entry in self.session.following(len(self.session.unsettled)):
            if entry.stage is not Stage.WAITING:
                break
            if not entry.cancel_asked and self.mode is not Mode.CANCEL:
                break
            outcomes.append(Outcome(entry.seq, entry.id, "cancelled", body))
        self._hand_over(outcomes, free=False)

    def _hand_over(self, outcomes: list[Outcome], *, free: bool) -> None:
        self._runs_free = free
        self._handover.settle(outcomes)

    async def mark(self, entry: Entry, attempt: int) -> None:
        """Writes a start mark and waits until it is durable."""
        await self._handover.start(entry, attempt)
        entry.attempt = attempt

    async def blocked(self, entry: Entry, code: str, until: float | None) -> str:
        """Waits while the head can't run. Returns ``again``, ``cancelled`` or ``skip``.

        Raises :class:`Parked` when the connection goes meanwhile: the rest stays pending.
        """
        self.block = Block(entry, code, until)
        self._word = None
        try:
            while True:
                if entry.cancel_asked or self.mode is Mode.CANCEL:
                    return "cancelled"
                if self._word is not None:
                    return "again" if self._word == "retry" else "skip"
                if until is not None and self.node.now() >= until:
                    return "again"
                if self.mode is not Mode.RUN:
                    raise Parked(code, until)
                await self.woken(until)
        finally:
            self.block = None


def cancelled_body() -> bytes:
    """The body of a ``cancelled`` outcome."""
    return codec.encode({"code": "cancelled", "message": "cancelled on request"})
