"""What a session hands to its journal: in which order, and how it is answered."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from memory_store import MemoryStore
from node_bench import settled
from virtual_time import virtual

from inorder_server.handover import Handover
from inorder_server.journal import Journal
from inorder_server.metrics import Metrics
from inorder_server.session import Entry, Session
from inorder_server.stores.port import Create, Insert, MarkCancel, Outcome, Settle


class Desk:
    """A session, its journal, and what its queue is told."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.journal = Journal(self.store, Metrics())
        self.session = Session("s", "ada", queue_limit=10, unacked_limit=10)
        self.fenced = False
        self.told: list[Any] = []
        node: Any = SimpleNamespace(name="n1", journal=self.journal, wall_ms=lambda: 7)
        self.handover = Handover(node, self.session, self)

    async def start(self) -> None:
        await self.store.open("n1")
        self.journal.start()

    def inserted(self, entries: list[Entry]) -> None:
        self.session.confirm(entries)
        self.told.append(("inserted", [entry.seq for entry in entries]))

    def settled(self, outcomes: list[Outcome]) -> None:
        self.session.settle(outcomes)
        self.told.append(("settled", [outcome.seq for outcome in outcomes]))

    def fence(self) -> None:
        self.fenced = True

    def take(self, count: int) -> list[Entry]:
        entries = [
            self.session.take(None, b"", "echo", b"1", None, None, 0.0) for _ in range(count)
        ]
        self.handover.insert(entries[:1])
        if entries[1:]:
            self.handover.insert(entries[1:])
        return entries

    @property
    def group(self) -> list[tuple[type, int]]:
        """The newest group: kind and seq of each write."""
        group = self.store.groups[-1]
        return [(type(w), w.row.seq if isinstance(w, Insert) else w.seq) for w in group]


@virtual
async def test_rows_of_a_turn_are_one_commit_and_one_answer() -> None:
    desk = Desk()
    await desk.start()
    desk.take(3)
    await settled()
    assert desk.told == [("inserted", [1, 2, 3])]
    (group,) = desk.store.groups
    assert [type(write) for write in group] == [Create, Insert, Insert, Insert]
    assert await desk.journal.close(1)


@virtual
async def test_what_comes_while_a_commit_is_under_way_is_the_next_ones() -> None:
    desk = Desk()
    await desk.start()
    await settled()
    desk.store.hold()
    desk.take(1)
    await settled()
    desk.take(2)
    await settled()
    assert desk.told == []
    desk.store.release()
    await desk.handover.quiet()
    assert desk.told == [("inserted", [1]), ("inserted", [2, 3])]
    assert await desk.journal.close(1)


@virtual
async def test_no_outcome_gets_ahead_of_a_mark_that_was_made_before_it() -> None:
    desk = Desk()
    await desk.start()
    first, second, third = desk.take(3)
    await settled()
    desk.handover.settle([Outcome(1, first.id, "done", b"1")])
    desk.handover.cancel(second, lambda: desk.told.append("marked"))
    desk.handover.settle([Outcome(2, second.id, "cancelled", b"{}")])
    desk.handover.settle([Outcome(3, third.id, "done", b"3")])
    await settled()
    assert desk.group == [(Settle, 1), (MarkCancel, 2), (Settle, 2), (Settle, 3)]
    assert desk.told[1:] == [("settled", [1]), "marked", ("settled", [2, 3])]
    assert await desk.journal.close(1)


@virtual
async def test_a_fenced_session_is_told_of_nothing() -> None:
    desk = Desk()
    await desk.start()
    first, *_ = desk.take(2)
    await settled()
    desk.store.take_away("s")
    desk.handover.settle([Outcome(1, first.id, "done", b"1")])
    desk.take(1)
    start = asyncio.create_task(desk.handover.start(first, 1))
    await desk.handover.quiet()
    await start
    assert desk.fenced
    assert desk.told == [("inserted", [1, 2])]
    assert await desk.journal.close(1)
