"""The SQLite adapter: one file, one serving process, a thread that writes and one that reads.

Commits wait for the disk in the writer's thread, one after the other; reads don't wait for
them. Beside a server, command line tools may use the same file with ``serving=False``.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from . import sqlite_rare as rare
from . import sqlite_reads as reads
from . import sqlite_rows as rows
from .port import (
    Claimed,
    Command,
    Outcome,
    RequestRow,
    SessionRow,
    StoreError,
    StoreUnavailable,
    Tally,
    User,
    Write,
)
from .sqlite_file import prepare
from .sqlite_lock import ServingLock
from .sqlite_log import replay
from .sqlite_owned import Owned
from .sqlite_schema import connect
from .sqlite_thread import SqliteThread
from .sqlite_writes import catch_up, commit

_EXPIRED_AT_ONCE = 50
_CHECKPOINT_PAGES = 2000  # 16 MB of log


class SqliteStore:
    """A :class:`~inorder_server.stores.port.Store` in the file ``path``.

    With ``serving`` false it takes no lock, owns no session and changes none (``commit``,
    ``claim`` and ``expire`` raise :class:`StoreError`): for tools beside a running server.
    ``busy_ms`` is how long a call waits for another process's lock before it raises
    :class:`StoreUnavailable`.
    """

    def __init__(self, path: str | Path, serving: bool = True, busy_ms: int = 2000) -> None:
        # The real name: two links to a file must not be two locks.
        self._path = Path(path).resolve()
        self.name = f"SQLite {Path(path)}"
        self._busy_ms = busy_ms
        self._lock = ServingLock(self._path) if serving else None
        self._node: Owned | None = None
        self._writer: SqliteThread | None = None
        self._reader: SqliteThread | None = None
        self._checkpointer: SqliteThread | None = None
        self._checkpoint: asyncio.Task[None] | None = None
        self._replayed = False
        self._claims: tuple[dict[str, None], asyncio.Task[set[str]]] | None = None

    async def open(self, node: str) -> None:
        await asyncio.to_thread(prepare, self._path, self._busy_ms)
        if self._lock is not None:
            await asyncio.to_thread(self._lock.take)
            self._node = Owned(node)
        self._writer = SqliteThread("inorder-sqlite-writer", self._connect_writer)
        self._reader = SqliteThread("inorder-sqlite-reader", self._connect_reader)
        try:
            if self._node is not None:
                self._checkpointer = SqliteThread("inorder-sqlite-checkpoints", self._connect)
                await self._writer.call(rare.take_over, self._node)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        if self._checkpoint is not None:
            await asyncio.wait([self._checkpoint])
        if self._checkpointer is not None:
            await self._checkpointer.close()
        if self._writer is not None:
            await self._writer.close(self._last)
        if self._reader is not None:
            await self._reader.close()
        if self._lock is not None:
            self._lock.release()

    def _last(self, db: sqlite3.Connection) -> None:
        # What can't be done now, the next start does.
        if self._node is not None:
            with contextlib.suppress(sqlite3.Error, StoreError):
                catch_up(db, self._node)

    def _connect(self) -> sqlite3.Connection:
        return connect(self._path, self._busy_ms)

    def _connect_writer(self) -> sqlite3.Connection:
        if self._node is not None:
            # What the connection before had begun may have been done, or not.
            self._node.sure = False
        return self._connect()

    def _connect_reader(self) -> sqlite3.Connection:
        return connect(self._path, self._busy_ms, read_only=True)

    @property
    def _write(self) -> SqliteThread:
        if self._writer is None:
            raise StoreError(f"{self.name} is not open")
        return self._writer

    @property
    def _read(self) -> SqliteThread:
        if self._reader is None:
            raise StoreError(f"{self.name} is not open")
        return self._reader

    @property
    def _owned(self) -> Owned:
        if self._node is None:
            raise StoreError(f"{self.name} is not open for serving: its sessions are not ours")
        return self._node

    async def _caught_up(self, session: str | None = None) -> None:
        """Before rows of this session, or of all, are read: the log may be further."""
        if self._node is None:
            if not self._replayed:
                await self._write.call(replay)
                self._replayed = True
        elif not self._node.sure or (
            bool(self._node.ahead) if session is None else session in self._node.ahead
        ):
            # Not sure: a group is under way, whose rows nobody sees yet.
            await self._write.call(catch_up, self._node, None if session is None else [session])

    # -- sessions

    async def commit(self, writes: Sequence[Write]) -> set[str]:
        owned = self._owned
        fenced = await self._write.call(commit, owned, writes)
        if owned.pages >= _CHECKPOINT_PAGES and (
            self._checkpoint is None or self._checkpoint.done()
        ):
            owned.pages = 0
            self._checkpoint = asyncio.create_task(self._copy_log(), name="checkpoint")
        return fenced

    async def _copy_log(self) -> None:
        """Nearly all of the log is copied beside the commits; the little that they added
        meanwhile is copied between two of them, so that the log begins anew."""
        assert self._checkpointer is not None
        with contextlib.suppress(StoreUnavailable):
            await self._checkpointer.call(rare.checkpoint)
            await self._write.call(rare.checkpoint)

    async def claim(self, session: str) -> Claimed | None:
        owned = self._owned
        if session not in await self._claimed_with(session):
            return None
        # It is ours now and nobody writes to it: its rows can be read beside the commits.
        found = await self._read.call(rare.claimed, session)
        was_clean = owned.was_clean.pop(session, False)
        return None if found is None else Claimed(found[0], was_clean, found[1])

    async def _claimed_with(self, session: str) -> set[str]:
        """The sessions that were to be had of all that are asked for in this turn of the loop:
        at a start there are thousands, and each commit waits for the disk."""
        if self._claims is None:
            wanted: dict[str, None] = {}
            task = asyncio.create_task(self._claim_all(wanted), name="claims")
            self._claims = wanted, task
        wanted, task = self._claims
        wanted[session] = None
        # Others wait for it, too.
        return await asyncio.shield(task)

    async def _claim_all(self, wanted: dict[str, None]) -> set[str]:
        await asyncio.sleep(0)
        self._claims = None
        return await self._write.call(rare.claim, self._owned, wanted)

    async def session(self, session: str) -> SessionRow | None:
        await self._caught_up(session)
        found = await self._read.call(reads.session, session)
        return None if found is None else found[1]

    async def unfinished(self) -> list[str]:
        return await self._read.call(reads.unfinished)

    async def outcomes(self, session: str, after: int, upto: int, max_bytes: int) -> list[Outcome]:
        await self._caught_up(session)
        return await self._read.call(rows.outcomes, session, after, upto, max_bytes)

    async def tally(self, session: str) -> Tally:
        await self._caught_up(session)
        return await self._read.call(rows.tally, session)

    async def held(self, left_before_ms: int) -> list[str]:
        return await self._read.call(reads.held, left_before_ms)

    async def expire(self, left_before_ms: int, ended_before_ms: int) -> list[str]:
        owned = self._owned
        old = await self._read.call(reads.expiring, left_before_ms, ended_before_ms)
        gone: list[str] = []
        # A few at a time: commits come between.
        for i in range(0, len(old), _EXPIRED_AT_ONCE):
            gone += await self._write.call(
                rare.expire, owned, old[i : i + _EXPIRED_AT_ONCE], left_before_ms, ended_before_ms
            )
        return gone

    # -- users

    async def add_user(self, user: User) -> bool:
        return await self._write.call(rare.add_user, user)

    async def user(self, name: str) -> User | None:
        return await self._read.call(reads.user, name)

    async def users(self) -> list[User]:
        return await self._read.call(reads.users)

    async def set_password(self, name: str, password_hash: bytes) -> bool:
        return await self._write.call(rare.set_password, name, password_hash)

    async def revoke(self, name: str) -> bool:
        return await self._write.call(rare.revoke, name)

    async def delete_user(self, name: str) -> bool:
        return await self._write.call(rare.delete_user, name)

    # -- operators

    async def post(self, verb: str, target: str, argument: str, at_ms: int) -> int:
        return await self._write.call(rare.post, verb, target, argument, at_ms)

    async def commands(self, after: int) -> list[Command]:
        return await self._read.call(reads.commands, after)

    async def last_command(self) -> int:
        return await self._read.call(reads.last_command)

    async def sessions(self) -> list[SessionRow]:
        await self._caught_up()
        return await self._read.call(reads.sessions)

    async def requests(self, session: str, after: int = 0) -> AsyncIterator[RequestRow]:
        await self._caught_up(session)
        while portion := await self._read.call(rows.requests, session, after):
            for row in portion:
                yield row
            after = portion[-1].seq
