"""The connection registry: every queue that this node runs.

It attaches connections to queues, detaches them, tears queues down and verifies that they ended
empty. Source: design.md sections 3 (G6) and 5; ownership.md P1, P2, P11, P13, P15; SPEC.md,
"Resume" and "Receipt".
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

import msgspec
from loguru import logger

from inorder.codes import CloseCode
from inorder.messages import Receipt

from .auth import Identity
from .departed import Departed
from .journal import backoff
from .link import Link
from .modes import Mode, Word
from .node import Node
from .queue import Queue
from .refusal import Refusal
from .session import Damaged, Session
from .stores.port import Attach, SessionRow, StoreUnavailable
from .teardown import durable, hand_back, verified


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
    """A connection whose peer has gone before its hello was looked at."""


_POLICIES = {"finish": Mode.FINISH, "hold": Mode.HOLD, "cancel": Mode.CANCEL}
# Queues are wound up in groups of so many at a drain, so that the loop stays responsive.
_DRAIN_BATCH = 100
# What those have for their end that a drain must stop.
_STOPPING_SECONDS = 0.75


class Registry:
    """All queues of a node, by session id."""

    def __init__(self, node: Node) -> None:
        self.queues: dict[str, Queue] = {}
        self._node = node
        self._teardowns: set[asyncio.Task[None]] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._departed = Departed(self._adopt_soon)
        self._adoptions: set[asyncio.Task[None]] = set()
        self._closed = False
        node.metrics.live = self._live

    def _live(self) -> tuple[int, int]:
        queues = self.queues.values()
        return len(queues), sum(q.session.accepted - q.session.settled for q in queues)

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
        lock = self._locks.get(session)
        if lock is None:
            lock = self._locks[session] = asyncio.Lock()
        async with lock:
            if link.gone:
                # Its client may be back by a newer connection, which is to stay.
                raise HungUp
            try:
                if not self._node.journal.available:
                    raise StoreUnavailable
                queue = await self._find(user, session)
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

    def _new_session(self, user: Identity, id: str | None = None) -> Session:
        config = self._node.config
        return Session(
            id or secrets.token_hex(16),
            user.name,
            queue_limit=config.session.queue,
            unacked_limit=config.session.unacked,
            rate=config.limits.rate,
        )

    def _enter(self, queue: Queue, link: Link | None) -> None:
        """Registered before it runs, so that nothing runs which the registry doesn't know."""
        fresh = queue.session.id not in self.queues
        self.queues[queue.session.id] = queue
        if link is not None:
            queue.attach(link)
        if fresh:
            queue.start()
            queue.consumer.add_done_callback(partial(self._ended, queue))

    def _check_open(self) -> None:
        if self._node.draining:
            raise Refusal("draining", "the server is going down", after=1.0)
        if not self._node.alive:
            raise Refusal("store_unavailable", "this node has lost its lease", after=1.0)

    async def _find(self, user: Identity, id: str) -> Queue:
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
            await self._node.standing.obtain(id)
            queue = await self._claim(id, user)
            if queue is None and await self._node.store.session(id) is not None:
                raise Refusal("overloaded", "several nodes ask for the session", after=1.0)
        if queue is None:
            raise _gone()
        return queue

    async def _claim(self, id: str, user: Identity) -> Queue | None:
        """P2 to P5. None where the session can't be had."""
        name = self._node.name
        claimed = await self._node.store.claim(id) if self._node.alive else None
        if not self._node.alive or self._node.name != name:
            raise StoreUnavailable("this node has lost its lease")
        if claimed is None:
            return None
        session = self._new_session(user, id)
        try:
            session.load(claimed)
        except Damaged as exc:
            self._node.metrics.violations += 1
            logger.bind(session=id, user=user.name).error("the journal lacks rows: {}", exc)
            raise Refusal("history_lost", "the store lacks what it had confirmed") from None
        self._departed.back(session)
        return Queue(self._node, session, user)

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

    # ---- teardown

    def _ended(self, queue: Queue, consumer: asyncio.Task[None]) -> None:
        """However its consumer ended, a queue is torn down: fenced and broken ones too."""
        if self._closed:
            return
        crashed = not consumer.cancelled() and consumer.exception() is not None
        if crashed and queue.link is not None:
            queue.link.shut(CloseCode.INTERNAL, "internal")
        self._tear_down(queue)

    def _tear_down(self, queue: Queue) -> asyncio.Task[None]:
        """The task that waits for the consumer's end and verifies it; one a queue."""
        if queue.teardown is None:
            queue.teardown = asyncio.get_running_loop().create_task(
                self._wind_up(queue), name=f"teardown {queue.session.id}"
            )
            self._teardowns.add(queue.teardown)
            queue.teardown.add_done_callback(self._done)
        return queue.teardown

    def _done(self, task: asyncio.Task[None]) -> None:
        self._teardowns.discard(task)
        self._adoptions.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.opt(exception=task.exception()).error("{} failed", task.get_name())

    async def _wind_up(self, queue: Queue) -> None:
        session = queue.session
        log = logger.bind(session=session.id, user=session.user)
        await asyncio.wait([queue.consumer])
        if not queue.consumer.cancelled() and queue.consumer.exception() is not None:
            log.opt(exception=queue.consumer.exception()).error("the consumer failed")
        await queue.quiet()
        if queue.fenced:
            self._remove(queue, None, ends=False)
            return
        told = await self._told(queue)
        receipt = await verified(queue)
        # An unverified session keeps its rows: they are the evidence.
        ends = queue.expiring or (told and queue.link is not None)
        ends = ends and receipt.verified and not receipt.pending
        if session.has_row and not await hand_back(queue, receipt, ends):
            log.warning("the session moved while its queue was torn down")
            receipt = msgspec.structs.replace(receipt, verified=False)
        self._remove(queue, receipt, ends)
        log.debug("torn down: {}", receipt)
        link, queue.link = queue.link, None
        if link is None:
            return
        # A `bye` is answered by the session's end, a receipt that says why there is none, or by
        # what blocks the queue. What a stop cut short, or what came too late for the end, is
        # asked again at the next start.
        if queue.closing and (
            ends or not session.has_row or self._blocks(queue) or not receipt.verified
        ):
            link.farewell(receipt)
        else:
            link.finish(CloseCode.RESTART, "draining")

    def _blocks(self, queue: Queue) -> bool:
        """Whether its head waits, and would without a stop. One that is to be tried again by
        itself was only cut short where the node goes down: the next start tries it."""
        parked = queue.parked
        return parked is not None and (parked.until is None or not self._node.draining)

    async def _told(self, queue: Queue) -> bool:
        """After a ``bye``: whether everything that is due was written. The session's end takes
        its outcomes along, so a peer that is behind is waited for."""
        if not queue.closing or queue.link is None or queue.mode is Mode.STOP:
            return False
        return await queue.link.caught_up()

    def _remove(self, queue: Queue, receipt: Receipt | None, ends: bool) -> None:
        del self.queues[queue.session.id]
        self._departed.left(queue, receipt, ended=ends)
        if not self.queues:
            logger.info("last one out: {}", self._departed.totals)

    # ---- adoption

    async def adopt(self) -> int:
        """P14: takes up sessions with unfinished requests and no living owner.

        Under ``hold`` that is only to note that they wait for their clients. Returns how
        many were taken up.
        """
        holds = self._node.config.session.on_disconnect == "hold"
        taken = 0
        for id in await self._node.store.unfinished():
            taken += await self._adopt_one(id, Mode.HOLD if holds else Mode.FINISH) is not None
        return taken

    async def take_up(self, id: str) -> bool:
        """P14: the same for one session, unless somebody was quicker and finished its work.
        Raises :class:`Refusal` where it is damaged."""
        holds = self._node.config.session.on_disconnect == "hold"
        mode = Mode.HOLD if holds else Mode.FINISH
        queue = await self._adopt_one(
            id, mode, lambda row: row.open or row.node is not None, damaged_too=True
        )
        return queue is not None

    def expects(self, id: str) -> bool:
        """Whether the session comes back here by itself, for its head to be tried again."""
        return self._departed.expects(id)

    async def expire(self, id: str, left_before_ms: int) -> None:
        """P16: held work whose client did not come back in time is cancelled, and its session
        ended, with a receipt."""
        queue = await self._adopt_one(
            id, Mode.CANCEL, lambda row: row.held and row.left_ms < left_before_ms
        )
        if queue is not None:
            queue.expiring = True

    async def operate(self, word: Word, session: str, id: str | None) -> bool:
        """An operator's word on the request that blocks a session's queue, which may be parked.
        False where it does not block one here."""
        queue = self.queues.get(session)
        if queue is not None and queue.ended:
            # Just parked: the word is for whoever takes it up again.
            await asyncio.shield(self._tear_down(queue))
            queue = self.queues.get(session)
        if queue is None:
            queue = await self._adopt_one(session, Mode.FINISH, lambda row: not row.held)
        return queue is not None and queue.operate(word, id)

    def _adopt_soon(self, id: str) -> None:
        task = asyncio.get_running_loop().create_task(self._adopt_later(id), name=f"adopt {id}")
        self._adoptions.add(task)
        task.add_done_callback(self._done)

    async def _adopt_later(self, id: str) -> None:
        for delay in backoff():
            try:
                await self._adopt_one(id)
            except StoreUnavailable:
                await asyncio.sleep(delay)
            else:
                return

    async def _adopt_one(
        self,
        id: str,
        mode: Mode = Mode.FINISH,
        fits: Callable[[SessionRow], bool] | None = None,
        *,
        damaged_too: bool = False,
    ) -> Queue | None:
        """Takes up a session that nobody runs, without a connection. None where somebody does,
        or where it can't be had."""
        lock = self._locks.get(id)
        if lock is None:
            lock = self._locks[id] = asyncio.Lock()
        async with lock:
            if id in self.queues or self._node.draining:
                return None
            row = await self._node.store.session(id)
            if row is None or (fits is not None and not fits(row)):
                return None
            account = await self._node.store.user(row.user)
            user = Identity(
                row.user,
                admin=account is not None and account.admin,
                generation=account.generation if account is not None else 0,
            )
            try:
                queue = await self._claim(id, user)
            except Refusal:
                if damaged_too:
                    raise
                return None  # damaged: logged and counted, left alone
            if queue is None:
                return None
            queue.turn(Mode.STOP if self._node.draining else mode)
            self._enter(queue, None)
            self._tear_down(queue)
            return queue

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

    def revoke(self, name: str) -> None:
        """Cuts the connections of a user who was revoked, deleted or got a new password."""
        for queue in list(self.queues.values()):
            if queue.session.user == name and queue.link is not None:
                queue.link.shut(CloseCode.FORBIDDEN, "forbidden")

    def forgotten(self, sessions: list[str]) -> None:
        """These sessions expired: what was remembered of them goes too."""
        self._departed.forget(sessions)

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
