"""What a node does now and then: operators' commands, expiry, slow clients.

Source: design.md section 5, "Operators' commands"; ownership.md P16. Commands are rows in the store
that every node reads each second: the same way for every store, and no second port.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from loguru import logger

from .edge import Edge
from .modes import Word
from .registry import Registry
from .stores.port import Command, StoreUnavailable

EVERY = 1.0
EXPIRE_EVERY = 60.0


class Housekeeping:
    """Runs as one task until it is cancelled."""

    def __init__(self, edge: Edge, registry: Registry) -> None:
        self._edge = edge
        self._node = edge.node
        self._registry = registry
        self._last_command = 0
        self._next_expiry = 0.0

    async def start(self) -> None:
        """Commands given before this node started are not for it."""
        self._last_command = await self._node.store.last_command()

    async def run(self) -> None:
        """Once a second."""
        async with asyncio.TaskGroup() as tasks:
            # Apart from what may wait for the store, or for a slow client to be closed.
            tasks.create_task(self._again_and_again(self._close_slow), name="slow clients")
            tasks.create_task(self._again_and_again(self.tick), name="commands")

    async def _again_and_again(self, round: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(EVERY)
            try:
                await round()
            except StoreUnavailable:
                continue  # the journal says so, and says when it is back
            except Exception:
                logger.opt(exception=True).error("housekeeping failed")

    async def _close_slow(self) -> None:
        self._edge.close_slow(asyncio.get_running_loop().time())

    async def tick(self) -> None:
        """One round. Raises :class:`StoreUnavailable`."""
        for command in await self._node.store.commands(self._last_command):
            try:
                await self._obey(command)
            except StoreUnavailable:
                raise  # it is read again
            except Exception:
                # Those behind it must not wait for one that can't be obeyed.
                logger.opt(exception=True).error("an operator's command failed: {}", command)
            self._last_command = command.n
        now = self._node.now()
        if now >= self._next_expiry:
            self._next_expiry = now + EXPIRE_EVERY
            await self._expire()

    async def _obey(self, command: Command) -> None:
        if command.verb == "revoke":
            logger.info("cutting the connections of user {}", command.target)
            self._registry.revoke(command.target)
        elif command.verb in ("retry", "skip"):
            verb: Word = "retry" if command.verb == "retry" else "skip"
            log = logger.bind(session=command.target, id=command.argument)
            if await self._registry.operate(verb, command.target, command.argument or None):
                log.info("an operator said {}", verb)
            else:
                log.warning("an operator said {}, but it blocks no queue here", verb)
        else:
            logger.warning("unknown command {!r}: written by a newer inorder?", command.verb)

    async def _expire(self) -> None:
        before = self._node.wall_ms() - round(self._node.config.session.session_ttl * 1000)
        for id in await self._node.store.held(before):
            await self._registry.expire(id, before)
        gone = await self._node.store.expire(before, before)
        if gone:
            self._registry.forgotten(gone)
            logger.info("{} sessions expired", len(gone))
