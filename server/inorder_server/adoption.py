"""Sessions that are taken up from the store: for a client, or to finish work without one.

Source: design.md section 5, "Start" and "Disconnect"; ownership.md P2 to P5, P14 and P16.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from weakref import WeakValueDictionary

from loguru import logger

from .auth import Identity
from .journal import backoff
from .modes import Mode, Word
from .node import Node
from .queue import Queue
from .refusal import Refusal
from .roster import Roster
from .session import Session
from .stores.port import Damaged, SessionRow, StoreUnavailable

# So many sessions are asked for together: the store's answers come in groups, too.
_AT_A_TIME = 256


class Adoption(Roster):
    """A roster that takes sessions up by itself: at the start, when a parked head is due, at
    an operator's word, when held work has waited too long."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, self._adopt_soon)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._adoptions: set[asyncio.Task[None]] = set()

    async def adopt(self) -> int:
        """P14: takes up sessions with unfinished requests and no living owner.

        Under ``hold`` that is only to note that they wait for their clients. Returns how
        many were taken up.
        """
        holds = self._node.config.session.on_disconnect == "hold"
        mode = Mode.HOLD if holds else Mode.FINISH
        found = await self._node.store.unfinished()
        taken = 0
        for start in range(0, len(found), _AT_A_TIME):
            # None of them is given up half-way where another one fails.
            queues = await asyncio.gather(
                *(self._adopt_one(id, mode) for id in found[start : start + _AT_A_TIME]),
                return_exceptions=True,
            )
            for queue in queues:
                if isinstance(queue, BaseException):
                    raise queue
                taken += queue is not None
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

    def forgotten(self, sessions: list[str]) -> None:
        """These sessions expired: what was remembered of them goes too."""
        self._departed.forget(sessions)

    # ---- one session

    def _adopt_soon(self, id: str) -> None:
        task = asyncio.get_running_loop().create_task(self._adopt_later(id), name=f"adopt {id}")
        self._adoptions.add(task)
        task.add_done_callback(self._adoptions.discard)
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
        async with self._lock(id):
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

    def _new_session(self, user: Identity, id: str | None = None) -> Session:
        config = self._node.config
        return Session(
            id or secrets.token_hex(16),
            user.name,
            queue_limit=config.session.queue,
            unacked_limit=config.session.unacked,
            rate=config.limits.rate,
        )

    def _lock(self, id: str) -> asyncio.Lock:
        """Held by whoever asks the store for this session."""
        lock = self._locks.get(id)
        if lock is None:
            lock = self._locks[id] = asyncio.Lock()
        return lock

    async def _claim(self, id: str, user: Identity) -> Queue | None:
        """P2 to P5. None where the session can't be had."""
        name = self._node.name
        session = self._new_session(user, id)
        try:
            claimed = await self._node.store.claim(id) if self._node.alive else None
            if not self._node.alive or self._node.name != name:
                raise StoreUnavailable("this node has lost its lease")
            if claimed is None:
                return None
            session.load(claimed)
        except Damaged as exc:
            self._node.metrics.violations += 1
            logger.bind(session=id, user=user.name).error("the journal is damaged: {}", exc)
            raise Refusal("history_lost", "the store lacks what it had confirmed") from None
        self._departed.back(session)
        return Queue(self._node, session, user)
