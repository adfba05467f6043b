"""Nodes that are declared dead too early, answers that are lost, writes that come late: at random.

A few nodes fight over a session through the adapter, as registries and journals would: each
commits its groups in order and repeats one that failed, unchanged. A bulk may fail before it
takes effect, after it, or take effect later, when somebody else has the session. What was told to
a client (accepted, and how it ended) must stay true whatever comes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from mongo_bench import insert, settle
from pymongo.errors import AutoReconnect

from inorder.messages import Receipt
from inorder_server.stores.mongo import MongoStore
from inorder_server.stores.port import (
    Acknowledge,
    Attach,
    Claimed,
    Create,
    End,
    Insert,
    MarkCancel,
    MarkStart,
    Release,
    Settle,
    StoreUnavailable,
    Tally,
    Write,
)

STEPS = 60


class Told:
    """What clients were told, of which nothing may ever change."""

    def __init__(self) -> None:
        self.accepted: dict[int, str] = {}
        self.outcomes: dict[int, bytes] = {}
        self.acked = 0

    def accept(self, seq: int, id: str) -> None:
        assert self.accepted.setdefault(seq, id) == id, f"{seq} was accepted as another request"

    def outcome(self, seq: int, body: bytes) -> None:
        assert seq in self.accepted, f"the outcome of {seq}, which was not accepted"
        assert self.outcomes.setdefault(seq, body) == body, f"{seq} ended twice"

    def check(self, claimed: Claimed) -> None:
        """What a new owner finds has it all."""
        s = claimed.session
        assert s.acked >= self.acked
        assert s.accepted >= max(self.accepted, default=0)
        rows = {r.seq: r for r in claimed.rows if r.seq > s.acked}
        assert list(rows) == list(range(s.acked + 1, s.accepted + 1))
        for seq, id in self.accepted.items():
            assert seq <= s.acked or rows[seq].id == id
        for seq in self.outcomes:
            assert seq <= s.acked or rows[seq].ending is not None
        endings = [r.ending is None for r in rows.values()]
        assert endings == sorted(endings), "an outcome came before an earlier one's"


class Player:
    """A node: its store, what it believes of the session, and the network between."""

    def __init__(self, name: str, store: MongoStore, told: Told, rng: random.Random) -> None:
        self.name = name
        self.store = store
        self.late: list[Any] = []
        self.trouble = 0.0
        self._told = told
        self._rng = rng
        self._epoch = 0
        self._accepted: dict[int, str] = {}
        self._last = self._settled = self._acked = self._attach = 0
        self._group: list[Write] = []
        link = store._link
        self._insert, self._change = link.insert, link.change
        link.insert = self._inserted  # type: ignore[method-assign]
        link.change = self._changed  # type: ignore[method-assign]

    # ---- the network

    async def _inserted(self, collection: Any, docs: Sequence[Any]) -> list[int]:
        return await self._sent(self._insert, bool(docs), collection, docs)

    async def _changed(self, collection: Any, changes: Sequence[Any], **how: Any) -> int:
        return await self._sent(self._change, bool(changes), collection, changes, **how)

    async def _sent(self, call: Any, counts: bool, *arguments: Any, **how: Any) -> Any:
        if not counts or self._rng.random() >= self.trouble:
            return await call(*arguments, **how)
        what = self._rng.choice(["lost", "answer lost", "late"])
        if what == "answer lost":
            await call(*arguments, **how)
        elif what == "late":
            self.late.append(lambda: call(*arguments, **how))
        raise AutoReconnect(what)

    async def arrive(self) -> None:
        """Something that was under way arrives after all."""
        if self.late:
            await self.late.pop(self._rng.randrange(len(self.late)))()

    # ---- the node

    @property
    def runs(self) -> bool:
        return bool(self._epoch)

    async def claim(self) -> None:
        try:
            claimed = await self.store.claim("s")
        except StoreUnavailable:
            return
        if claimed is None:
            return
        self._told.check(claimed)
        s = claimed.session
        self._epoch, self._attach = s.epoch, s.attach
        self._last, self._acked = s.accepted, s.acked
        rows = [r for r in claimed.rows if r.seq > s.acked]
        self._settled = s.acked + sum(r.ending is not None for r in rows)
        self._accepted = {r.seq: r.id for r in rows}
        for seq, id in self._accepted.items():
            self._told.accept(seq, id)
        for o in await self.store.outcomes("s", s.acked, s.accepted, 1 << 30):
            if o.seq <= self._settled:
                self._told.outcome(o.seq, o.body)

    def begin(self) -> None:
        """The session's first owner."""
        self._epoch = self._attach = 1
        self._group = [Create("s", "ann", 1, 1, self.name, 1)]

    async def work(self) -> None:
        """Another group, or the one before again."""
        if not self._group:
            self._group = self._more()
        try:
            fenced = await self.store.commit(self._group)
        except StoreUnavailable:
            return
        group, self._group = self._group, []
        if fenced:
            self.drop()
            return
        for w in group:
            self._tell(w)

    def drop(self) -> None:
        self._epoch = 0
        self._group = []

    def _more(self) -> list[Write]:
        rng, epoch = self._rng, self._epoch
        group: list[Write] = []
        last = self._last
        for seq in range(last + 1, last + rng.randint(0, 3) + 1):
            self._last = seq
            group.append(insert(seq, epoch=epoch, id=f"r{seq}e{epoch}"))
        for seq in range(self._settled + 1, min(self._settled + rng.randint(0, 2), last) + 1):
            if rng.random() < 0.3:
                group.append(MarkStart("s", epoch, seq, 1))
            if rng.random() < 0.3:
                group.append(MarkCancel("s", epoch, seq))
            group.append(settle(seq, epoch=epoch, body=b"%d by %d" % (seq, epoch)))
        if rng.random() < 0.3 and self._settled > self._acked:
            group.append(Acknowledge("s", epoch, rng.randint(self._acked + 1, self._settled), 2))
        if rng.random() < 0.1:
            self._attach += 1
            group.append(Attach("s", epoch, self._attach))
        if rng.random() < 0.15:
            receipt = Receipt("s", 0, 0, 0, 0, 0, verified=True)
            group.append(Release("s", epoch, self._attach, None, True, True, receipt, epoch))
        return group

    def _tell(self, w: Write) -> None:
        if isinstance(w, Insert):
            self._told.accept(w.row.seq, w.row.id)
        elif isinstance(w, Settle):
            self._settled = max(self._settled, w.seq)
            self._told.outcome(w.seq, w.outcome.body)
        elif isinstance(w, Acknowledge):
            self._acked = max(self._acked, w.seq)
            self._told.acked = max(self._told.acked, w.seq)
        elif isinstance(w, Release):
            self.drop()


async def play(uri: str, seed: int) -> Told:
    """One run, to its end: the last owner settles everything."""
    rng = random.Random(seed)
    told = Told()
    players = []
    for n in range(3):
        store = MongoStore(uri, lease=9)
        await store.open(f"n{n}")
        players.append(Player(f"n{n}", store, told, rng))
    players[0].begin()
    await players[0].work()
    for player in players:
        player.trouble = 0.25
    for _ in range(STEPS):
        player = rng.choice(players)
        what = rng.random()
        if what < 0.1:
            # Somebody believes it dead, and it does not know.
            await rng.choice(players).store.declare_dead(player.name, seen=0)
        elif what < 0.2:
            # It has noticed, and begins again.
            if any(n.name == player.name and n.dead for n in await player.store.neighbours()):
                player.drop()
                player.name += "'"
                await player.store.rejoin(player.name)
        elif what < 0.35:
            await player.arrive()
        elif not player.runs:
            await player.claim()
        elif what < 0.45:
            await asyncio.gather(player.work(), rng.choice(players).arrive())
        else:
            await player.work()
    for player in players:
        player.trouble = 0.0
        await players[0].store.declare_dead(player.name, seen=0)
    last = MongoStore(uri, lease=9)
    await last.open("last")
    claimed = await last.claim("s")
    assert claimed is not None
    told.check(claimed)
    for player in players:
        while player.late and rng.random() < 0.7:
            await player.arrive()
    s = claimed.session
    for r in claimed.rows:
        if r.seq > s.acked:
            told.accept(r.seq, r.id)
        if r.seq > s.acked and r.ending is None:
            assert await last.commit([settle(r.seq, epoch=s.epoch)]) == set()
    for o in await last.outcomes("s", s.acked, s.accepted, 1 << 30):
        told.outcome(o.seq, o.body)
    assert await last.commit([Acknowledge("s", s.epoch, s.accepted, 0)]) == set()
    found = await last.session("s")
    assert found is not None
    assert found.done == found.acked == s.accepted
    assert [r async for r in last.requests("s")] == []
    receipt = Receipt("s", s.accepted, s.accepted, 0, 0, 0, verified=True)
    assert await last.commit([End("s", s.epoch, s.accepted, receipt, 9)]) == set()
    # Whatever comes now, those who do not know that they lost the session have nothing to tell.
    for player in players:
        while player.late:
            await player.arrive()
    for player in players:
        for _ in range(3):
            if player.runs:
                await player.work()
    assert await last.tally("s") == Tally(s.accepted, 0, 0, 0)
    for store in (last, *(player.store for player in players)):
        await store.close()
    return told


@pytest.mark.parametrize("seed", range(8))
async def test_what_was_told_stays_true(mongo_uri: str, seed: int) -> None:
    told = await play(mongo_uri, seed)
    assert told.accepted
