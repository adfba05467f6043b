"""How the end of a queue is verified, and told to the store.

Source: design.md G6; ownership.md P13 and P15; SPEC.md, "Receipt".
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from loguru import logger

from inorder.messages import Receipt

from .journal import Journal, backoff
from .modes import Mode
from .queue import Queue
from .receipts import verify
from .stores.port import End, Release, StoreUnavailable, Tally, Write

_T = TypeVar("_T")


async def verified(queue: Queue) -> Receipt:
    """The receipt of a queue whose consumer has ended and whose writes were all answered. Where
    the session has moved it may not be verified, which is no violation then."""
    node, session = queue.node, queue.session
    tally = Tally(0, 0, 0, 0)
    if session.has_row:
        tally = await _asked(lambda: node.store.tally(session.id))
    counts = session.counts()
    # Pending work is left behind on purpose, unless the queue should have run it all.
    left_on_purpose = queue.parked is not None or queue.mode in (Mode.HOLD, Mode.STOP)
    receipt, findings = verify(
        session.id,
        counts,
        tally,
        consumer_ended=queue.ended,
        left_in_memory=session.in_flight + (0 if left_on_purpose else counts.pending),
    )
    if findings and await _moved(queue):
        # The rows are counted as another owner left them, who answers for them.
        return receipt
    if findings:
        node.metrics.violations += 1
        logger.bind(session=session.id, user=session.user).error(
            "the receipt does not verify: {}; {}", "; ".join(findings), receipt
        )
    else:
        node.metrics.receipts += 1
    return receipt


async def hand_back(queue: Queue, receipt: Receipt, ends: bool) -> bool:
    """P15 or P13. False where the session is no longer this node's."""
    node, session = queue.node, queue.session
    wall = node.wall_ms()
    if ends:
        return await durable(
            node.journal, End(session.id, session.epoch, session.accepted, receipt, wall)
        )
    crashed = not queue.consumer.cancelled() and queue.consumer.exception() is not None
    head = session.head()
    # Whoever takes it up next must know that the head may have run under an earlier owner.
    clean = not crashed and not (head is not None and head.suspect)
    blocked = _waits_for_an_operator(queue)
    held = bool(receipt.pending) and queue.mode is Mode.HOLD and not blocked
    return await durable(
        node.journal,
        Release(
            session.id,
            session.epoch,
            session.attach,
            node=None,
            clean=clean,
            open=bool(receipt.pending) and not held and not blocked,
            receipt=receipt,
            at_ms=wall,
            held=held,
        ),
    )


def _waits_for_an_operator(queue: Queue) -> bool:
    """A method that is missing is no such case: the next node may have it, so it is tried."""
    parked = queue.parked
    if parked is None:
        # It was blocked before, and not looked at since.
        head = queue.session.head()
        return head is not None and head.due == math.inf
    return parked.until is None and parked.code != "unknown_method"


async def durable(journal: Journal, write: Write) -> bool:
    """Waits until the write is durable. False where its session is fenced."""
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    journal.append(write, partial(_answer, done))
    return await done


def _answer(done: asyncio.Future[bool], ok: bool) -> None:
    if not done.done():
        done.set_result(ok)


async def _moved(queue: Queue) -> bool:
    """Whether another owner has had the session since it was this node's."""
    session = queue.session
    if not session.has_row:
        return False
    row = await _asked(lambda: queue.node.store.session(session.id))
    return row is not None and row.epoch != session.epoch


async def _asked(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Waits for a store that is away: a receipt is worth it."""
    delays = backoff()
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            await asyncio.sleep(next(delays))
