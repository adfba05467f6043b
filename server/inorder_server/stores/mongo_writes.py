"""A group of writes on MongoDB: one bulk a collection for everything that waits.

P1 and P6 to P15 of ownership.md, in that order. A bulk tells only a total: where it falls short,
that batch's documents are read again, and only sessions that are no longer OWN (or writes that
can never match) are fenced. What turns out to be in effect already may have been written by an
attempt whose answer was lost, which proves nothing of its durability: it is written to once more
(``again``), acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymongo.operations import DeleteMany, UpdateMany, UpdateOne

from .mongo_documents import (
    STRIPPED,
    Document,
    Found,
    is_own,
    own,
    request_document,
    row_id,
    rows,
    session_document,
)
from .mongo_link import Change as Operation
from .mongo_link import MongoLink
from .mongo_owned import Owned
from .mongo_rounds import Change, Plan, Round, given_up_at
from .mongo_steps import (
    Step,
    attach,
    change,
    confirm,
    count,
    created,
    end,
    ids_of,
    in_effect,
    is_acknowledged,
    release,
)
from .port import (
    Acknowledge,
    Create,
    End,
    Insert,
    Release,
    Settle,
    StoreUnavailable,
    Write,
    singly,
)

_LOOKS = 5
AGAIN = {"$inc": {"again": 1}}
_ROW_MARKS = {"epoch": 1, "id": 1, "attempt": 1, "cancel": 1, "ending": 1, "by": 1}


async def commit(link: MongoLink, owned: Owned, writes: Sequence[Write]) -> set[str]:
    """Makes ``writes`` durable and returns the fenced sessions (see the port)."""
    if not writes:
        return set()
    try:
        return await _Group(link, owned).commit(writes)
    except BaseException:
        for w in writes:
            if isinstance(w, Release | End) and w.session in owned.sessions:
                owned.sessions[w.session].unsure = True
        raise


class _Group:
    def __init__(self, link: MongoLink, owned: Owned) -> None:
        self._link = link
        self._owned = owned
        self._fenced: dict[str, int] = {}

    async def commit(self, group: Sequence[Write]) -> set[str]:
        # A document is a request's.
        writes = list(singly(group))
        plan = Plan(self._owned, writes, await self._look(writes))
        self._fenced = plan.fenced
        for round in plan.rounds:
            await self._create(round)
            await self._rows(round)
            await self._progress(round)
            await self._give_up(round)
        return set(self._fenced)

    def _stands(self, i: int, session: str) -> bool:
        """Whether this write comes before whatever fenced its session."""
        fenced = self._fenced.get(session)
        return fenced is None or i < fenced

    def _fence(self, i: int, session: str) -> None:
        self._fenced[session] = min(i, self._fenced.get(session, i))

    def _owns(self, doc: Found | None, session: str) -> bool:
        """Whether the session is OWN. One that is not is forgotten, and all its writes fenced."""
        there = self._owned.sessions.get(session)
        if there is not None and is_own(doc, there.epoch, self._owned.node):
            return True
        self._owned.sessions.pop(session, None)
        self._fenced[session] = -1
        return False

    async def _look(self, writes: Sequence[Write]) -> dict[str, int]:
        """Of sessions that may have been given up by this very group: the place up to which
        its writes are in effect."""
        unsure = {}
        for w in writes:
            there = self._owned.sessions.get(w.session)
            if there.unsure if there is not None else type(w) is not Create:
                unsure[w.session] = w
        skip: dict[str, int] = {}
        for id, doc in (await self._link.find(self._link.sessions, list(unsure))).items():
            there = self._owned.sessions.get(id)
            i = given_up_at(doc, writes)
            if i is not None and not await self._still_so(doc):
                raise StoreUnavailable(f"session {id} moved while it was looked at")
            if i is not None:
                skip[id] = i
                self._owned.sessions.pop(id, None)
                if isinstance(writes[i], End):
                    await self._link.requests.delete_many(rows(id))
            elif there is not None:
                there.unsure = False
        return skip

    async def _still_so(self, doc: Found) -> bool:
        seen = {key: doc[key] for key in ("_id", "epoch", "node", "state", "left_ms")}
        return (await self._link.sessions.update_one(seen, AGAIN)).matched_count == 1

    # ---- P1

    async def _create(self, round: Round) -> None:
        creates = [(i, w) for i, w in round.creates if self._stands(i, w.session)]
        docs = [session_document(w) for _, w in creates]
        there = await self._link.insert(self._link.sessions, docs)
        again = [creates[n] for n in there]
        if again:
            await self._judge([created(i, w) for i, w in again])

    # ---- P6, P8, P9, and the start mark of P5

    async def _rows(self, round: Round) -> None:
        inserts = [(i, w) for i, w in round.inserts if self._stands(i, w.session)]
        changes = [(i, w) for i, w in round.changes if self._stands(i, w.session)]
        owned = self._owned.sessions
        attempt = self._owned.new_try()
        there = await self._link.insert(
            self._link.requests, [request_document(w, attempt) for _, w in inserts]
        )
        for _, w in inserts:
            owned[w.session].tries[w.row.seq] = attempt
        if there:
            await self._judge_inserts([inserts[n] for n in there])
        # In order: of several outcomes of a session the later one never comes first.
        done = await self._link.change(
            self._link.requests, [change(w, owned[w.session].attempt(w.seq)) for _, w in changes]
        )
        if done < len(changes):
            await self._judge_changes(changes)
        for _, c in changes:
            if isinstance(c, Settle) and c.session in owned:
                owned[c.session].tries.pop(c.seq, None)

    async def _judge_inserts(self, inserts: list[tuple[int, Insert]]) -> None:
        """P6, "Duplicate"."""
        requests = self._link.requests
        for _ in range(_LOOKS):
            ids = [row_id(w.session, w.row.seq) for _, w in inserts]
            found = await self._link.find(requests, ids, {"epoch": 1, "id": 1, "try": 1})
            attempt = self._owned.new_try()
            replaced: list[Operation] = []
            mine: list[Operation] = []
            missing = 0
            for i, w in inserts:
                doc = found.get(row_id(w.session, w.row.seq))
                if doc is None:
                    missing += 1
                elif doc["id"] == w.row.id and doc.get("epoch") == w.epoch:
                    mine.append(UpdateOne(dict(doc), AGAIN))
                    self._owned.sessions[w.session].tries[w.row.seq] = doc["try"]
                elif doc["id"] == w.row.id and "epoch" not in doc:
                    pass  # stripped: it was acknowledged since
                elif doc.get("epoch", w.epoch) < w.epoch:
                    whole = request_document(w, attempt)
                    filter = {"_id": whole.pop("_id"), "epoch": {"$lt": w.epoch}}
                    replaced.append(UpdateOne(filter, {"$set": whole}))
                else:
                    self._fence(i, w.session)
            await self._link.change(requests, replaced)
            proven = await self._link.change(requests, mine)
            if not replaced and not missing and proven == len(mine):
                return
        raise StoreUnavailable("requests moved while they were looked at")

    async def _judge_changes(self, changes: list[tuple[int, Change]]) -> None:
        """Which of these are in effect; the others are fenced."""
        link = self._link
        for _ in range(_LOOKS):
            sessions = await link.find(link.sessions, list({w.session for _, w in changes}))
            ids = [row_id(w.session, w.seq) for _, w in changes]
            found = await link.find(link.requests, ids, {**_ROW_MARKS, "outcome": 1})
            proofs: list[Operation] = []
            for i, w in changes:
                doc = sessions.get(w.session)
                if self._owns(doc, w.session) and doc is not None and w.seq > doc["acked"]:
                    row = found.get(row_id(w.session, w.seq))
                    if row is None or not in_effect(row, w):
                        self._fence(i, w.session)
                    else:
                        seen = {k: v for k, v in row.items() if k != "outcome"}
                        proofs.append(UpdateOne(seen, AGAIN))
            if await link.change(link.requests, proofs) == len(proofs):
                return
        raise StoreUnavailable("requests moved while they were looked at")

    # ---- P7, P10, P11

    async def _progress(self, round: Round) -> None:
        steps: list[Step] = []
        confirmed: dict[str, list[int]] = {}
        for i, w in round.inserts:
            if self._stands(i, w.session):
                first, _, last = confirmed.setdefault(w.session, [w.row.seq, i, 0])
                confirmed[w.session] = [min(first, w.row.seq), i, max(last, w.row.seq)]
        steps += [confirm(i, s, first, last) for s, (first, i, last) in confirmed.items()]
        steps += [
            attach(i, id, w.attach) for id, (i, w) in round.attaches.items() if self._stands(i, id)
        ]
        acknowledges = [
            (i, w) for i, w in round.acknowledges.values() if self._stands(i, w.session)
        ]
        steps += await self._acknowledge(acknowledges)
        await self._set(steps)
        for id, (_, _, last) in confirmed.items():
            there = self._owned.sessions.get(id)
            if there is not None and id not in self._fenced:
                there.accepted = max(there.accepted, last)
        await self._strip([w for i, w in acknowledges if self._stands(i, w.session)])

    async def _acknowledge(self, acknowledges: list[tuple[int, Acknowledge]]) -> list[Step]:
        """The moves of ``acked``, with the tallies counted from the rows."""
        link, wanted = self._link, {}
        for i, w in acknowledges:
            there = self._owned.sessions[w.session]
            if w.seq > there.acked:
                wanted[w.session] = (i, w, there.acked)
        found = await link.find(link.requests, ids_of(wanted), {"ending": 1})
        steps = []
        short = []
        for i, w, acked in wanted.values():
            counts = count(found, w.session, acked, w.seq)
            if counts is None:
                short.append((i, w))
                continue
            steps.append(
                Step(
                    i,
                    w.session,
                    {"acked": acked},
                    {"$set": {"acked": w.seq}, "$inc": counts},
                    is_acknowledged(w.seq),
                )
            )
        # An earlier attempt may have acknowledged and stripped them.
        await self._judge([Step(i, w.session, {}, {}, is_acknowledged(w.seq))
                           for i, w in short])  # fmt: skip
        return steps

    async def _strip(self, acknowledges: list[Acknowledge]) -> None:
        """P10: only now, for ``acked`` has moved."""
        operations: list[Operation] = []
        moved = [w for w in acknowledges if w.seq > self._owned.sessions[w.session].acked]
        for w in moved:
            there = self._owned.sessions[w.session]
            gone = max(w.seq - w.keep, 0)
            kept_from = max(there.acked, gone)
            if gone > there.swept:
                operations.append(DeleteMany(rows(w.session, there.swept, gone)))
            if w.seq > kept_from:
                unset = {"$unset": STRIPPED}
                operations.append(UpdateMany(rows(w.session, kept_from, w.seq), unset))
        await self._link.change(self._link.requests, operations, ordered=False)
        for w in moved:
            there = self._owned.sessions[w.session]
            there.acked = w.seq
            there.swept = max(there.swept, w.seq - w.keep, 0)

    # ---- P13, P15

    async def _give_up(self, round: Round) -> None:
        gives = [(i, w) for i, w in round.gives if self._stands(i, w.session)]
        await self._set([
            await self._end(i, w) if isinstance(w, End) else release(i, w) for i, w in gives
        ])  # fmt: skip
        over = [w for i, w in gives if self._stands(i, w.session)]
        await self._link.change(
            self._link.requests,
            [DeleteMany(rows(w.session)) for w in over if isinstance(w, End)],
            ordered=False,
        )
        for w in over:
            self._owned.sessions.pop(w.session, None)

    async def _end(self, i: int, w: End) -> Step:
        acked = self._owned.sessions[w.session].acked
        cursor = self._link.requests.find(rows(w.session, acked, w.accepted), {"ending": 1})
        counts = {"done": 0, "failed": 0, "cancelled": 0}
        for row in await cursor.to_list():
            if row["ending"] is not None:
                counts[row["ending"]] += 1
        return end(i, w, acked, counts)

    # ---- compare-and-set on sessions

    async def _set(self, steps: Sequence[Step]) -> None:
        steps = [step for step in steps if self._stands(step.i, step.session)]
        done = await self._link.change(
            self._link.sessions,
            [UpdateOne({**self._own(s.session), **s.needs}, s.sets) for s in steps],
        )
        if done < len(steps):
            await self._judge(steps)

    def _own(self, session: str) -> Document:
        return own(session, self._owned.sessions[session].epoch, self._owned.node)

    async def _judge(self, steps: Sequence[Step]) -> None:
        """Which of these are in effect; the others are fenced."""
        if not steps:
            return
        link = self._link
        for _ in range(_LOOKS):
            found = await link.find(link.sessions, list({s.session for s in steps}))
            proofs: list[Operation] = []
            for step in steps:
                doc = found.get(step.session)
                if not (step.gives_up or self._owns(doc, step.session)):
                    continue
                if doc is None or not step.in_effect(doc):
                    self._fence(step.i, step.session)
                    self._owns(doc, step.session)
                    continue
                keys = ("_id", "epoch", "node", "state", "accepted", "acked", "attach", "left_ms")
                proofs.append(UpdateOne({key: doc[key] for key in keys}, AGAIN))
            if await link.change(link.sessions, proofs) == len(proofs):
                return
        raise StoreUnavailable("sessions moved while they were looked at")
