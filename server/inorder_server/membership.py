"""A node among others: it keeps its lease, takes over from the dead, and hands over what is asked.

The thin part around :mod:`inorder_server.cluster`; P0, P12 and P14 of ownership.md.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from loguru import logger

from inorder.codes import CloseCode

from .cluster import Lease, Watch, boottime
from .modes import Mode
from .node import Node
from .queue import Queue
from .refusal import Refusal
from .registry import Registry
from .stores.port import StoreUnavailable
from .stores.shared import SharedStore

# P14: how often a node looks whether it is asked for a session, and whether it lost one.
_LOOKS_EVERY = 0.2
_MINE_EVERY = 1.0
_SWEEPS_EVERY = 1.0
# So many sessions are adopted at a sweep: the others shall have some, too.
_ADOPTED_AT_ONCE = 50
# How often a hello looks whether the session it asks for was given up, and for how long.
# It asks ever less often: a store that is slow to let go has enough to do.
_ASKS_EVERY = (0.05, 0.4)
_ASKS_FOR = 8.0
# The dead are remembered until their last late write can have come.
_BURIED_AFTER = 60.0
# A session that could not be taken up (its rows are damaged) is left alone for so long.
_LEFT_ALONE = 60.0


class Membership:
    """``alive``: this node may run sessions."""

    def __init__(
        self,
        node: Node,
        registry: Registry,
        store: SharedStore,
        lease: float,
        *,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self.alive = False
        self._node = node
        self._registry = registry
        self._store = store
        self._seconds = lease
        self._clock = clock
        self._lease: Lease
        self._watch: Watch
        self._tasks: list[asyncio.Task[None]] = []
        self._first_seen: dict[str, float] = {}
        self._dead_since: dict[str, float] = {}
        self._left_alone: dict[str, float] = {}
        self._next_mine = 0.0

    # ---- lifecycle

    async def start(self) -> None:
        """Keeps the lease from now on. Raises :class:`StoreUnavailable`."""
        await self._take_lease()
        self._run(self._keep_lease, "lease")
        self._run(self._watch_lease, "lease's end")

    def begin(self) -> None:
        """Looks after the sessions from now on."""
        self._run(lambda: self._again(self._look, _LOOKS_EVERY), "look")
        self._run(lambda: self._again(self._observe, self._seconds / 6), "neighbours")
        self._run(lambda: self._again(self._sweep, _SWEEPS_EVERY), "sweep")

    async def close(self) -> None:
        """Looks after nothing any more; what it owns is to be released before."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _run(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        async def run() -> None:
            await work()

        self._tasks.append(asyncio.get_running_loop().create_task(run(), name=name))

    async def _again(self, round: Callable[[], Awaitable[None]], every: float) -> None:
        while True:
            if self.alive:
                try:
                    await round()
                except StoreUnavailable:
                    pass  # the journal says so, and says when it is back
                except Exception:
                    logger.opt(exception=True).error("looking after the sessions failed")
            await asyncio.sleep(every)

    # ---- P0: this node

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(max(self._lease.due - self._clock(), 0))
            if not self.alive:
                await self._rejoin()
                continue
            sent, lease = self._clock(), self._lease
            try:
                if await self._store.raise_lease(lease.n):
                    lease.raised(sent)
                else:
                    await self._compare()
            except StoreUnavailable as exc:
                logger.warning("the lease could not be raised: {}", exc)
                await asyncio.sleep(self._seconds / 20)

    async def _compare(self) -> None:
        """The counter is not where it was left: an attempt whose answer was lost has raised it
        (when, nobody knows, so that it counts for nothing), or the node was declared dead."""
        name = self._node.name
        for neighbour in await self._store.neighbours():
            if neighbour.name == name and not neighbour.dead:
                self._lease.n = neighbour.n
                return
        self._lapse("another node declared this one dead")

    async def _watch_lease(self) -> None:
        while True:
            left = self._lease.until - self._clock()
            if left <= 0 and self.alive:
                self._lapse("the lease could not be raised in time")
            await asyncio.sleep(min(max(left, 0), self._seconds / 20) or self._seconds / 20)

    def _lapse(self, why: str) -> None:
        """Others may take over what runs here: it stops, and nothing is said of it."""
        if not self.alive:
            return
        self.alive = False
        logger.error("{}: this node drops its sessions, others take them over", why)
        for queue in list(self._registry.queues.values()):
            # One that has accepted nothing is nobody else's to take.
            if queue.session.has_row:
                queue.fence()

    async def _rejoin(self) -> None:
        """Begins again as a new incarnation, with nothing."""
        name = secrets.token_hex(8)
        try:
            await self._store.rejoin(name)
            self._node.name = name
            await self._take_lease()
        except StoreUnavailable:
            await asyncio.sleep(self._seconds / 20)
        else:
            logger.info("this node is back, as {}", name)

    async def _take_lease(self) -> None:
        sent = self._clock()
        if not await self._store.raise_lease(0):
            raise StoreUnavailable("the lease of this node was not to be had")
        self._lease = Lease(self._seconds, 1, sent)
        self._watch = Watch(self._node.name, self._seconds)
        self._first_seen = {}
        self.alive = True

    # ---- P0: the others

    async def _observe(self) -> None:
        sent, watch = self._clock(), self._watch
        neighbours = await self._store.neighbours()
        now = self._clock()
        for node in watch.look(sent, now, neighbours):
            if await self._store.declare_dead(node.name, node.n):
                logger.warning("node {} is dead; its sessions are taken over", node.name)
        dead = [node.name for node in neighbours if node.dead]
        self._dead_since = {name: self._dead_since.get(name, now) for name in dead}
        for name, since in self._dead_since.items():
            if now - since > _BURIED_AFTER:
                await self._store.bury(name)

    # ---- P14

    async def _look(self) -> None:
        for want in await self._store.wanted():
            queue = self._registry.queues.get(want.session)
            if queue is None:
                await self._take_up(want.session)
            elif queue.session.epoch == want.epoch:
                _give(queue)
        now = self._clock()
        if now >= self._next_mine:
            self._next_mine = now + _MINE_EVERY
            running = {
                id: queue
                for id, queue in self._registry.queues.items()
                if queue.session.accepted and not queue.ended
            }
            epochs = {id: queue.session.epoch for id, queue in running.items()}
            mine = await self._store.mine()
            for id, queue in running.items():
                if mine.get(id) != epochs[id] and not queue.ended:
                    queue.fence()
            for id in mine.keys() - self._registry.queues.keys():
                await self._take_up(id)

    async def _sweep(self) -> None:
        """Takes up what nobody runs: a dead node's sessions at once, what was given up with
        work left when nobody, such as the one who gave it up, came back to it for a lease."""
        if self._node.draining:
            return
        now = self._clock()
        wait = 0.0 if self._watch.alone else self._seconds
        abandoned = set(await self._store.abandoned())
        unfinished = await self._store.unfinished()
        # This round's own: a new incarnation begins with nothing, perhaps in the middle of it.
        first_seen = {id: self._first_seen.get(id, now) for id in unfinished}
        self._first_seen = first_seen
        taken = 0
        for id in unfinished:
            if id not in abandoned and (now - first_seen[id] < wait or self._registry.expects(id)):
                continue
            if await self._can_run(id):
                taken += await self._take_up(id)
            if taken >= _ADOPTED_AT_ONCE:
                break
        if taken:
            logger.info("adopted {} sessions", taken)

    async def _take_up(self, id: str) -> bool:
        now = self._clock()
        if self._left_alone.get(id, now) > now:
            return False
        self._left_alone = {i: until for i, until in self._left_alone.items() if until > now}
        try:
            return await self._registry.take_up(id)
        except Refusal:
            self._left_alone[id] = now + _LEFT_ALONE
            return False

    async def _can_run(self, id: str) -> bool:
        """Whether this node has all the methods that are pending."""
        row = await self._store.session(id)
        if row is None:
            return False
        async for request in self._store.requests(id, row.acked):
            if request.ending is None and self._node.methods.get(request.method) is None:
                return False
        return True

    # ---- P12

    async def obtain(self, session: str, given_up: Callable[[], bool]) -> None:
        """Asks the node that owns the session for it, and waits until it may be claimed, or
        until whoever wants it has ``given_up``: it is asked for elsewhere by now.

        Raises :class:`Refusal` where its owner takes too long or this node goes down meanwhile,
        and :class:`StoreUnavailable`.
        """
        until = self._clock() + _ASKS_FOR
        delay, longest = _ASKS_EVERY
        while not given_up() and await self._store.want(session):
            if self._node.draining:
                # Once the drain is done the store is closed.
                raise Refusal("draining", "the server is going down", 1.0)
            if self._clock() >= until:
                raise Refusal("overloaded", "another node is still busy with the session", 1.0)
            await asyncio.sleep(delay)
            delay = min(2 * delay, longest)


def _give(queue: Queue) -> None:
    """P12, at the owner: the head that runs is finished, what is blocked or waits is left as
    it is, and then the session is released (P13)."""
    if queue.link is not None:
        queue.link.shut(CloseCode.MOVED, "moved")
        queue.link = None
    queue.turn(Mode.STOP)
