"""The model's documents, and the writes that change them: P2 to P16 of ownership.md.

Each write is a pure function named as its step is in ``stores/mongo_*.py``, with that step's
filter. It returns the store after it, or None where it matched nothing. A :class:`Write` is a
value: it may be sent again, or take effect long after its sender has given up on it.

``without`` names the rules that are taken away, to see that each is needed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

NOBODY = -1
STAMPED = 0

Rules = frozenset[str]


class Outcome(NamedTuple):
    """``by`` is an epoch; ``body`` is the node that ran it: what no other run returns."""

    ending: str
    by: int
    body: int


class Row(NamedTuple):
    """A request. ``attempt`` is the document's ``try``; what is stripped has only its id."""

    id: int
    epoch: int
    attempt: int
    cancel: bool = False
    outcome: Outcome | None = None
    stripped: bool = False


class Session(NamedTuple):
    """``given`` is what the last release or end wrote that no other one does."""

    epoch: int = 1
    node: int = 0
    attach: int = 1
    accepted: int = 0
    acked: int = 0
    done: int = 0
    cancelled: int = 0
    open: bool = False
    want: int = NOBODY
    state: str = "live"
    given: tuple[Any, ...] | None = None


class Store(NamedTuple):
    """``rows`` by seq from 1; ``dead`` by node."""

    session: Session
    rows: tuple[Row | None, ...]
    dead: tuple[bool, ...] = (False,) * 4

    def is_own(self, epoch: int, node: int) -> bool:
        """OWN."""
        s = self.session
        return s.epoch == epoch and s.node == node and s.state == "live"

    def sets(self, **fields: Any) -> Store:
        return self._replace(session=self.session._replace(**fields))

    def puts(self, seq: int, row: Row | None) -> Store:
        return self._replace(rows=(*self.rows[: seq - 1], row, *self.rows[seq:]))


class Write(NamedTuple):
    """``name`` is one of the functions below, ``fields`` are its arguments."""

    name: str
    fields: tuple[Any, ...]

    def apply(self, store: Store, without: Rules) -> Store | None:
        after: Store | None = _WRITES[self.name](store, without, *self.fields)
        return after


def take(store: Store, without: Rules, epoch: int, owner: int, me: int) -> Store | None:
    """P2."""
    s = store.session
    if (s.state, s.epoch, s.node) != ("live", epoch, owner):
        return None
    raised = epoch if "claim raises the epoch" in without else epoch + 1
    return store.sets(epoch=raised, node=me, want=NOBODY, open=s.open or s.accepted > s.acked)


def stamp(store: Store, without: Rules, seq: int, epoch: int) -> Store | None:
    """P4, of one row."""
    row = store.rows[seq - 1]
    if row is None or row.stripped or row.outcome is not None or row.epoch >= epoch:
        return None
    return store.puts(seq, row._replace(epoch=epoch, attempt=STAMPED))


def insert(
    store: Store, without: Rules, seq: int, id: int, epoch: int, attempt: int
) -> Store | None:
    """P6; None is a duplicate."""
    if store.rows[seq - 1] is not None:
        return None
    return store.puts(seq, Row(id, epoch, attempt))


def replace(
    store: Store, without: Rules, seq: int, id: int, epoch: int, attempt: int
) -> Store | None:
    """P6, over a row of a lower epoch."""
    row = store.rows[seq - 1]
    if row is None or row.stripped:
        return None
    if row.epoch >= epoch and "a row is replaced where its epoch is lower" not in without:
        return None
    return store.puts(seq, Row(id, epoch, attempt))


def settle(
    store: Store, without: Rules, seq: int, epoch: int, attempt: int, outcome: Outcome
) -> Store | None:
    """P8."""
    row = _unsettled(store, without, seq, epoch, attempt)
    return row and store.puts(seq, row._replace(outcome=outcome))


def mark_cancel(store: Store, without: Rules, seq: int, epoch: int, attempt: int) -> Store | None:
    """P9."""
    row = _unsettled(store, without, seq, epoch, attempt)
    return row and store.puts(seq, row._replace(cancel=True))


def _unsettled(store: Store, without: Rules, seq: int, epoch: int, attempt: int) -> Row | None:
    row = store.rows[seq - 1]
    if row is None or row.stripped:
        return None
    if row.outcome is not None and "an outcome is written once" not in without:
        return None
    if "an outcome needs its epoch" not in without and row.epoch != epoch:
        return None
    if {"an outcome needs its epoch", "an outcome needs its try"} & without:
        return row
    return row if row.attempt == attempt else None


def confirm(
    store: Store, without: Rules, epoch: int, node: int, first: int, last: int
) -> Store | None:
    """P7."""
    if not store.is_own(epoch, node) and "confirm needs OWN" not in without:
        return None
    accepted = store.session.accepted
    if accepted >= last:
        return None
    if accepted < first - 1 and "confirm leaves no gap" not in without:
        return None
    return store.sets(accepted=last, open=True)


def acknowledge(
    store: Store, without: Rules, epoch: int, node: int, acked: int, upto: int, done: int
) -> Store | None:
    """P10. Of (acked, upto] so many are done, the others cancelled."""
    s = store.session
    if not store.is_own(epoch, node):
        return None
    if s.acked != acked and "acknowledge needs the old `acked`" not in without:
        return None
    cancelled = upto - acked - done
    return store.sets(acked=upto, done=s.done + done, cancelled=s.cancelled + cancelled)


def strip(store: Store, without: Rules, after: int, upto: int) -> Store | None:
    """P10, once ``acked`` has moved."""
    for seq in range(after + 1, upto + 1):
        row = store.rows[seq - 1]
        if row is not None:
            store = store.puts(seq, Row(row.id, 0, 0, stripped=True))
    return store


def remove(store: Store, without: Rules, after: int, upto: int) -> Store | None:
    """P10, of stripped rows that are old."""
    for seq in range(after + 1, upto + 1):
        store = store._replace(rows=(*store.rows[: seq - 1], None, *store.rows[seq:]))
    return store


def attach(store: Store, without: Rules, epoch: int, node: int, number: int) -> Store | None:
    """P11."""
    if not store.is_own(epoch, node) or store.session.attach >= number:
        return None
    return store.sets(attach=number, want=NOBODY)


def want(store: Store, without: Rules, epoch: int, owner: int, me: int) -> Store | None:
    """P12."""
    s = store.session
    if (s.state, s.epoch, s.node) != ("live", epoch, owner):
        return None
    return store.sets(want=me)


def release(
    store: Store, without: Rules, epoch: int, node: int, number: int, accepted: int, settled: int
) -> Store | None:
    """P13, with the receipt's numbers."""
    s = store.session
    if not store.is_own(epoch, node) and "release needs OWN" not in without:
        return None
    if s.attach != number and "release needs `attach`" not in without:
        return None
    given = ("release", epoch, number, accepted, settled)
    return store.sets(node=NOBODY, open=accepted > settled, want=NOBODY, given=given)


def end(
    store: Store, without: Rules, epoch: int, node: int, accepted: int, acked: int, done: int
) -> Store | None:
    """P15. Of (acked, accepted] so many are done, the others cancelled."""
    s = store.session
    if not store.is_own(epoch, node) and "end needs OWN" not in without:
        return None
    if (s.accepted, s.acked) != (accepted, acked) and "end needs its numbers" not in without:
        return None
    return store.sets(
        state="ended",
        node=NOBODY,
        open=False,
        acked=accepted,
        done=s.done + done,
        cancelled=s.cancelled + accepted - acked - done,
        given=("end", epoch, accepted),
    )


def delete(store: Store, without: Rules) -> Store | None:
    """P15 and P16: the rows of a session that is not live."""
    return store._replace(rows=(None,) * len(store.rows))


def expire(store: Store, without: Rules, epoch: int) -> Store | None:
    """P16."""
    s = store.session
    free = s.node == NOBODY and not s.open and s.epoch == epoch
    if s.state != "live" or not (free or "only a free session expires" in without):
        return None
    return store.sets(state="gone")


_WRITES = {
    f.__name__: f
    for f in (
        take, stamp, insert, replace, settle, mark_cancel, confirm, acknowledge, strip, remove,
        attach, want, release, end, delete, expire,
    )
}  # fmt: skip
