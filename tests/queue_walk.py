"""Random steps over a real registry, queues, journal and runner, compared with ``queue_model``.

Nothing is random but the steps, and no time is spent: the clock is virtual, the store in
memory; a step can hold it up, take it away or let it lose its answers.
"""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Raw
from queue_around import ALL, Wire
from queue_books import QUEUE, UNACKED, Asked, Ledger
from queue_processes import Processes, Step
from virtual_time import VirtualLoop

from inorder.messages import Request
from inorder_server.auth import Identity
from inorder_server.modes import Mode
from inorder_server.refusal import Refusal
from inorder_server.registry import Ended

ADA = Identity("ada", False, 1)


class Walk(Processes):
    """The steps of clients, handlers and operators; then the conclusion."""

    # ---- steps: connections

    async def connect(self, who: int, seq: int = 0, accepted: int = 0) -> None:
        """A hello that claims as much as is known, less ``seq`` and ``accepted``."""
        client = self.clients[who]
        opening = sum(wire.state == "opening" for wire in client.wires)
        if opening > (1 if client.book is not None else 0):
            return
        wire = Wire(self, client)
        client.wires.append(wire)
        if client.book is not None:
            client.book.attached += 1
            wire.counted = client.book
        wire.task = self._task(self._hello, wire, client.held - seq, client.told - accepted)

    async def _hello(self, wire: Wire, seq: int, accepted: int) -> None:
        client, model, registry = wire.client, self.model, self.registry
        book = client.book
        seq = max(seq, 0) if book is not None else 0
        if book is not None and seq <= book.settled:
            book.claimed_seq = max(book.claimed_seq, seq)
        try:
            opened = await registry.open(
                ADA,
                wire,
                session=book.id if book is not None else None,
                seq=seq,
                accepted=max(accepted, 0),
            )
        except Refusal as refused:
            wire.close()
            self._refused(wire, book, refused.code, seq > client.held)
            return
        except Ended as ended:
            wire.close()
            assert book is not None
            model.expect(book.state == "ended", "ended?")
            model.expect(ended.receipt == book.receipt, f"{ended.receipt}, not {book.receipt}")
            client.forget() if client.book is book else None
            return
        except asyncio.CancelledError:
            wire.close()
            queue = registry.queues.get(book.id) if book is not None else None
            if book is not None and queue is not None and queue.mode is Mode.CANCEL:
                # It was attached already: the policy counts.
                book.cancel_all()
            raise
        session = opened.queue.session
        if book is None:
            book = model.ledgers[session.id] = Ledger(session.id)
            client.book = book
            book.attached += 1
            wire.counted = book
        wire.book, wire.queue = book, opened.queue
        book.closing = book.expiring = book.finishing = book.gap = False
        if wire.state == "closed" or client.book is not book:
            wire.close()
            return
        model.expect(seq <= client.held, "history was not lost")
        told = (session.accepted, session.settled, session.acked)
        model.expect(told == (book.accepted, book.settled, book.acked), f"welcome: {told}")
        model.expect(book.acked >= min(seq, book.settled), f"{seq} was not acknowledged")
        after = max(book.acked, seq)
        model.expect(opened.replay_after == after, f"replay after {opened.replay_after}: {after}")
        wire.state = "open"
        wire.sent = opened.replay_after
        client.told = max(client.told, book.accepted)
        for one in book.asked[wire.sent : book.settled]:
            assert one.outcome is not None
            wire.take(one.seq, one.outcome)

    def _refused(self, wire: Wire, book: Ledger | None, code: str, too_much: bool) -> None:
        client = wire.client
        gone = book is not None and (not book.exists or book.state != "live")
        fair = {
            "draining": self.node.draining,
            "store_unavailable": bool(self.store.away) or not self.model.available,
            "history_lost": too_much,
            "session_gone": gone,
        }
        self.model.expect(fair.get(code), f"refused: {code}, {book}")
        self.lost_history += code == "history_lost"
        if code == "session_gone" and client.book is book:
            client.forget()

    async def overclaim(self, who: int) -> None:
        client = self.clients[who]
        if client.book is not None:
            await self.connect(who, -50, 0)

    async def hang_up(self, who: int, which: int = -1) -> None:
        """The socket is gone: the newest, or one that is a leftover."""
        client = self.clients[who]
        if not client.wires:
            return
        wire = client.wires.pop(which if len(client.wires) > 1 else 0)
        self._hung_up(wire)

    def _hung_up(self, wire: Wire) -> None:
        book, was = wire.book, wire.state
        if was == "opening" and wire.task is not None:
            wire.task.cancel()
        wire.close()
        if wire.counted is not None:
            wire.counted.attached -= 1
        if wire.queue is None:
            return
        runs = wire.queue.link is wire and not self.node.draining
        if runs and self.policy == "cancel" and book is not None and not book.closing:
            book.cancel_all()
        if book is not None and (book.closing or self.node.draining):
            book.finishing = True
        self.registry.detach(wire.queue, wire)

    async def behind(self, who: int) -> None:
        """The peer takes nothing for a while."""
        if (wire := self.clients[who].wire) is not None:
            wire.behind.clear()

    async def takes_all(self, who: int) -> None:
        for wire in self.clients[who].wires:
            wire.behind.set()

    # ---- steps: messages

    async def send(
        self, who: int, id: str | None, method: str, value: int, offset: int | None
    ) -> None:
        wire = self.clients[who].wire
        if wire is None:
            return
        book, queue = wire.book, wire.queue
        assert book is not None
        assert queue is not None
        seq = None if offset is None else max(len(book.asked) + 1 + offset, 1)
        said = self.model.answer(book, id, method, value, seq)
        if said == ("new",):
            n = len(book.asked) + 1
            self.model.take(book, id or f"#{n}", method, value)
        elif said is not None:
            self.due.append((wire, said))
        params = Raw(b'{"value":%d}' % value)
        queue.request(Request(method=method, params=params, id=id, seq=seq))

    async def cancel(self, who: int, place: int) -> None:
        """Cancels the request ``place`` behind the last that is settled; or one that isn't."""
        wire = self.clients[who].wire
        if wire is None:
            return
        book, queue = wire.book, wire.queue
        assert book is not None
        assert queue is not None
        at = book.settled + place
        one = book.asked[at] if 0 <= at < len(book.asked) else None
        id = one.id if one is not None else "nobody"
        found = book.remembered(id)
        if found is None or found.handed or found.seq <= book.settled or queue.ended:
            self.due.append((wire, ("refused", "cancel", "not_found", id, None)))
            # An ended consumer has left nothing, unless it was told to.
            if found is not None and not found.handed and found.seq > book.settled:
                self.model.expect(book.closing or self.node.draining, "ended too early")
        else:
            found.cancel = found.by_id = True
        queue.cancel(id)

    async def ack(self, who: int, less: int) -> None:
        wire = self.clients[who].wire
        if wire is None:
            return
        book, queue = wire.book, wire.queue
        assert book is not None
        assert queue is not None
        seq = max(self.clients[who].held - less, 0)
        book.claimed_seq = max(book.claimed_seq, min(seq, book.settled))
        due = max(book.acked, min(seq, book.settled))
        ended = queue.ended
        queue.acknowledge(seq)
        self.model.expect(book.acked == due or ended, f"acked {book.acked}, not {due}")

    async def status(self, who: int) -> None:
        wire = self.clients[who].wire
        if wire is None:
            return
        book, queue = wire.book, wire.queue
        assert book is not None
        assert queue is not None
        report = queue.status(1)
        told = (report.accepted, report.settled, report.acked, report.queued)
        numbers = (book.accepted, book.settled, book.acked, book.accepted - book.settled)
        self.model.expect(told == numbers, f"status {told}, not {numbers}")
        lines = [(line.id, line.seq, line.method, line.state) for line in report.requests or []]
        due = book.asked[book.acked : book.accepted]
        mine = [
            (one.id, one.seq, one.method, _state(book, one, line[3]))
            for one, line in zip(due, lines, strict=False)
        ]
        self.model.expect(len(lines) == len(due), f"status {lines}, not {due}")
        self.model.expect(lines == mine, f"status {lines}, not {mine}")
        if book.active is not None:
            running = report.running.seq if report.running else None
            self.model.expect(running == book.active.asked.seq, f"running: {running}")

    async def bye(self, who: int, mode: str) -> None:
        wire = self.clients[who].wire
        if wire is None or wire.book is None or wire.queue is None or wire.book.closing:
            return
        wire.book.closing = True
        if mode == "cancel" and not self.node.draining:
            wire.book.cancel_all()
        self.registry.leave(wire.queue, mode)

    # ---- steps: handlers

    async def finish(self, who: int, how: str, after: float = -1) -> None:
        """The handler that runs comes to its end."""
        book = self.clients[who].book
        gated = self.runs.get(book.id) if book is not None else None
        if gated is not None and not gated.gate.done():
            gated.how = how, after
            gated.gate.set_result(None)
        else:
            await self.rest()

    # ---- steps: operators, time to live

    async def operate(self, who: int, word: str, named: bool) -> None:
        book = self.clients[who].book
        if book is None:
            return
        head = book.asked[book.settled].id if book.settled < len(book.asked) else None
        book.finishing = True
        if word == "skip":
            book.skips += 1
        else:
            book.retries += 1
        self._task(self.registry.operate, word, book.id, head if named else None)

    async def expire(self) -> None:
        """Every session's time is up."""
        self._task(self._expire)

    async def _expire(self) -> None:
        before = round(self.loop.time() * 1000) + 1
        for id in await self.store.held(before):
            await self.registry.expire(id, before)
            queue = self.registry.queues.get(id)
            if queue is not None and queue.expiring:
                book = self.model.ledgers[id]
                book.expiring = True
                book.cancel_all()
        gone = await self.store.expire(before, before)
        self.registry.forgotten(gone)
        for id, book in self.model.ledgers.items():
            if id not in self.database.sessions and book.exists and book.state != "gone":
                work = book.kept_accepted - book.kept_settled
                self.model.expect(not work or book.state == "ended", f"expired with work: {id[:4]}")
                book.state = "gone"

    # ---- the end

    async def conclude(self) -> None:
        """Everything heals: each accepted request comes to its outcome, and nothing is left."""
        await self.step(Step("back"))
        self.store.lose = False
        await self.step(Step("tick", (5,)))
        while self.stopping is not None:
            await self.step(Step("tick", (5,)))
        if self.node.methods is not ALL:
            await self.step(Step("crash"))
        for _ in range(60):
            await self._nudge()
            if all(b.kept_settled == b.kept_accepted for b in self._alive()) and all(
                c.wire is not None for c in self.clients
            ):
                break
        await self.step(Step("rest"))
        for client in self.clients:
            book = client.book
            assert book is not None
            one = [o.seq for o in book.asked if o.outcome is None]
            assert not one, f"without outcome: {one} of {book}"
            assert client.held == book.settled == book.accepted == len(book.asked), f"{book}"
        for who, client in enumerate(self.clients):
            client.wires.sort(key=lambda wire: wire.state == "open")
            while len(client.wires) > 1:
                await self.step(Step("hang_up", (who, 0)))
            if who % 2:
                await self.step(Step("hang_up", (who,)))
            else:
                await self.step(Step("bye", (who, "finish")))
                await self.step(Step("rest"))
                assert client.wire is None
                assert client.book is not None
                assert client.book.state == "ended" or not client.book.exists
        await self.step(Step("rest"))
        await self.step(Step("tick", (200,)))
        assert not self.registry.queues
        for id, book in self.model.ledgers.items():
            row = self.database.sessions.get(id)
            if row is None:
                continue
            tally = await self.store.tally(id)
            assert (row.accepted, *_plain(tally)) == book.counts(), f"{row}, {book.counts()}"
            assert len(self.database.rows[id]) <= UNACKED + QUEUE
        self._totals()
        self.check()
        left = [t.get_name() for t in asyncio.all_tasks(self.loop) if t is not self.home]
        assert left == ["journal"], left
        assert await self.registry.drain(1) == []
        await self.registry.close()
        assert await self.node.journal.close(1)
        assert await self.node.runner.close(1) == []

    def _alive(self) -> list[Ledger]:
        return [b for b in self.model.ledgers.values() if b.state == "live"]

    async def _nudge(self) -> None:
        for who, client in enumerate(self.clients):
            if client.wire is None:
                await self.step(Step("connect", (who,)))
            await self.step(Step("takes_all", (who,)))
        await self.step(Step("rest"))
        for gated in list(self.runs.values()):
            if not gated.gate.done():
                gated.gate.set_result(None)
        for id, book in self.model.ledgers.items():
            queue = self.registry.queues.get(id)
            if queue is not None and queue.block is not None:
                book.retries += 1
                book.finishing = True
                await self.registry.operate("retry", id, None)
        await self.step(Step("rest"))
        # Sessions whose client has another one by now.
        mine = {client.book for client in self.clients}
        for book in self._alive():
            if book not in mine and book.kept_settled < book.kept_accepted:
                book.retries += 1
                book.finishing = True
                if not await self.registry.operate("retry", book.id, None):
                    await self._expire()
        await self.step(Step("tick", (1,)))


def _plain(tally: Any) -> tuple[int, int, int, int]:
    return tally.done, tally.failed, tally.cancelled, tally.pending


def _state(book: Ledger, one: Asked, said: str) -> str:
    """What status says of a request, where the model knows; else what was said."""
    if one.seq <= book.settled:
        assert one.outcome is not None
        return one.outcome[0]
    if one.by_id or said not in ("waiting", "running", "cancelling"):
        return "cancelling"
    return said if one.cancel or said != "cancelling" else "waiting"


def walk(steps: list[Step], policy: str, clients: int = 2) -> None:
    """Takes the steps, then concludes. Raises :class:`AssertionError`."""

    async def take() -> None:
        world = Walk(policy, clients)
        await world.start()
        for step in steps:
            await world.step(step)
        await world.conclude()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(take())
