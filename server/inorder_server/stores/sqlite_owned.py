"""What the writer remembers of the sessions that its node owns."""

from __future__ import annotations

import sqlite3
from collections import deque

from .port import MarkStart, Outcome, RequestRow
from .sqlite_schema import MAX_NUMBER, SEQ_BITS


class Standing:
    """How far a session is, and what of that its rows don't have yet: see :mod:`.sqlite_log`."""

    __slots__ = (
        "accepted", "acked", "base", "epoch", "keep", "marks", "n", "node", "outcomes", "rows",
        "settled", "settled_ms", "stripped",
    )  # fmt: skip

    def __init__(
        self, n: int, epoch: int, node: str, accepted: int = 0, settled: int = 0, acked: int = 0
    ) -> None:
        self.n = n
        self.base = n << SEQ_BITS
        self.epoch = epoch
        self.node = node
        self.accepted = accepted
        self.settled = settled
        self.acked = acked
        self.clear()

    def clear(self) -> None:
        """Its rows have it all."""
        self.rows: list[RequestRow] = []
        self.outcomes: list[Outcome] = []
        self.settled_ms: list[int] = []
        """Of each of these outcomes."""
        self.marks: list[MarkStart] = []
        self.stripped = self.acked
        """``acked`` as its rows have it."""
        self.keep = 0
        """The last acknowledgement's."""


class Owned:
    """What the writer remembers of the sessions that its node owns, and only of those."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.standings: dict[str, Standing] = {}
        """By session id, of those that were written to since they were taken up."""
        self.ahead: dict[str, int] = {}
        """The sessions whose rows lack something, and since which row of the log; the oldest
        first."""
        self.sizes: deque[int] = deque()
        """Of the rows of the log, in bytes."""
        self.log_bytes = 0
        self.log_end = 0
        """The number of the last row of the log."""
        self.sure = False
        """Whether the file has what is remembered here, and no more, unless somebody else wrote to
        it. Not while a group is under way, or after one whose end is not known."""
        self.version = 0
        """Another one once somebody else has written. Each connection has its own."""
        self.broken: set[str] = set()
        """Sessions whose rows contradict what was written to them."""
        self.was_clean: dict[str, bool] = {}
        """Of a claim that was made, but whose rows could not be read yet."""
        self.pages = 0
        """About how many were written since the last checkpoint."""
        self._last_number = 0
        self._came_round = False

    def standing(self, db: sqlite3.Connection, session: str) -> Standing | None:
        """Where the session is; None where it isn't OWN."""
        s = self.standings.get(session)
        if s is None:
            found = db.execute(
                "SELECT n, epoch, node, accepted, settled, acked FROM sessions"
                " WHERE id = ? AND node = ? AND state = 'live'",
                (session, self.node),
            ).fetchone()
            if found is not None:
                s = self.standings[session] = Standing(*found)
        return s

    def begin(self, db: sqlite3.Connection) -> None:
        """Remembers nothing of any session: the file, locked for ``db``, has it all, and its
        log is taken for empty."""
        self.standings.clear()
        self.ahead.clear()
        self.sizes.clear()
        self.log_bytes = 0
        (self.version,) = db.execute("PRAGMA data_version").fetchone()

    def forget(self, session: str) -> None:
        """Its rows have all there is of it."""
        self.standings.pop(session, None)
        self.ahead.pop(session, None)
        self.was_clean.pop(session, None)

    def next_number(self, db: sqlite3.Connection) -> int:
        """A number that no session has. They come round after 2**28 sessions."""
        if not self._last_number:
            self._last_number = db.execute("SELECT ifnull(max(n), 0) FROM sessions").fetchone()[0]
        while True:
            if self._last_number == MAX_NUMBER:
                self._last_number = 0
                self._came_round = True
            self._last_number += 1
            taken = (
                self._came_round
                and db.execute(
                    "SELECT 1 FROM sessions WHERE n = ?", (self._last_number,)
                ).fetchone()
            )
            if not taken:
                return self._last_number

    def number(self, db: sqlite3.Connection, session: str) -> int | None:
        """The session's number, whoever owns it; None where there is no such session."""
        standing = self.standings.get(session)
        if standing is not None:
            return standing.n
        found = db.execute("SELECT n FROM sessions WHERE id = ?", (session,)).fetchone()
        return None if found is None else int(found[0])
