"""What the writer remembers of the sessions that its node owns."""

from __future__ import annotations

import sqlite3

from .sqlite_schema import MAX_NUMBER


class Owned:
    """What the writer remembers of the sessions that its node owns, and only of those."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.numbers: dict[str, int] = {}
        """Session id to its ``n``, which saves an index look-up a write."""
        self.was_clean: dict[str, bool] = {}
        """Of a claim that was made, but whose rows could not be read yet."""
        self.logged = 0
        """About how many pages were added to the log since it was last copied."""
        self._last_number = 0
        self._came_round = False

    def forget(self, session: str) -> None:
        self.numbers.pop(session, None)
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
        n = self.numbers.get(session)
        if n is None:
            found = db.execute("SELECT n FROM sessions WHERE id = ?", (session,)).fetchone()
            n = None if found is None else found[0]
        return n
