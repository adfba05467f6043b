"""One process of a server after the other on one database, in virtual time.

Each is stopped or killed by a step of ``queue_walk``; what it must have left is compared with
``queue_model``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import queue_around
from memory_store import Database
from queue_around import ALL, FEWER, Client, Gated, WatchedJournal, WatchedStore, Wire
from queue_books import MAX_INTERRUPTS, QUEUE, UNACKED
from queue_model import Model

from inorder_server import config
from inorder_server.handlers.methods import Methods
from inorder_server.handlers.runner import Runner
from inorder_server.journal import Journal
from inorder_server.metrics import Metrics
from inorder_server.node import Node
from inorder_server.registry import Registry
from inorder_server.stores.port import (
    Release,
    StoreUnavailable,
    Write,
)


class Step(NamedTuple):
    """A method of ``queue_walk.Walk``, and what it is called with."""

    name: str
    args: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.args))})"


# Steps of somebody who is connected.
MESSAGES = ("send", "cancel", "ack", "status", "bye", "behind")


class Processes:
    """One node after the other on one database, and some clients."""

    def __init__(self, policy: str, clients: int) -> None:
        queue_around.current = self
        self.loop = asyncio.get_running_loop()
        self.policy = policy
        self.model = Model(policy)
        self.database = Database()
        self.clients = [Client() for _ in range(clients)]
        self.runs: dict[str, Gated] = {}
        self.due: list[tuple[Wire, tuple[Any, ...]]] = []
        self.results = 0
        self.names = 0
        self.lost_history = 0
        self.well_since = 0.0
        self.stopping: asyncio.Task[list[str]] | None = None
        self.config = config.Config(
            session=config.Session(
                queue=QUEUE,
                unacked=UNACKED,
                on_disconnect=policy,  # type: ignore[arg-type]
                max_interrupts=MAX_INTERRUPTS,
            ),
            folder=Path(),
        )
        self.home = asyncio.current_task()

    async def start(self, methods: Methods = ALL) -> None:
        """The next process."""
        loop = self.loop
        self.names += 1
        self.lost_history = 0
        self.model.methods = {m.name for m in methods}
        metrics = Metrics()
        self.store = WatchedStore(self, self.database)
        self.journal: Journal | None = WatchedJournal(self, self.store, metrics)
        self.node = Node(
            f"n{self.names}",
            self.config,
            self.store,
            self.journal,
            methods,
            Runner(methods, threads=1, outcome_bytes=1000, clock=loop.time, wall=loop.time),
            metrics,
            now=loop.time,
            wall_ms=lambda: round(loop.time() * 1000),
        )
        self.registry = Registry(self.node)
        await self.store.open(self.node.name)
        await self.node.runner.start()
        self.node.journal.start()
        self._task(self.registry.adopt)

    def _task(self, doing: Any, *args: Any) -> asyncio.Task[Any]:
        """Does something beside the steps; a store that is away is nobody's fault."""

        async def do() -> Any:
            try:
                return await doing(*args)
            except StoreUnavailable:
                return None
            except Exception as exc:
                self.model.faults.append(f"{exc!r}")

        return self.loop.create_task(do())

    async def step(self, step: Step) -> None:
        self.model.draining = self.node.draining
        speaker = self.clients[step.args[0]] if step.name in MESSAGES else None
        if speaker is not None and speaker.wire is None:
            # Who is not there can't say that: they come, or have come by then.
            await (self.rest() if speaker.coming else self.connect(step.args[0]))
        else:
            await getattr(self, step.name)(*step.args)
        if self.stopping is not None and self.stopping.done():
            await self._stopped()
        self.check()

    def check(self) -> None:
        faults = self.model.faults
        if self.due:
            faults.append(f"not told: {[words for _, words in self.due]}")
        for book in self.model.ledgers.values():
            if len(book.asked) - book.settled > QUEUE or len(book.asked) - book.acked > UNACKED:
                faults.append(f"over the limits: {book}")
        assert not faults, "\n".join(faults)

    def answered(self, writes: list[Write], fenced: set[str]) -> None:
        """Called as the journal gets its answer, before anybody else hears of it."""
        for write in writes:
            book = self.model.ledgers[write.session]
            if write.session in fenced:
                if isinstance(write, Release):
                    self.model.left(book, write.receipt, False)
                continue
            words = self.model.answered(book, write)
            wire = next((c.wire for c in self.clients if c.book is book), None)
            if words is not None and wire is not None:
                self.due.append((wire, words))

    def ends(self, id: str) -> None:
        """A session's end is on its way: its client has all outcomes, or did not come back."""
        book = self.model.ledgers[id]
        wires = [wire for client in self.clients for wire in client.wires if wire.book is book]
        told = any(wire.caught and wire.sent == book.settled for wire in wires)
        self.model.expect(book.expiring or (book.closing and told), f"ends untold: {id[:4]}")

    # ---- steps: time

    async def nothing(self) -> None:
        """What a failing walk is made of as far as it can be."""

    async def turn(self, turns: int = 1) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    async def rest(self) -> None:
        """Everything that needs no time happens."""
        ready = self.loop._ready  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        turns = 0
        while ready:
            await asyncio.sleep(0)
            turns += 1
            assert turns < 2000, "it never comes to rest"
        self._at_rest()

    def _at_rest(self) -> None:
        queues, faults = self.registry.queues, self.model.faults
        consumers = [t.get_name() for t in asyncio.all_tasks(self.loop)]
        consumers = [name for name in consumers if name.startswith("consumer ")]
        if len(set(consumers)) < len(consumers):
            faults.append(f"more than one consumer: {consumers}")
        if set(consumers) - {f"consumer {id}" for id in queues}:
            faults.append(f"a consumer without a queue: {consumers}")
        if self.trouble_now() or self.loop.time() < self.well_since + 1.1:
            return  # who waits for the store asks again each second
        for book in self.model.ledgers.values():
            late = book.back is not None and book.back + 5 < self.loop.time()
            if late and not self.node.draining:
                faults.append(f"does not come back: {book}")
        for id, queue in queues.items():
            book = self.model.ledgers[id]
            works = id in self.runs or queue.block is not None
            waits = any(r.run.asked.mark > 1 for r in self.runs.values())
            if works or waits or self.node.draining:
                continue
            if book.accepted > book.settled and not (book.closing and queue.ended):
                faults.append(f"nobody runs {book.settled + 1} of {id[:4]}: {queue.mode}")
            if queue.link is None:
                faults.append(f"the queue of {id[:4]} does not end: {queue.mode}")

    async def tick(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # ---- steps: the store

    async def hold(self) -> None:
        """Commits wait."""
        if "commit" not in self.store._gates:
            self.store.hold()

    async def hold_answers(self) -> None:
        """Commits take effect, and nobody hears of it."""
        if self.store.answers is None:
            self.store.answers = asyncio.Event()

    async def lose_answer(self) -> None:
        """One commit takes effect and seems to fail."""
        self.store.lose = True

    async def away(self) -> None:
        self.store.away = {"*"}

    async def back(self) -> None:
        """All is well with the store."""
        if self.trouble_now():
            self.well_since = self.loop.time()
        self.store.away = set()
        if "commit" in self.store._gates:
            self.store.release()
        if self.store.answers is not None:
            self.store.answers.set()
            self.store.answers = None

    # ---- steps: the end of a process

    async def crash(self, fewer: bool = False) -> None:
        """As SIGKILL would have it; then the next process begins."""
        node, registry = self.node, self.registry
        self.stopping = None
        for gated in self.runs.values():
            gated.dead = True
        self.runs.clear()
        for client in self.clients:
            for wire in client.wires:
                wire.close()
            client.wires.clear()
        self.due.clear()
        self.journal = None
        registry._closed = True
        registry._departed.stay()
        while others := asyncio.all_tasks(self.loop) - {self.home}:
            for task in others:
                task.cancel()
            await asyncio.sleep(0)
        await node.runner.close(0)
        self.model.died()
        await self.start(FEWER if fewer else ALL)

    async def drain(self, seconds: float) -> None:
        """SIGTERM."""
        if self.stopping is None:
            self.stopping = self.loop.create_task(self.registry.drain(seconds))

    async def _stopped(self) -> None:
        assert self.stopping is not None
        left = self.stopping.result()
        if not self.trouble_now() and not left:
            for book in self.model.ledgers.values():
                self.model.expect(not book.owned or not book.exists, f"it was kept: {book.id[:4]}")
            self._totals()
        await self.registry.close()
        await self.node.journal.close(0.25)
        await self.crash()

    def trouble_now(self) -> bool:
        store = self.store
        return bool(store._gates or store.away or store.answers or store.lose) or (
            not self.model.available
        )

    def _totals(self) -> None:
        """What the last one out says equals the receipts in the store."""
        totals = self.registry._departed.totals
        found = (totals.sessions, totals.accepted, totals.done, totals.failed, totals.cancelled)
        found = (*found, totals.pending, totals.verified)
        left = list(self.model.totals.values())
        due = (len(left), *map(sum, zip(*left, strict=True))) if left else (0,) * 7
        self.model.expect(found == due, f"last one out: {found}, the store has {due}")
        self.model.expect(
            self.node.metrics.violations == self.lost_history,
            f"{self.node.metrics.violations} violations, {self.lost_history} lost histories",
        )
