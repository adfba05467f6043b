"""The store goes away under load and comes back: nothing is accepted meanwhile, nothing that
was is lost, and the same process goes on.

Files that may not grow any more (which needs nobody's leave), a file system that is full, and
a file that somebody else has locked.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import checker
import pytest
from crowd import client, crowd, rolls, until
from frames import Json, RawClient, request
from kept import kept
from outside import locked, metrics_of
from vector_server import ServerProcess
from weather import FullDisk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.sqlite("it is about SQLite's files; tests/faults/test_away.py is it on MongoDB"),
]

SMALL = 48 << 20
"""Bytes; the log alone may take 16 MB before it begins anew."""


def files_at_their_limit(server: ServerProcess) -> Any:
    """Not a byte more: an I/O error at the first page."""
    return FullDisk(server.process.pid, 1)


def files_near_their_limit(server: ServerProcess) -> Any:
    """The log may grow by some pages: an I/O error in the middle of a commit."""
    log = server.database.with_name(server.database.name + "-wal")
    return FullDisk(server.process.pid, log.stat().st_size + 6000)


@contextmanager
def full_file_system(server: ServerProcess) -> Iterator[None]:
    """``No space left on device``, for root as well."""
    filler = server.database.with_name("filler")
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    try:
        yield
    finally:
        filler.unlink()


def somebody_s_lock(server: ServerProcess) -> Any:
    return locked(server)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip(f"no mounting here: {done.stderr}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def lose_and_find(at, away: Callable[[ServerProcess], Any], *, for_good: bool) -> None:
    """Load, then the store is away, then it is back; then the invariants. Without ``for_good``
    a small commit may still find its place meanwhile."""
    server, pid = at.server, at.server.process.pid
    clients = [client(f"client-{n}", work(n), window=30) for n in range(20)]

    async def take_it_away(net, tellers) -> None:
        async with RawClient(server.url) as one, RawClient(server.url) as late:
            await one.register("ann", "a password")
            await until(lambda: all(teller.witness.held > 20 for teller in tellers))
            with away(server):
                # What is on its way when it happens waits; what comes later is refused.
                n = await until_refused(one)
                before = [teller.witness.told for teller in tellers]
                rows = accepted(server)
                if for_good:
                    # A login that would have to be written is refused, too.
                    await late.send({"type": "register", "username": "eve", "password": "a word"})
                    assert (await late.until("error"))["code"] == "store_unavailable"
                    assert [teller.witness.told for teller in tellers] == before
                    assert accepted(server) == rows
            await until(lambda: metrics_of(server)["inorder_ready"])
            assert server.process.pid == pid
            assert server.process.poll() is None
            await one.send(request("echo", n, id=f"x{n}"))
            await one.until(lambda m: m["type"] == "result" and m["id"] == f"x{n}")
            receipt = await one.bye()
            assert receipt["done"] == receipt["accepted"] == len(one.outcomes)

    tellers = await crowd(server.url, clients, at.runs, take_it_away)
    witnesses = [teller.witness for teller in tellers]
    assert list(checker.check_witnesses(witnesses)) == []
    assert [witness.held for witness in witnesses] == [len(one.work) for one in clients]
    assert list(checker.check_runs(at.runs, witnesses, restarts=0)) == []
    await until(lambda: not list(checker.check_metrics(metrics_of(server))))
    await server.stop()
    assert await server.ended() == 0
    assert list(checker.check_ledger(server.folder / "ledger.db", witnesses)) == []
    assert list(checker.check_log(server.output())) == []
    assert await server.verify() == []


async def until_refused(one: RawClient) -> int:
    """Sends until that is refused; how often it was sent."""
    for n in range(1, 1000):
        await one.send(request("echo", n, id=f"x{n}"))
        await one.send({"type": "ping", "data": n})
        await one.until("pong")
        refused = [m for m in one.seen if m["type"] == "error" and m.get("of") == "request"]
        if refused:
            assert [(m["code"], m["retry"]) for m in refused] == [("store_unavailable", True)]
            return n
        await asyncio.sleep(0.01)
    raise AssertionError("never refused")


def accepted(server: ServerProcess) -> Any:
    return [session.numbers for session in kept(server).sessions()]


def work(n: int) -> list[Json]:
    """Rolls and deposits by turns."""
    deposits = [request("deposit", {"amount": 5}) for _ in range(60)]
    return [message for pair in zip(rolls(60, 1), deposits, strict=True) for message in pair]


@pytest.mark.parametrize(
    "away",
    [files_at_their_limit, files_near_their_limit, somebody_s_lock],
    ids=lambda f: f.__name__,
)
async def test_away_and_back(place, away: Callable[[ServerProcess], Any]) -> None:
    await lose_and_find(await place(), away, for_good=away is not files_near_their_limit)


async def test_a_full_file_system(place, disk: Path) -> None:
    at = await place({"store": {"uri": "sqlite:///disk/inorder.db"}})
    at.server.database = disk / "inorder.db"
    await lose_and_find(at, full_file_system, for_good=False)
