"""What much of everything costs: acceptance beside millions of kept outcomes, a start with work.

``growth.py`` prints how fast requests are accepted and settled with an empty journal and with
one full of outcomes that nobody acknowledged, by turns, by servers and by the store alone; and
how long a server takes until it has taken up every unfinished request and runs one in every
session, or has done them all.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

import msgspec
from msgspec import structs

if __name__ == "__main__":
    _HERE = Path(__file__).parent
    sys.path[:0] = [str(_HERE), str(_HERE.parent)]

import sqlite_file
from cases import Case, Load
from machine import this_machine
from measure import Form, by_turns
from subjects import Inorder, params
from vector_server import ServerProcess

from inorder_server.stores.port import Create, Insert, Outcome, RequestRow, Settle, User, Write
from inorder_server.stores.sqlite import SqliteStore

_BUSY = 50
_IN_FLIGHT = 16
_BODY = params(100).encode()
_PATIENCE = 120.0
_LOOK = 0.01

_Row = Callable[[int], RequestRow]


class Size(msgspec.Struct, kw_only=True):
    """``kept`` outcomes and, for the start, ``unfinished`` requests, over ``sessions`` each; in
    each of ``rounds`` either journal gets ``groups`` commits of 50 sessions with 16 requests, and
    either server ``seconds`` of such a load."""

    kept: int = 2_000_000
    unfinished: int = 100_000
    sessions: int = 1000
    rounds: int = 9
    groups: int = 60
    seconds: float = 4.0


QUICK = Size(kept=4_000, unfinished=1_000, sessions=50, rounds=3, groups=2, seconds=0.2)


class Journal:
    """A store of its own, and how far its sessions have come."""

    def __init__(self, folder: Path, name: str, sessions: int) -> None:
        self.file = folder / f"{name}.db"
        self.store = SqliteStore(self.file)
        self._names = [hashlib.md5(b"%d" % n).hexdigest() for n in range(sessions + 2 * _BUSY)]
        self.newest = self._names[-_BUSY:]
        self.scattered = self._names[:-_BUSY][:: sessions // _BUSY + 1]
        self._seq = dict.fromkeys(self._names, 0)

    async def open(self) -> None:
        await self.store.open("benchmark")
        now = time.time_ns() // 1_000_000
        await self._commit([Create(s, "bench", 1, 1, "benchmark", now) for s in self._names])

    async def keep(self, each: int) -> None:
        """So many outcomes in every session that is not at work."""
        for names in self._others():
            for done in range(0, each, _IN_FLIGHT):
                for group in self._groups(names, min(_IN_FLIGHT, each - done)):
                    await self._commit(group)

    async def wait(self, each: int, row: _Row) -> None:
        """So many requests in every session that is not at work, without an outcome."""
        for names in self._others():
            inserts, _ = self._groups(names, each, row)
            await self._commit(inserts)

    async def work(self, names: list[str], groups: int) -> float:
        """Requests a second: accepted in one commit, settled in the next, beside others."""
        made = [tuple(self._groups(names, _IN_FLIGHT)) for _ in range(groups)]
        begun = time.perf_counter()
        before: list[Write] = []
        for inserts, settles in made:
            await self._commit([*before, *inserts])
            before = settles
        await self._commit(before)
        return groups * len(names) * _IN_FLIGHT / (time.perf_counter() - begun)

    def _others(self) -> Iterator[list[str]]:
        others = [s for s in self._names if s not in {*self.newest, *self.scattered}]
        for start in range(0, len(others), _BUSY):
            yield others[start : start + _BUSY]

    def _groups(
        self, names: list[str], each: int, row: _Row | None = None
    ) -> Iterator[list[Write]]:
        """Acceptances, and what settles them."""
        numbers = {s: range(self._seq[s] + 1, self._seq[s] + each + 1) for s in names}
        yield [Insert(s, 1, [(row or _quick)(n) for n in numbers[s]]) for s in names]
        self._seq.update({s: numbers[s][-1] for s in names})
        yield [
            Settle(s, 1, [Outcome(n, f"r{n}", "done", _BODY) for n in numbers[s]], 1) for s in names
        ]

    async def _commit(self, writes: list[Write]) -> None:
        fenced = await self.store.commit(writes)
        assert not fenced, fenced


def _quick(seq: int) -> RequestRow:
    digest = seq.to_bytes(16, "big")
    return RequestRow(seq, f"request-{seq}", digest, "echo", _BODY, 1_700_000_000_000)


def _long(seq: int) -> RequestRow:
    return structs.replace(_quick(seq), method="sleep", params=b"3600")


async def served(folder: Path, full: Path, size: Size) -> list[tuple[float, float]]:
    """Requests a second, a round each: of a server with an empty journal, and of one that has
    this one."""
    subjects = {"empty": Inorder(folder), "full": Inorder(folder)}
    full.rename(subjects["full"].database)
    load = Load(connections=_BUSY, in_flight=_IN_FLIGHT, single_frames=False)
    bars = {name: (name, load) for name in subjects}
    form = Form(rounds=size.rounds, seconds=size.seconds, warmup=min(1.0, size.seconds))
    try:
        for subject in subjects.values():
            await subject.start()
        result = await by_turns(Case(name="kept", bars=bars), subjects, form, lambda *_: None)
    finally:
        for subject in subjects.values():
            await subject.close()
    runs = zip(result.runs["empty"], result.runs["full"], strict=True)
    return [(empty.per_second, kept.per_second) for empty, kept in runs]


async def acceptance(folder: Path, full: Journal, size: Size) -> list[tuple[float, float, float]]:
    """Requests a second, a round each: of sessions in an empty journal, of the newest ones in a
    full journal, and of some that lie scattered in it."""
    found = []
    try:
        await full.open()
        await full.keep(size.kept // size.sessions)
        for n in range(size.rounds):
            empty = Journal(folder, f"empty-{n}", 0)
            try:
                await empty.open()
                alone = await empty.work(empty.newest, size.groups)
            finally:
                await empty.store.close()
            newest = await full.work(full.newest, size.groups)
            found.append((alone, newest, await full.work(full.scattered, size.groups)))
    finally:
        await full.store.close()
    return found


async def start(
    folder: Path, size: Size, row: _Row, reached: Callable[[sqlite3.Connection], int]
) -> tuple[float, float]:
    """Seconds from a server's start, with as many unfinished requests, until it listens, all of
    them taken up, and until all its sessions have ``reached`` what that counts."""
    each = size.unfinished // size.sessions
    journal = Journal(folder, "inorder", size.sessions)
    await journal.open()
    await journal.store.add_user(User("bench", b"", 1, False, 1))
    await journal.wait(each, row)
    await journal.store.close()
    server = ServerProcess(folder, {"log": {"level": "WARNING"}})
    begun = time.perf_counter()
    try:
        await server.start()
        loaded = time.perf_counter() - begun
        with closing(sqlite3.connect(server.database)) as db:
            async with asyncio.timeout(_PATIENCE):
                while reached(db) < size.sessions:
                    await asyncio.sleep(_LOOK)
        return loaded, time.perf_counter() - begun
    finally:
        await server.kill()


def _running(db: sqlite3.Connection) -> int:
    """Sessions whose first request has its start mark."""
    marked = db.execute(
        f"SELECT id FROM marks JOIN sessions ON n = key >> {sqlite_file.SEQ_BITS} WHERE attempt > 0"
    )
    return len({id for (id,) in marked} | sqlite_file.logged(db, sqlite_file.MARK).keys())


def _done(db: sqlite3.Connection) -> int:
    """Sessions in which all is settled."""
    last = sqlite_file.logged(db, sqlite_file.OUTCOME)
    return sum(
        0 < accepted == max(settled, last.get(id, 0))
        for id, accepted, settled in db.execute("SELECT id, accepted, settled FROM sessions")
    )


async def measure(folder: Path, size: Size) -> None:
    """Prints what it finds."""
    print(this_machine(folder).words)
    full = Journal(folder, "full", size.sessions)
    found = await acceptance(folder, full, size)
    print(f"by the store: accepted and settled a second, medians of {size.rounds}, and ratios:")
    print(f"  {median(alone for alone, *_ in found):,.0f} in an empty journal")
    for name, at in (("the newest sessions", 1), ("scattered sessions", 2)):
        ratios = sorted(one[at] / one[0] for one in found)
        print(
            f"  {median(one[at] for one in found):,.0f} in {name} beside {size.kept:,} outcomes"
            f" kept: {median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        )
    both = await served(folder, full.file, size)
    ratios = sorted(kept / empty for empty, kept in both)
    print(
        f"by a server: {median(empty for empty, _ in both):,.0f} with an empty journal,"
        f" {median(kept for _, kept in both):,.0f} beside {size.kept:,} outcomes kept:"
        f" {median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
    )
    kinds = (("long", _long, "running", _running), ("no time", _quick, "done", _done))
    for time_taken, row, end, reached_by in kinds:
        at = folder / end
        at.mkdir()
        loaded, reached = await start(at, size, row, reached_by)
        print(
            f"a start with {size.unfinished:,} unfinished requests that take {time_taken}, in"
            f" {size.sessions:,} sessions: loaded after {loaded:.2f} s, {end} in all after"
            f" {reached:.2f} s"
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only show that it works")
    parser.add_argument("--disk", type=Path, help="a folder for the databases")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.disk, prefix="inorder-bench-") as folder:
        asyncio.run(measure(Path(folder), QUICK if given.quick else Size()))


if __name__ == "__main__":
    main()
