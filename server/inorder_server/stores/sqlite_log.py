"""The log: groups of writes as they were committed, before they become rows.

Rows of a session are on pages of its own, and each page that a commit touches is written and
checked: where many sessions send one request at a time, that costs more than all else that is
done for it. So what nearly all of a group is, requests, outcomes and acknowledgements, is
added to one table, in one piece, behind what was committed before. The rows follow later
(:mod:`.sqlite_fold`), of a few sessions at a time, those first that are behind the longest;
at once of a session that is read or given up. What was acknowledged by then never becomes rows.

Whoever opens the file writes the rows that are still missing: a server when it starts, a
command line tool before it reads. It may do so beside a server, which then finds that its rows
are further than it thought, and begins anew with what is left of the log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import msgspec

from .port import Acknowledge, Insert, MarkStart, Outcome, RequestRow, Settle, StoreError
from .sqlite_fold import fold
from .sqlite_owned import Owned, Standing
from .sqlite_runs import outcome_runs, request_runs
from .sqlite_schema import MAX_SEQ

Logged = Insert | Settle | MarkStart | Acknowledge
LOGGED = frozenset({Insert, Settle, MarkStart, Acknowledge})

# From which length on the log is shortened: it is what starting after a crash has to make up
# for, what is held in memory, and a part of the file that stays. With less for each of many
# sessions, every request of theirs becomes a row by itself (a tenth of its time, measured).
_LEAST_BYTES = 1 << 20
_BYTES_A_SESSION = 1 << 10
_MOST_GROUPS = 2000
_SESSIONS_AT_ONCE = 16
# Bytes a request, on the average, from which on a group is not worth the log: its bodies have
# pages of their own anyway, and would be written twice.
_LARGE = 4096

_encode_into = msgspec.msgpack.Encoder().encode_into
_decode = msgspec.msgpack.Decoder(list[Logged]).decode
# Only where no other connection committed anything since what is remembered was read. As a
# transaction by itself it is one statement, which is what waking up for it is worth.
_APPEND = """
INSERT INTO log (n, writes)
SELECT ?, ? WHERE (SELECT data_version FROM pragma_data_version) = ?"""


def take(find: Callable[[str], Standing | None], writes: Iterable[Logged]) -> bool:
    """Moves the sessions on by these writes. False at the first that doesn't match where its
    session is: those before it were taken."""
    for w in writes:
        s = find(w.session)
        if s is None or s.epoch != w.epoch:
            return False
        if type(w) is Insert:
            rows = w.rows
            if rows[0].seq != s.accepted + 1 or not _follow(rows):
                return False
            s.accepted = rows[-1].seq
            if s.accepted > MAX_SEQ:
                return False
            s.rows += rows
        elif type(w) is Settle:
            outcomes = w.outcomes
            if outcomes[0].seq != s.settled + 1 or not _follow(outcomes):
                return False
            s.settled = outcomes[-1].seq
            if s.settled > s.accepted:
                return False
            s.outcomes += outcomes
            s.settled_ms += [w.at_ms] * len(outcomes)
        elif not _take_another(s, w):
            return False
    return True


def _follow(run: Sequence[RequestRow] | Sequence[Outcome]) -> bool:
    return run[-1].seq - run[0].seq == len(run) - 1


def _take_another(s: Standing, w: Logged) -> bool:
    if isinstance(w, Acknowledge):
        if w.seq > s.acked:
            s.acked, s.keep = w.seq, w.keep
        return w.seq <= s.settled
    if isinstance(w, MarkStart):
        s.marks.append(w)
        return s.settled < w.seq <= s.accepted
    return False


def encoded(writes: Sequence[Logged]) -> bytearray:
    """The row of the log that these writes make."""
    entry = bytearray()
    _encode_into(writes, entry)
    return entry


def is_large(writes: Sequence[Logged], entry: bytearray) -> bool:
    """Whether the group is not worth the log."""
    if len(entry) <= _LARGE * max(len(writes), 1):
        return False
    count = 0
    for w in writes:
        count += len(w.rows) if type(w) is Insert else len(w.outcomes) if type(w) is Settle else 1
    return len(entry) > _LARGE * count


def append(
    db: sqlite3.Connection, owned: Owned, writes: Sequence[Logged], entry: bytearray
) -> bool:
    """Adds what was taken to the log. False where somebody else wrote to the file, so that the
    sessions may not be what they were taken for."""
    owned.log_end += 1
    if db.execute(_APPEND, (owned.log_end, entry, owned.version)).rowcount != 1:
        return False
    for w in writes:
        owned.ahead.setdefault(w.session, owned.log_end)
    owned.sizes.append(len(entry))
    owned.log_bytes += len(entry)
    owned.pages += 2 + len(entry) // 8192
    return True


def bypass(db: sqlite3.Connection, owned: Owned, writes: Sequence[Logged]) -> bool:
    """Makes rows at once of what was taken. False where those that are there don't match."""
    for w in writes:
        owned.ahead.setdefault(w.session, owned.log_end + 1)
    return catch_up(db, owned, {w.session for w in writes})


def is_long(owned: Owned) -> bool:
    """Whether it is time for :func:`shorten`."""
    return owned.log_bytes > _most_bytes(owned) or len(owned.sizes) > _MOST_GROUPS


def _most_bytes(owned: Owned) -> int:
    return max(_LEAST_BYTES, _BYTES_A_SESSION * len(owned.standings))


def shorten(db: sqlite3.Connection, owned: Owned, added: int) -> bool:
    """Makes rows of what the log has of the sessions that are behind the longest: of so many
    that it grows no further if ``added`` bytes come with each commit. False where their rows
    don't match."""
    most = max(_SESSIONS_AT_ONCE, 2 * len(owned.ahead) * added // _most_bytes(owned))
    oldest = list(islice(owned.ahead, most))
    if not catch_up(db, owned, oldest):
        return False
    start = owned.log_end - len(owned.sizes) + 1
    first = next(iter(owned.ahead.values()), owned.log_end + 1)
    if first > start:
        db.execute("DELETE FROM log WHERE n < ?", (first,))
        for _ in range(first - start):
            owned.log_bytes -= owned.sizes.popleft()
    return True


def catch_up(db: sqlite3.Connection, owned: Owned, sessions: Iterable[str]) -> bool:
    """Makes rows of what the log has of these, within the transaction that is open. False where
    their rows don't match."""
    behind = [id for id in sessions if id in owned.ahead]
    standings = [owned.standings[id] for id in behind]
    if standings and not fold(db, standings):
        return False
    owned.pages += 3 * len(standings)
    for id, s in zip(behind, standings, strict=True):
        s.clear()
        del owned.ahead[id]
    return True


# ---- from the file alone


def replay(db: sqlite3.Connection, owned: Owned | None = None) -> None:
    """Makes rows of all that is in the log, and empties it; ``owned`` begins anew from there.

    Where a session's rows contradict the log, what it has is put beside them, for the audit to
    find, and the session is noted as broken. Raises :class:`StoreError` for a log that can't
    be read.
    """
    db.execute("BEGIN IMMEDIATE")
    if owned is not None:
        owned.begin(db)
    last, writes = _read(db)
    sessions = _missing(db, writes)
    if all(right for _, right in sessions.values()) and fold(db, [s for s, _ in sessions.values()]):
        _empty(db, last)
        return
    if db.in_transaction:
        db.execute("ROLLBACK")
    broken = {id for id, (s, right) in sessions.items() if not _fold_alone(db, s, right)}
    if owned is not None:
        owned.broken |= broken
    db.execute("BEGIN IMMEDIATE")
    _empty(db, last)


def _empty(db: sqlite3.Connection, last: int) -> None:
    db.execute("DELETE FROM log WHERE n <= ?", (last,))
    db.execute("COMMIT")


def _read(db: sqlite3.Connection) -> tuple[int, dict[str, list[Logged]]]:
    """The last row's number, and what there is of each session."""
    last = 0
    writes: dict[str, list[Logged]] = {}
    for n, entry in db.execute("SELECT n, writes FROM log ORDER BY n"):
        last = n
        try:
            for w in _decode(entry):
                writes.setdefault(w.session, []).append(w)
        except (msgspec.MsgspecError, TypeError) as exc:
            raise StoreError(f"the database's log can't be read (row {n}): {exc}") from exc
    return last, writes


def _missing(
    db: sqlite3.Connection, writes: dict[str, list[Logged]]
) -> dict[str, tuple[Standing, bool]]:
    """The sessions whose rows lack something, and whether it matches what they have."""
    found: dict[str, tuple[Standing, bool]] = {}
    for id, all_of_it in writes.items():
        row = db.execute(
            "SELECT n, epoch, node, accepted, settled, acked FROM sessions"
            " WHERE id = ? AND state = 'live'",
            (id,),
        ).fetchone()
        if row is None:
            continue
        s = Standing(*row)
        left = [w for w in all_of_it if _lacks(s, w)]
        if left:
            # Whatever became of its epoch since, it was committed.
            epoch, s.epoch = s.epoch, left[0].epoch
            right = take({id: s}.get, left)
            s.epoch = epoch
            found[id] = s, right
    return found


def _lacks(s: Standing, w: Logged) -> bool:
    """The numbers say what rows were made of already."""
    if isinstance(w, Insert):
        return w.rows[0].seq > s.accepted
    if isinstance(w, Acknowledge):
        return w.seq > s.acked
    if isinstance(w, Settle):
        return w.outcomes[0].seq > s.settled
    # Rows were made of it all before the session was taken up anew.
    return w.seq > s.settled and w.epoch == s.epoch


def _fold_alone(db: sqlite3.Connection, s: Standing, right: bool) -> bool:
    """In a transaction of its own. False where what the log has contradicts the rows; as much
    of it as can be is then among them."""
    db.execute("BEGIN IMMEDIATE")
    if right and fold(db, [s]):
        db.execute("COMMIT")
        return True
    if db.in_transaction:
        db.execute("ROLLBACK")
    db.execute("BEGIN IMMEDIATE")
    # Rows that are gone can't be acknowledged, which keeps nothing else from its place.
    s.acked = s.stripped
    if not fold(db, [s]):
        if db.in_transaction:
            db.execute("ROLLBACK")
        db.execute("BEGIN IMMEDIATE")
        runs = [request_runs(s.base, [row]) for row in s.rows]
        runs += [
            outcome_runs(s.base, [o], [at]) for o, at in zip(s.outcomes, s.settled_ms, strict=True)
        ]
        db.executemany("INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?)", runs)
    db.execute("COMMIT")
    return False
