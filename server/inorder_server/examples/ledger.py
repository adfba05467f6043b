"""A ledger: accounts, deposits and transfers in a SQLite file of its own, each exactly once.

    [handlers]
    modules = ["inorder_server.examples.ledger"]

The server runs a request *at least* once: after a crash the one at the head of a queue may
run again. ``request.key`` is the same in every run, so a booking writes it to the table
``done`` in the same transaction as the money. A second run finds it there, returns what was
stored, and books nothing.

The file is named by the environment variable ``INORDER_LEDGER``, else ``ledger.db`` in the
working directory. Amounts are whole cents. Anybody may look into the books with sqlite3:

    accounts(name, balance)           what each one has; never below 0
    bookings(key, "from", "to", amount)  every booking; "from" is NULL for a deposit
    done(key, result)                 what was answered, as JSON

so the sum of all balances is the sum of all deposits. An account is a user's, by name, or
any name that money is sent to. One moves one's own money; an administrator anybody's.

A cancel, or a timeout, that comes while its booking is being written is too late: the money
has moved then, as the books and ``balance`` will tell.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Annotated, Any

from msgspec import Meta

from inorder_server import Request, RequestError, handler, lifespan

Account = Annotated[str, Meta(min_length=1, max_length=64)]
Cents = Annotated[int, Meta(gt=0, le=10**12)]
Answer = dict[str, Any]
Work = Callable[[sqlite3.Connection], Answer]

# JSON numbers are exact in every language up to here.
_MOST = 2**53 - 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts(
    name TEXT PRIMARY KEY, balance INTEGER NOT NULL CHECK (balance >= 0)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bookings(
    key TEXT PRIMARY KEY, "from" TEXT, "to" TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS done(key TEXT PRIMARY KEY, result TEXT NOT NULL) WITHOUT ROWID;
"""


class _Entry:
    """Work that waits for the writer; ``key`` None means that it only reads."""

    def __init__(self, key: str | None, work: Work) -> None:
        self.key = key
        self.work = work
        self.future: Future[Answer] = Future()


class Books:
    """The file, and the one thread that uses it.

    Whatever waits for the thread is written in one transaction, so that many clients share
    one wait for the disk (``synchronous=FULL``: what was answered is not lost).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: SimpleQueue[_Entry | None] = SimpleQueue()
        self._opened: Future[None] = Future()
        self._closed: Future[None] = Future()
        for told in (self._opened, self._closed):
            # Who gives up waiting doesn't call the thread off, which ends in its own time.
            told.set_running_or_notify_cancel()

    async def open(self) -> None:
        """Raises :class:`sqlite3.Error` where the file can't be used."""
        threading.Thread(target=self._run, name="ledger", daemon=True).start()
        await asyncio.wrap_future(self._opened)

    async def close(self) -> None:
        """Writes what still waits, and closes the file."""
        self._entries.put(None)
        await asyncio.wrap_future(self._closed)

    async def book(self, key: str, work: Work) -> Answer:
        """Does the work in a transaction, once for each ``key``; returns its answer, the
        stored one where it was done before. What it raises leaves no trace."""
        return await self._do(_Entry(key, work))

    async def read(self, work: Work) -> Answer:
        return await self._do(_Entry(None, work))

    async def _do(self, entry: _Entry) -> Answer:
        self._entries.put(entry)
        # Cancelled before its turn, the entry is passed over.
        return await asyncio.wrap_future(entry.future)

    # ---- in the thread

    def _run(self) -> None:
        try:
            with closing(sqlite3.connect(self._path, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=FULL")
                db.executescript(_SCHEMA)
                self._opened.set_result(None)
                while group := self._next_group():
                    self._write(db, group)
        except sqlite3.Error as exc:
            self._opened.set_exception(exc)
        else:
            self._closed.set_result(None)

    def _next_group(self) -> list[_Entry]:
        """Everything that waits, at least one; empty at the end."""
        group: list[_Entry] = []
        entry = self._entries.get()
        while entry is not None:
            group.append(entry)
            try:
                entry = self._entries.get_nowait()
            except Empty:
                return group
        if group:
            self._entries.put(None)
        return group

    def _write(self, db: sqlite3.Connection, group: list[_Entry]) -> None:
        answers: list[tuple[_Entry, Answer | Exception]] = []
        group = [entry for entry in group if entry.future.set_running_or_notify_cancel()]
        try:
            db.execute("BEGIN IMMEDIATE")
            for entry in group:
                answers.append((entry, _attempt(db, entry)))  # noqa: PERF401
            db.execute("COMMIT")
        except sqlite3.Error as exc:
            if db.in_transaction:
                db.execute("ROLLBACK")
            answers = [(entry, exc) for entry in group]
        for entry, answer in answers:
            if isinstance(answer, Exception):
                entry.future.set_exception(answer)
            else:
                entry.future.set_result(answer)


def _attempt(db: sqlite3.Connection, entry: _Entry) -> Answer | Exception:
    """One entry within the group's transaction: all of it or nothing."""
    db.execute("SAVEPOINT entry")
    try:
        answer = _once(db, entry.key, entry.work) if entry.key else entry.work(db)
    except Exception as exc:
        db.execute("ROLLBACK TO entry")
        return exc
    finally:
        db.execute("RELEASE entry")
    return answer


def _once(db: sqlite3.Connection, key: str, work: Work) -> Answer:
    stored = db.execute("SELECT result FROM done WHERE key = ?", (key,)).fetchone()
    if stored:
        answer: Answer = json.loads(stored[0])
        return answer
    answer = work(db)
    db.execute("INSERT INTO done VALUES (?, ?)", (key, json.dumps(answer)))
    return answer


def _balance(db: sqlite3.Connection, account: str) -> int:
    row = db.execute("SELECT balance FROM accounts WHERE name = ?", (account,)).fetchone()
    return int(row[0]) if row else 0


def _put(db: sqlite3.Connection, account: str, amount: int) -> int:
    """Adds to an account, which may be new; returns its balance."""
    balance = _balance(db, account) + amount
    if balance > _MOST:
        raise RequestError("account_full", f"{account} can't hold more")
    db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?)", (account, balance))
    return balance


def _enter(db: sqlite3.Connection, key: str, source: str | None, to: str, amount: int) -> None:
    db.execute("INSERT INTO bookings VALUES (?, ?, ?, ?)", (key, source, to, amount))


def _own_unless_admin(request: Request, account: str | None) -> str:
    """The account that is meant: one's own if none is named."""
    if account is None or account == request.user.name:
        return request.user.name
    if not request.user.admin:
        raise RequestError("forbidden", "only administrators may use somebody else's account")
    return account


@lifespan
async def books() -> AsyncGenerator[Books, None]:
    ledger = Books(Path(os.environ.get("INORDER_LEDGER", "ledger.db")))
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


@handler(attempts=3, retry_on=sqlite3.OperationalError)
async def deposit(request: Request, amount: Cents, account: Account | None = None) -> Answer:
    """Pays cents in, to one's own account or another; returns its balance."""
    name = request.user.name if account is None else account

    def work(db: sqlite3.Connection) -> Answer:
        _enter(db, request.key, None, name, amount)
        return {"account": name, "balance": _put(db, name, amount)}

    ledger: Books = request.resources
    return await ledger.book(request.key, work)


@handler(attempts=3, retry_on=sqlite3.OperationalError)
async def transfer(
    request: Request, to: Account, amount: Cents, source: Account | None = None
) -> Answer:
    """Moves cents to another account; returns what is left on the source."""
    payer = _own_unless_admin(request, source)
    if payer == to:
        raise RequestError("same_account", f"{to} can't pay itself")

    def work(db: sqlite3.Connection) -> Answer:
        balance = _balance(db, payer)
        if balance < amount:
            raise RequestError(
                "insufficient_funds", f"{payer} has {balance} cents", {"balance": balance}
            )
        _enter(db, request.key, payer, to, amount)
        _put(db, to, amount)
        left = _put(db, payer, -amount)
        return {"source": payer, "to": to, "amount": amount, "balance": left}

    ledger: Books = request.resources
    return await ledger.book(request.key, work)


@handler
async def balance(request: Request, account: Account | None = None) -> Answer:
    """Says how many cents are on an account: one's own, or for administrators any."""
    name = _own_unless_admin(request, account)
    ledger: Books = request.resources
    return await ledger.read(lambda db: {"account": name, "balance": _balance(db, name)})
