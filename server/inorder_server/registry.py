"""The connection registry: attaches connections to the queues that this node runs, detaches
them, and winds all up when the node goes down.

Source: design.md section 5; ownership.md P1 and P11; SPEC.md, "Resume".
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from loguru import logger

from inorder.codes import CloseCode
from inorder.messages import Receipt

from .adoption import Adoption
from .auth import Identity
from .link import Link
from .modes import Mode
from .queue import Queue
from .refusal import Refusal
from .stores.port import Attach, StoreUnavailable
from .teardown import durable


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection is attached. Outcomes after ``replay_after`` are to be sent again."""

    queue: Queue
    resumed: bool
    replay_after: int


class Ended(Exception):
    """A hello to a session that was ended: here is its receipt."""

    def __init__(self, receipt: Receipt) -> None:
        super().__init__(receipt.session)
        self.receipt = receipt


class HungUp(Exception):
    """A connection whose peer has gone before its hello was answered."""


_POLICIES = {"finish": Mode.FINISH, "hold": Mode.HOLD, "cancel": Mode.CANCEL}
# Queues are wound up in groups of so many at a drain, so that the loop stays responsive.
_DRAIN_BATCH = 100
# What those have for their end that a drain must stop.
_STOPPING_SECONDS = 0.75


class Registry(Adoption):
    """All queues of a node, by session id."""

    # ---- attach

    async def open(
        self,
        user: Identity,
        link: Link,
        *,
        session: str | None,
        seq: int | None,
        accepted: int | None,
    ) -> Opened:
        """Attaches a connection to a new session, or resumes ``session``.

        Raises :class:`Refusal` (session_gone, history_lost, store_unavailable, draining),
        :class:`Ended` or :class:`HungUp`. Nothing is awaited between the attach and the
        return, but for a resume at a live queue: its link must hold back what comes before
        the welcome.
        """
        self._check_open()
        if session is None:
            queue = Queue(self._node, self._new_session(user), user)
            self._enter(queue, link)
            return Opened(queue, False, 0)
        async with self._lock(session):
            if link.gone:
                # Its client may be back by a newer connection, which is to stay.
                raise HungUp
            try:
                if not self._node.journal.available:
                    raise StoreUnavailable
                queue = await self._find(user, session, link)
            except StoreUnavailable:
                raise Refusal("store_unavailable", "the store is away", after=1.0) from None
            try:
                self._check_open()
                if link.gone:
                    raise HungUp
                self._check_history(queue, seq, accepted)
            except (Refusal, HungUp):
                self._give_back(queue)
                raise
            queue.serve(user)
            if queue.link is not None:
                queue.link.shut(CloseCode.REPLACED, "replaced")
            self._enter(queue, link)
            if seq is not None:
                queue.acknowledge(seq)
            try:
                await self._attached(queue)
            except BaseException:
                self.detach(queue, link)
                raise
            return Opened(queue, True, max(queue.session.acked, seq or 0))

    def _check_open(self) -> None:
        if self._node.draining:
            raise Refusal("draining", "the server is going down", after=1.0)
        if not self._node.alive:
            raise Refusal("store_unavailable", "this node has lost its lease", after=1.0)

    async def _find(self, user: Identity, id: str, link: Link) -> Queue:
        """The session's queue: the one that runs here, or one made from the store."""
        while (queue := self.queues.get(id)) is not None:
            if queue.session.user != user.name:
                raise _gone()
            if not queue.ended and queue.mode is not Mode.STOP:
                return queue
            # It is being torn down: its end, then the store, decide. What holds that up may be
            # an older connection that takes nothing.
            if queue.closing and queue.link is not None:
                queue.link.shut(CloseCode.REPLACED, "replaced")
            await asyncio.shield(self._tear_down(queue))
        row = await self._node.store.session(id)
        if row is None or row.user != user.name or row.state == "gone":
            raise _gone()
        if row.state == "ended":
            if row.receipt is None:
                raise _gone()
            raise Ended(row.receipt)
        queue = await self._claim(id, user)
        if queue is None and self._node.standing is not None:
            await self._node.standing.obtain(id, lambda: link.gone)
            if link.gone:
                raise HungUp
            queue = await self._claim(id, user)
            if queue is None and await self._node.store.session(id) is not None:
                raise Refusal("overloaded", "several nodes ask for the session", after=1.0)
        if queue is None:
            raise _gone()
        return queue

    def _check_history(self, queue: Queue, seq: int | None, accepted: int | None) -> None:
        session = queue.session
        if (seq or 0) <= session.settled and (accepted or 0) <= session.accepted:
            return
        self._node.metrics.violations += 1
        logger.bind(session=session.id, user=session.user).error(
            "history lost: the client holds outcomes to {} and was told {} accepted, "
            "the store has {} and {}",
            seq,
            accepted,
            session.settled,
            session.accepted,
        )
        raise Refusal("history_lost", "the store has less than was confirmed to this client")

    def _give_back(self, queue: Queue) -> None:
        """Where it was claimed for a hello that is refused, somebody else may finish it."""
        if queue.session.id in self.queues:
            return
        if self._node.draining:
            queue.turn(Mode.STOP)
        elif self._node.config.session.on_disconnect == "hold":
            queue.turn(Mode.HOLD)
        self._enter(queue, None)
        self._tear_down(queue)

    async def _attached(self, queue: Queue) -> None:
        """P11: the attach is durable before the welcome."""
        session = queue.session
        session.attach += 1
        write = Attach(session.id, session.epoch, session.attach)
        if session.has_row and not await durable(self._node.journal, write):
            queue.fence()

    # ---- detach

    def attached(self, session: str | None, user: str) -> bool:
        """Whether a connection of this user is attached to the session: a resume takes its
        place, and must not be kept out by a limit on connections."""
        queue = self.queues.get(session) if session is not None else None
        return queue is not None and queue.session.user == user and queue.link is not None

    def detach(self, queue: Queue, link: Link) -> None:
        """The connection is gone. What happens to the rest is ``on_disconnect``'s to say."""
        if queue.link is not link:
            return
        queue.link = None
        if queue.mode is Mode.RUN:
            queue.turn(_POLICIES[self._node.config.session.on_disconnect])
        self._tear_down(queue)

    def leave(self, queue: Queue, mode: str) -> None:
        """``bye``: the outcomes still due, then the receipt by the link's ``farewell``."""
        queue.closing = True
        if queue.mode is Mode.RUN:
            queue.turn(_POLICIES[mode])
        self._tear_down(queue)

    def revoke(self, name: str) -> None:
        """Cuts the connections of a user who was revoked, deleted or got a new password."""
        for queue in list(self.queues.values()):
            if queue.session.user == name and queue.link is not None:
                queue.link.shut(CloseCode.FORBIDDEN, "forbidden")

    # ---- drain

    async def drain(self, timeout: float) -> list[str]:  # noqa: ASYNC109
        """Winds all queues up, for at most ``timeout`` seconds plus a moment for those that
        must be stopped. Returns the sessions whose queue could not be wound up."""
        self._node.draining = True
        self._departed.stay()
        deadline = self._node.now() + timeout
        queues = list(self.queues.values())
        logger.info("draining {} sessions, for at most {:g} s", len(queues), timeout)
        for start in range(0, len(queues), _DRAIN_BATCH):
            for queue in queues[start : start + _DRAIN_BATCH]:
                if queue.link is not None:
                    queue.link.draining(max(deadline - self._node.now(), 0))
                if queue.mode is Mode.RUN:
                    queue.turn(Mode.FINISH)
                self._tear_down(queue)
            await asyncio.sleep(0)
        await self._progress(deadline)
        if self.queues:
            logger.warning("{} sessions did not finish in time; their rest stays", len(self.queues))
        for queue in list(self.queues.values()):
            queue.turn(Mode.STOP)
            if queue.ended and queue.closing and queue.link is not None:
                # Its peer does not take what is due to it.
                queue.link.shut(CloseCode.RESTART, "draining")
            queue.consumer.cancel()
        if self._teardowns:
            await asyncio.wait(self._teardowns, timeout=_STOPPING_SECONDS)
        return list(self.queues)

    async def _progress(self, deadline: float) -> None:
        while self._teardowns and (left := deadline - self._node.now()) > 0:
            _, pending = await asyncio.wait(self._teardowns, timeout=min(left, 1))
            if pending:
                sessions, depth = self._live()
                logger.info("draining: {} sessions left, {} requests", sessions, depth)

    async def close(self) -> None:
        """Ends what still waits for the store, at the very end of the process."""
        self._closed = True
        tasks = [*self._teardowns, *self._adoptions]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=0.5)


def _gone() -> Refusal:
    return Refusal("session_gone", "no such session of yours")
