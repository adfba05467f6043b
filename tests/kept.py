"""What a server keeps, read from its database: SQLite's file and MongoDB's documents in the same
rows.

Imports nothing of the server; the formats are described in its ``stores``.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pymongo
import sqlite_file
import vector_server
from frames import Json
from vector_server import ServerProcess


class Session(NamedTuple):
    """``done``, ``failed`` and ``cancelled`` tally what was acknowledged."""

    id: str
    user: str
    node: str | None
    epoch: int
    accepted: int
    settled: int
    acked: int
    done: int
    failed: int
    cancelled: int
    state: str
    receipt: Json | None

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.accepted, self.settled, self.acked


class Request(NamedTuple):
    """One that was accepted, and is not acknowledged. ``body`` is its outcome's."""

    session: str
    seq: int
    id: str
    attempt: int
    ending: str | None
    body: Any


class Kept(Protocol):
    """All of them in order: sessions as they were made, requests by session and number."""

    def sessions(self) -> list[Session]: ...

    def requests(self) -> list[Request]: ...

    def stripped(self) -> list[str]:
        """The ids by which late repeats are known."""
        ...

    def passwords(self) -> dict[str, bytes]:
        """The hash of each user's."""
        ...

    def everything(self) -> object:
        """To be compared; but for what a node writes by itself."""
        ...

    def take_over(self) -> None:
        """The epoch of every session is raised, as the claim of another node does it."""
        ...

    def lose(self, request: Request) -> None:
        """Deletes its row."""
        ...


def kept(server: ServerProcess) -> Kept:
    """What this server keeps, which need not run."""
    if vector_server.databases is not None:
        return _Documents(vector_server.databases.of(server.folder))
    return _Tables(server.database)


def session_of(server: ServerProcess, id: str) -> Session:
    """The row of this session."""
    (found,) = (session for session in kept(server).sessions() if session.id == id)
    return found


def journal_counts(server: ServerProcess) -> dict[str, int]:
    """What the journal says of all sessions: its rows, and the tallies of those that are gone."""
    sessions = kept(server).sessions()
    rows = Counter(request.ending or "pending" for request in kept(server).requests())
    return {
        "sessions": len(sessions),
        "accepted": sum(session.accepted for session in sessions),
        "done": rows["done"] + sum(session.done for session in sessions),
        "failed": rows["failed"] + sum(session.failed for session in sessions),
        "cancelled": rows["cancelled"] + sum(session.cancelled for session in sessions),
        "pending": rows["pending"],
    }


class _Tables:
    """SQLite."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One state of the file, whoever writes to it meanwhile."""
        with closing(
            sqlite3.connect(
                f"file:{self._file}?mode=ro", uri=True, timeout=10, isolation_level=None
            )
        ) as db:
            db.execute("BEGIN")
            yield db

    def _read(self, sql: str) -> list[tuple[Any, ...]]:
        with self._open() as db:
            return db.execute(sql).fetchall()

    def sessions(self) -> list[Session]:
        *columns, receipt = Session._fields
        with self._open() as db, closing(sqlite_file.copied(db)) as copy:
            query = f"SELECT {', '.join(columns)}, {receipt} FROM sessions ORDER BY n"
            rows = copy.execute(query).fetchall()
        return [Session(*row, _json(receipt)) for *row, receipt in rows]

    def requests(self) -> list[Request]:
        with self._open() as db:
            ids = dict(db.execute("SELECT n, id FROM sessions"))
            rows = sqlite_file.requests(db)
        return [Request(ids[n], *row, _json(body)) for n, *row, body in rows]

    def stripped(self) -> list[str]:
        with self._open() as db:
            return sqlite_file.stripped(db)

    def passwords(self) -> dict[str, bytes]:
        return dict(self._read("SELECT name, password_hash FROM users"))

    def everything(self) -> object:
        tables = self._read("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {table: self._read(f"SELECT * FROM {table}") for (table,) in tables}

    def take_over(self) -> None:
        with closing(sqlite3.connect(self._file, timeout=10)) as db, db:
            assert db.execute("UPDATE sessions SET epoch = epoch + 1").rowcount

    def lose(self, request: Request) -> None:
        with closing(sqlite3.connect(self._file, timeout=10)) as db, db:
            db.execute("BEGIN IMMEDIATE")
            sqlite_file.spread(db)
            assert db.execute(
                f"DELETE FROM runs WHERE key ="
                f" (SELECT (n << {sqlite_file.SEQ_BITS} | ?) << 1 FROM sessions WHERE id = ?)",
                (request.seq, request.session),
            ).rowcount


class _Documents:
    """MongoDB."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    @contextmanager
    def _database(self) -> Iterator[pymongo.database.Database[dict[str, Any]]]:
        with pymongo.MongoClient[dict[str, Any]](self._uri) as client:
            yield client.get_default_database()

    def _all(self, collection: str, order: str = "_id") -> list[dict[str, Any]]:
        with self._database() as database:
            found = list(database[collection].find({}))
        return sorted(found, key=lambda document: document[order])

    def _rows(self) -> Iterator[tuple[dict[str, Any], int, dict[str, Any]]]:
        """Sessions, numbers and requests of all that was accepted."""
        sessions = {session["_id"]: session for session in self._all("sessions")}
        for row in self._all("requests"):
            id, _, seq = row["_id"].rpartition(":")
            if id in sessions and int(seq) <= sessions[id]["accepted"]:
                yield sessions[id], int(seq), row

    def sessions(self) -> list[Session]:
        requests = self.requests()
        made = []
        for row in self._all("sessions", "created_ms"):
            own = (request for request in requests if request.session == row["_id"])
            settled = row["acked"] + len(list(takewhile(lambda r: r.ending is not None, own)))
            known = {**row, "id": row["_id"], "settled": settled, "receipt": _json(row["receipt"])}
            made.append(Session(**{field: known[field] for field in Session._fields}))
        return made

    def requests(self) -> list[Request]:
        return [
            Request(
                session["_id"],
                seq,
                row["id"],
                row["attempt"],
                row["ending"],
                _json(row.get("outcome")),
            )
            for session, seq, row in self._rows()
            if seq > session["acked"]
        ]

    def stripped(self) -> list[str]:
        return [row["id"] for session, seq, row in self._rows() if seq <= session["acked"]]

    def passwords(self) -> dict[str, bytes]:
        return {user["_id"]: user["password_hash"] for user in self._all("users")}

    def everything(self) -> object:
        return {name: self._all(name) for name in ("sessions", "requests", "users", "commands")}

    def take_over(self) -> None:
        with self._database() as database:
            claimed = {"$inc": {"epoch": 1}, "$set": {"node": "another"}}
            assert database["sessions"].update_many({}, claimed).modified_count
            for session in database["sessions"].find({}):
                rows = {"_id": {"$regex": f"^{session['_id']}:"}, "outcome": None}
                stamp = {"epoch": session["epoch"], "try": 0}
                database["requests"].update_many(rows, {"$set": stamp})

    def lose(self, request: Request) -> None:
        with self._database() as database:
            gone = {"_id": f"{request.session}:{request.seq:016d}"}
            assert database["requests"].delete_one(gone).deleted_count


def _json(text: bytes | None) -> Any:
    return None if text is None else json.loads(text)
