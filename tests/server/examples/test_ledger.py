"""The ledger: whatever happens, money is conserved and nothing is booked twice.

The books are read with sqlite3 alone.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from inorder_server import Request, RequestError, User
from inorder_server.examples import ledger
from inorder_server.examples.ledger import Books
from inorder_server.handlers import HandlerError
from inorder_server.handlers.methods import InvalidParams, Methods, load
from inorder_server.handlers.runner import Again, Cancelled, Done, Failed, Runner

MODULE = "inorder_server.examples.ledger"


@pytest.fixture(autouse=True)
def _nothing_blocks() -> Iterator[None]:
    with blockbuster_ctx("inorder_server") as blockbuster:
        for function in blockbuster.functions.values():
            function.can_block_in("loguru/_logger.py", {"_log"})
            # The lock of a Future, which a thread holds for some microseconds.
            function.can_block_in("concurrent/futures/_base.py", {"add_done_callback", "cancel"})
        yield


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "books.db"
    monkeypatch.setenv("INORDER_LEDGER", str(path))
    return path


@pytest.fixture
def methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Methods:
    monkeypatch.setattr(sys, "path", list(sys.path))
    return load([MODULE], tmp_path, builtin=False)


class Client:
    """Calls the ledger's methods through a runner, as a queue does."""

    def __init__(self, methods: Methods) -> None:
        self.runner = Runner(methods, threads=1, outcome_bytes=10_000)
        self.seqs: dict[str, int] = {}

    def attempt(
        self,
        user: str,
        name: str,
        *args: Any,
        seq: int | None = None,
        admin: bool = False,
        last: bool = True,
    ) -> Any:
        method = self.runner.methods.get(name)
        assert method is not None
        if seq is None:
            seq = self.seqs[user] = self.seqs.get(user, 0) + 1
        return self.runner.attempt(
            method,
            method.bind(json.dumps(args).encode()),
            Request(User(user, admin), f"s-{user}", f"x{seq}", seq),
            None,
            last,
            lambda n, body: None,
        )

    async def call(self, user: str, name: str, *args: Any, **options: Any) -> Any:
        verdict = await self.runner.run(self.attempt(user, name, *args, **options))
        return json.loads(verdict.body) if isinstance(verdict, Done) else verdict


@pytest.fixture
async def client(path: Path, methods: Methods) -> AsyncIterator[Client]:
    client = Client(methods)
    await client.runner.start()
    yield client
    assert await client.runner.close(10) == []


def read(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


def check(path: Path) -> dict[str, int]:
    """The balances, after having seen that the books hold."""
    balances: dict[str, int] = dict(read(path, "SELECT name, balance FROM accounts"))
    counted: dict[str, int] = {}
    for source, to, amount in read(path, 'SELECT "from", "to", amount FROM bookings'):
        counted[to] = counted.get(to, 0) + amount
        if source is not None:
            counted[source] = counted.get(source, 0) - amount
    assert balances == counted
    assert min(balances.values(), default=0) >= 0
    deposits = read(path, 'SELECT coalesce(sum(amount), 0) FROM bookings WHERE "from" IS NULL')
    assert sum(balances.values()) == deposits[0][0]
    assert read(path, "SELECT key FROM bookings ORDER BY key") == read(
        path, "SELECT key FROM done ORDER BY key"
    )
    return balances


async def test_money_moves(client: Client, path: Path) -> None:
    assert await client.call("ada", "deposit", 500) == {"account": "ada", "balance": 500}
    assert await client.call("ada", "deposit", 10, "pot") == {"account": "pot", "balance": 10}
    assert await client.call("ada", "transfer", "eve", 120) == {
        "source": "ada",
        "to": "eve",
        "amount": 120,
        "balance": 380,
    }
    assert await client.call("eve", "balance") == {"account": "eve", "balance": 120}
    assert await client.call("bob", "balance") == {"account": "bob", "balance": 0}
    assert check(path) == {"ada": 380, "eve": 120, "pot": 10}
    assert read(path, "SELECT * FROM bookings ORDER BY key") == [
        ("s-ada:1", None, "ada", 500),
        ("s-ada:2", None, "pot", 10),
        ("s-ada:3", "ada", "eve", 120),
    ]


async def test_what_is_not_there_can_not_be_spent(client: Client, path: Path) -> None:
    await client.call("ada", "deposit", 100)
    for account, amount, balance in (("ada", 101, 100), ("bob", 1, 0)):
        assert await client.call(account, "transfer", "eve", amount) == Failed(
            "insufficient_funds", f"{account} has {balance} cents", {"balance": balance}
        )
    assert check(path) == {"ada": 100}


async def test_who_may_move_whose_money(client: Client, path: Path) -> None:
    await client.call("ada", "deposit", 100)
    forbidden = Failed("forbidden", "only administrators may use somebody else's account")
    assert await client.call("eve", "transfer", "eve", 5, "ada") == forbidden
    assert await client.call("eve", "balance", "ada") == forbidden
    assert check(path) == {"ada": 100}
    assert (await client.call("ada", "transfer", "eve", 5, "ada"))["balance"] == 95
    assert (await client.call("root", "transfer", "eve", 5, "ada", admin=True))["balance"] == 90
    assert (await client.call("root", "balance", "ada", admin=True))["balance"] == 90
    assert check(path) == {"ada": 90, "eve": 10}


async def test_nobody_pays_itself(client: Client, path: Path) -> None:
    await client.call("ada", "deposit", 100)
    verdict = await client.call("ada", "transfer", "ada", 5)
    assert verdict == Failed("same_account", "ada can't pay itself")
    assert check(path) == {"ada": 100}


async def test_an_account_has_an_end(client: Client, path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO accounts VALUES ('ada', ?)", (2**53 - 2,))
    assert (await client.call("ada", "deposit", 1))["balance"] == 2**53 - 1
    verdict = await client.call("ada", "deposit", 1)
    assert verdict == Failed("account_full", "ada can't hold more")
    await client.call("bob", "deposit", 5)
    verdict = await client.call("bob", "transfer", "ada", 5)
    assert verdict == Failed("account_full", "ada can't hold more")
    assert (await client.call("bob", "balance"))["balance"] == 5
    assert len(read(path, "SELECT * FROM bookings")) == 2


@pytest.mark.parametrize("args", [(0,), (-5,), (1.5,), ("5",), (True,), (10**13,), (5, "")])
def test_amounts_are_whole_cents_above_zero(methods: Methods, args: tuple[Any, ...]) -> None:
    method = methods.get("deposit")
    assert method is not None
    with pytest.raises(InvalidParams):
        method.bind(json.dumps(args).encode())


async def test_a_second_run_books_nothing(client: Client, path: Path) -> None:
    await client.call("ada", "deposit", 100)
    first = await client.call("ada", "transfer", "eve", 60)
    # The money would not suffice for it any more; what was answered stands.
    assert await client.call("ada", "transfer", "eve", 60, seq=2) == first
    assert await client.call("ada", "deposit", 100, seq=1) == {"account": "ada", "balance": 100}
    assert check(path) == {"ada": 40, "eve": 60}


async def test_what_was_refused_may_be_tried_again(client: Client, path: Path) -> None:
    assert isinstance(await client.call("ada", "transfer", "eve", 60, seq=9), Failed)
    await client.call("ada", "deposit", 100)
    assert (await client.call("ada", "transfer", "eve", 60, seq=9))["balance"] == 40
    assert check(path) == {"ada": 40, "eve": 60}


async def test_many_at_once(client: Client, path: Path) -> None:
    users = [f"u{n}" for n in range(200)]

    async def live(n: int) -> None:
        await client.call(users[n], "deposit", 1000)
        for k in range(1, 11):
            await client.call(users[n], "transfer", users[(n + k) % 200], k * 20)

    await asyncio.gather(*map(live, range(200)))
    balances = check(path)
    assert sum(balances.values()) == 200_000
    counts = read(path, 'SELECT count(*), count("from") FROM bookings')
    refused = 200 * 11 - counts[0][0]
    assert counts[0][0] == counts[0][1] + 200
    assert refused < 200 * 10


async def test_one_that_fails_takes_no_other_along(path: Path) -> None:
    books = Books(path)
    await books.open()

    def books_and_fails(db: sqlite3.Connection) -> Any:
        db.execute("INSERT INTO accounts VALUES ('x', 5)")
        raise RequestError("no", "no")

    def books_and_succeeds(db: sqlite3.Connection) -> Any:
        db.execute("INSERT INTO accounts VALUES ('y', 5)")
        return {"n": db.execute("SELECT count(*) FROM accounts").fetchone()[0]}

    outcomes = await asyncio.gather(
        books.book("1", books_and_fails),
        books.book("2", books_and_succeeds),
        books.book("2", books_and_fails),
        books.read(lambda db: {"done": db.execute("SELECT count(*) FROM done").fetchone()[0]}),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], RequestError)
    assert outcomes[1:] == [{"n": 1}, {"n": 1}, {"done": 1}]
    await books.close()
    assert read(path, "SELECT name FROM accounts") == [("y",)]


class Jam:
    """Keeps the writer busy until it is let go."""

    def __init__(self, books: Books) -> None:
        self.go = threading.Event()
        self.inside = threading.Event()
        self.task = asyncio.create_task(books.read(self._work))

    def _work(self, db: sqlite3.Connection) -> Any:
        self.inside.set()
        self.go.wait(10)
        return {}

    async def holds(self) -> None:
        while not self.inside.is_set():
            await asyncio.sleep(0.001)


async def test_cancelled_before_its_turn_it_books_nothing(client: Client, path: Path) -> None:
    books = next(iter(client.runner._lifespans.resources.values()))
    jam = Jam(books)
    await jam.holds()
    attempt = client.attempt("ada", "deposit", 100)
    task = asyncio.create_task(client.runner.run(attempt))
    await asyncio.sleep(0)
    attempt.cancel()
    assert await task == Cancelled()
    jam.go.set()
    await jam.task
    assert (await client.call("ada", "balance"))["balance"] == 0
    assert check(path) == {}


async def test_a_close_that_nobody_waits_for_ends_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop has little time: the thread finds its caller gone, and makes no fuss about it."""
    fuss: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", fuss.append)
    books = Books(path)
    await books.open()
    (thread,) = (t for t in threading.enumerate() if t.name == "ledger")
    begun, go_on = threading.Event(), threading.Event()

    def slow(db: sqlite3.Connection) -> dict[str, Any]:
        begun.set()
        go_on.wait(10)
        return {}

    booking = asyncio.create_task(books.book("k", slow))
    await asyncio.to_thread(begun.wait, 10)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(books.close(), 0.01)
    go_on.set()
    await booking
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
    assert fuss == []


async def test_what_waits_at_the_close_is_written(path: Path) -> None:
    books = Books(path)
    await books.open()
    jam = Jam(books)
    await jam.holds()
    waiting = asyncio.create_task(
        books.book(
            "1", lambda db: {"n": db.execute("INSERT INTO accounts VALUES ('x', 1)").rowcount}
        )
    )
    await asyncio.sleep(0)
    closing_books = asyncio.create_task(books.close())
    await asyncio.sleep(0)
    jam.go.set()
    await closing_books
    assert await waiting == {"n": 1}
    assert await jam.task == {}
    assert read(path, "SELECT name FROM accounts") == [("x",)]


class FailingDisk(sqlite3.Connection):
    """Says no to the next COMMIT."""

    fails = True

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql == "COMMIT" and FailingDisk.fails:
            FailingDisk.fails = False
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *args)


async def test_a_commit_that_fails_is_tried_again_and_books_once(
    client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = functools.partial(sqlite3.connect, factory=FailingDisk)
    monkeypatch.setattr(ledger.sqlite3, "connect", connect)
    broken = Client(client.runner.methods)
    await broken.runner.start()
    monkeypatch.undo()
    verdict = await broken.call("ada", "deposit", 5, last=False)
    assert verdict == Again(None, "handler_failed")
    assert check(path) == {}
    assert await broken.call("ada", "deposit", 5, seq=1) == {"account": "ada", "balance": 5}
    assert check(path) == {"ada": 5}
    assert await broken.runner.close(10) == []


async def test_a_file_that_is_no_database_stops_the_start(path: Path, methods: Methods) -> None:
    path.write_text("not a database, but long enough to be looked at " * 100)
    with pytest.raises(HandlerError, match=r"ledger\.books: the lifespan failed: DatabaseError"):
        await Client(methods).runner.start()


def test_written_to_the_disk(path: Path) -> None:
    """A report is worth the disk's word: synchronous=FULL is 2."""
    seen: list[Any] = []

    async def main() -> None:
        books = Books(path)
        await books.open()

        def look(db: sqlite3.Connection) -> Any:
            seen.extend(db.execute("PRAGMA synchronous").fetchone())
            seen.extend(db.execute("PRAGMA journal_mode").fetchone())
            return {}

        await books.read(look)
        await books.close()

    asyncio.run(main())
    assert seen == [2, "wal"]


CRASHER = """
import asyncio, os, signal, sys
from pathlib import Path
from inorder_server import Request, User
from inorder_server.examples import ledger

async def main():
    books = ledger.Books(Path(sys.argv[1]))
    await books.open()
    def request(seq):
        return Request(User("ada"), "s", f"x{seq}", seq, resources=books)
    await ledger.deposit(request(1), 1000)
    for seq in range(2, 7):
        await ledger.transfer(request(seq), "eve", 10)
    print("booked", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_a_crash_after_the_booking_books_once(path: Path, methods: Methods) -> None:
    """Killed before the outcome could be recorded, the request runs again."""
    ended = subprocess.run(
        [sys.executable, "-c", CRASHER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout == "booked\n"
    assert ended.returncode == -signal.SIGKILL

    async def main() -> None:
        client = Client(methods)
        await client.runner.start()
        method = methods.get("transfer")
        assert method is not None
        again = client.runner.attempt(
            method,
            method.bind(b'["eve", 10]'),
            Request(User("ada"), "s", "x6", 6, 2),
            None,
            True,
            lambda n, body: None,
        )
        verdict = await client.runner.run(again)
        assert isinstance(verdict, Done)
        assert json.loads(verdict.body)["balance"] == 950
        assert await client.runner.close(10) == []

    asyncio.run(main())
    assert check(path) == {"ada": 950, "eve": 50}
    assert len(read(path, "SELECT * FROM bookings")) == 6


def test_the_file_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INORDER_LEDGER", raising=False)
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        generator = ledger.books()
        await anext(generator)
        await generator.aclose()

    asyncio.run(main())
    assert os.listdir(tmp_path) == ["ledger.db"]
