"""Who runs here: queues are entered before they run, and torn down and verified at their end.

Source: design.md sections 3 (G6) and 5; ownership.md P13 and P15; SPEC.md, "Receipt".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec
from loguru import logger

from inorder.codes import CloseCode
from inorder.messages import Receipt

from .departed import Departed
from .link import Link
from .modes import Mode
from .node import Node
from .queue import Queue
from .teardown import hand_back, verified


class Roster:
    """All queues of a node, by session id. ``comes_back`` is called with the id of a session
    whose parked head is due."""

    def __init__(self, node: Node, comes_back: Callable[[str], None]) -> None:
        self.queues: dict[str, Queue] = {}
        self._node = node
        self._teardowns: set[asyncio.Task[None]] = set()
        self._departed = Departed(comes_back)
        self._closed = False
        node.metrics.live = self._live

    def _live(self) -> tuple[int, int]:
        queues = self.queues.values()
        return len(queues), sum(q.session.accepted - q.session.settled for q in queues)

    def _enter(self, queue: Queue, link: Link | None) -> None:
        """Registered before it runs, so that nothing runs which the registry doesn't know."""
        fresh = queue.session.id not in self.queues
        self.queues[queue.session.id] = queue
        if link is not None:
            queue.attach(link)
        if fresh:
            queue.start()
            queue.consumer.add_done_callback(partial(self._ended, queue))

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
