"""The store port: the operations that the journal is built on, in the words of the domain.

Source: design.md section 6 and ownership.md (P1 to P16), whose names the methods bear. Times
are integer milliseconds since 1970; bodies (params, results) are encoded JSON bytes. A
session is named by its id. Every adapter passes ``tests/server/stores/test_contract.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from inorder.messages import Receipt

Ending = Literal["done", "failed", "cancelled"]
SessionState = Literal["live", "ended", "gone"]


class StoreUnavailable(Exception):
    """The store can't be reached or can't write now; whether the last write took effect is
    not known. The same call again is safe: all of them are idempotent."""


class StoreError(Exception):
    """The store can't be used at all (no database, wrong version, taken by another
    process). The text is one line for the operator."""


class Damaged(Exception):
    """The store lacks what it had confirmed of a session, or has it in a form that can't be
    read: an operator restored an old copy, or changed rows. Never papered over: the session is
    left alone and counted as a violation."""


# ---- what is kept


class User(Struct, frozen=True):
    """An account. A higher ``generation`` makes every older token void."""

    name: str
    password_hash: bytes
    generation: int
    admin: bool
    created_ms: int


class RequestRow(Struct, gc=False, array_like=True):
    """An accepted request. ``params`` is None where the client gave none.

    ``attempt`` counts its start marks. ``ending`` and ``outcome`` are None until it is
    settled. Once acknowledged only ``seq``, ``id`` and ``digest`` are left
    (``stripped`` is true), so that a late repeat is recognised.
    """

    seq: int
    id: str
    digest: bytes
    method: str
    params: bytes | None
    accepted_ms: int
    timeout: float | None = None
    traceparent: str | None = None
    attempt: int = 0
    cancel: bool = False
    ending: Ending | None = None
    outcome: bytes | None = None
    settled_ms: int | None = None
    stripped: bool = False


class Outcome(Struct, frozen=True, gc=False, array_like=True):
    """How a request ended. ``body`` is the result's JSON for ``done``, otherwise the JSON
    object {code, message, details}."""

    seq: int
    id: str
    ending: Ending
    body: bytes


class SessionRow(Struct):
    """A session. ``done + failed + cancelled`` tally the rows that were acknowledged, that
    is those up to ``acked``.

    ``node`` owns it (None: nobody). ``clean`` says that its last owner released it with
    nothing in flight; ``open`` that it has work which adopters should run, ``held`` that its
    work waits for its client. Work that is neither is blocked: it waits for an operator.
    ``left_ms`` is when its last connection went, or it was made. ``receipt`` is its newest one.
    """

    id: str
    user: str
    epoch: int
    attach: int
    node: str | None
    accepted: int
    acked: int
    done: int
    failed: int
    cancelled: int
    clean: bool
    open: bool
    state: SessionState
    created_ms: int
    left_ms: int
    receipt: Receipt | None = None
    held: bool = False


class Claimed(Struct):
    """A session that was just claimed: its row under the new epoch, whether the last owner
    had released it cleanly, and its requests in seq order.

    Rows that are settled come without their bodies (read those with ``outcomes``), and may
    lack what else only those that are still to run need; stripped ones are included.
    """

    session: SessionRow
    was_clean: bool
    rows: list[RequestRow]


class Tally(Struct, frozen=True):
    """What the journal's rows, and the tally of those acknowledged, say of a session.

    Counted from rows, never from ``accepted``: this is one of the two countings that a
    receipt compares.
    """

    done: int
    failed: int
    cancelled: int
    pending: int


class Command(Struct, frozen=True):
    """An operator's command to whichever node it concerns: ``verb`` is revoke, disconnect,
    drain, retry or skip; ``target`` a user, session or node."""

    n: int
    verb: str
    target: str
    argument: str
    created_ms: int


# ---- writes that are committed in groups
#
# Those with a tag are kept by the SQLite adapter as they are, in the order of their fields.


class Create(Struct, gc=False):
    """P1. The session's row, before any of its requests. Owned by ``node``."""

    session: str
    user: str
    epoch: int
    attach: int
    node: str
    at_ms: int


class Insert(Struct, gc=False, array_like=True, tag=1):
    """P6 and P7. The next numbers' rows, at least one, and with them the session's ``accepted``.
    They are those of new requests: no mark, no outcome."""

    session: str
    epoch: int
    rows: list[RequestRow]

    @property
    def row(self) -> RequestRow:
        """The only one, as :func:`singly` makes them."""
        (row,) = self.rows
        return row


class Settle(Struct, gc=False, array_like=True, tag=2):
    """P8. The outcomes of the lowest unsettled requests, at least one, each once."""

    session: str
    epoch: int
    outcomes: list[Outcome]
    at_ms: int

    @property
    def outcome(self) -> Outcome:
        """The only one, as :func:`singly` makes them."""
        (outcome,) = self.outcomes
        return outcome

    @property
    def seq(self) -> int:
        """The only one's."""
        return self.outcome.seq


class MarkCancel(Struct, gc=False):
    """P9. A cancel that was answered survives."""

    session: str
    epoch: int
    seq: int


class MarkStart(Struct, gc=False, array_like=True, tag=3):
    """P5. ``attempt`` as a value: the start mark of a head that may have run before."""

    session: str
    epoch: int
    seq: int
    attempt: int


class Acknowledge(Struct, gc=False, array_like=True, tag=4):
    """P10. Moves ``acked`` to ``seq`` and the tallies with it (counted from the rows), strips
    those rows to {id, digest}, and deletes stripped ones older than ``keep`` numbers."""

    session: str
    epoch: int
    seq: int
    keep: int


class Attach(Struct, gc=False):
    """P11. A resume at the owner: raises ``attach`` to this value."""

    session: str
    epoch: int
    attach: int


class Release(Struct):
    """P13. Gives the session up (``node`` None or the one that wants it), with its receipt."""

    session: str
    epoch: int
    attach: int
    node: str | None
    clean: bool
    open: bool
    receipt: Receipt
    at_ms: int
    held: bool = False


class End(Struct):
    """P15. The session is over: its receipt stays until ``session_ttl``, its rows go."""

    session: str
    epoch: int
    accepted: int
    receipt: Receipt
    at_ms: int


Write = Create | Insert | Settle | MarkCancel | MarkStart | Acknowledge | Attach | Release | End


def singly(writes: Iterable[Write]) -> Iterator[Write]:
    """The same writes, in order, each of one request."""
    for w in writes:
        if type(w) is Insert and len(w.rows) > 1:
            yield from [Insert(w.session, w.epoch, [row]) for row in w.rows]
        elif type(w) is Settle and len(w.outcomes) > 1:
            yield from [Settle(w.session, w.epoch, [o], w.at_ms) for o in w.outcomes]
        else:
            yield w


class Store(Protocol):
    """What every adapter offers. All methods may raise :class:`StoreUnavailable`.

    Only ``commit`` and ``claim`` change sessions. A write that names a session which is not
    OWN (live, this node's, of this epoch) matches nothing: the session is *fenced*.
    """

    name: str
    """For people: "SQLite inorder.db"."""

    async def open(self, node: str) -> None:
        """Makes or checks the database and takes it for ``node``, a name never used before.

        Raises :class:`StoreError`. On a store with one process a file, whatever another
        node owned is free from now on: its process is gone.
        """
        ...

    async def close(self) -> None:
        """Finishes what was begun and lets the database go. May be called twice."""
        ...

    async def commit(self, writes: Sequence[Write]) -> set[str]:
        """Makes all writes durable, in order, or raises :class:`StoreUnavailable`.

        Returns the ids of fenced sessions: none of their writes in this call took effect
        after the first that matched nothing; other sessions' writes did. Repeating a call
        whose answer was lost changes nothing and gives the same answer.
        """
        ...

    async def claim(self, session: str) -> Claimed | None:
        """P2 to P5: takes a live session for this node, raising its epoch by one.

        From then on it is ``open`` where it has unsettled requests, and no longer ``held``.
        None where there is no such live session or a living node owns it.
        """
        ...

    async def session(self, session: str) -> SessionRow | None:
        """The session's row, whatever its state."""
        ...

    async def unfinished(self) -> list[str]:
        """P14: the ids of live sessions with work to adopt and no living owner."""
        ...

    async def outcomes(self, session: str, after: int, upto: int, max_bytes: int) -> list[Outcome]:
        """Settled, not yet acknowledged outcomes with ``after < seq <= upto`` in order; at
        least one where there is one, then no more than ``max_bytes`` of bodies."""
        ...

    async def tally(self, session: str) -> Tally:
        """G6's independent counting."""
        ...

    async def held(self, left_before_ms: int) -> list[str]:
        """P16: sessions without owner whose work is held and whose ``left_ms`` is older."""
        ...

    async def expire(self, left_before_ms: int, ended_before_ms: int) -> list[str]:
        """P16: sessions without owner and open work whose ``left_ms`` is older are gone, with
        their rows; ended ones as old are forgotten. Returns the ids of those gone."""
        ...

    # -- users

    async def add_user(self, user: User) -> bool:
        """False where the name is taken."""
        ...

    async def user(self, name: str) -> User | None: ...

    async def users(self) -> list[User]: ...

    async def set_password(self, name: str, password_hash: bytes) -> bool:
        """Also raises the generation. False where there is no such user."""
        ...

    async def revoke(self, name: str) -> bool:
        """Raises the generation, so that no token works any more. False: no such user."""
        ...

    async def delete_user(self, name: str) -> bool:
        """False where there is no such user."""
        ...

    # -- operators

    async def post(self, verb: str, target: str, argument: str, at_ms: int) -> int:
        """Leaves a command for the nodes; returns its number. Old ones are swept."""
        ...

    async def commands(self, after: int) -> list[Command]:
        """Commands with a higher number than ``after``, in order."""
        ...

    async def last_command(self) -> int:
        """The highest number given so far, 0 for none."""
        ...

    async def sessions(self) -> list[SessionRow]:
        """Every session that is known, newest first."""
        ...

    def requests(self, session: str, after: int = 0) -> AsyncIterator[RequestRow]:
        """The session's rows in seq order, bodies included, read in portions.

        For the audit it also shows what must not be: an outcome whose request is gone, as a
        row without an id.
        """
        ...
