"""Does the server grow? ``python tests/faults/endurance.py``: a million requests, 1,000 sessions.

Every outcome is acknowledged. After the first part, and at the end, the size of the database
and the resident memory of the server are looked at; the exit status is 1 where either is more
than 1.2 times what it was.

A session keeps the ids of its last ``session.queue`` requests, acknowledged or not, so that a
late repeat is known. Here that is a fifth of what the first part has, and as many are on their
way at once: what is kept by right is there by then, and is no growth.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from frames import RawClient, is_outcome, request  # noqa: E402
from outside import look  # noqa: E402
from vector_server import ServerProcess  # noqa: E402

MOST = 1.2
_PER_USER = 20
_CONNECTING = 50


@dataclass(frozen=True)
class Size:
    """Bytes."""

    database: int
    memory: int

    def __str__(self) -> str:
        return f"database {self.database / 1e6:.2f} MB, memory {self.memory / 1e6:.1f} MB"


def size(server: ServerProcess) -> Size:
    """As it is now; of the database with what is still in its log."""
    ((pages,),) = look(server.database, "PRAGMA page_count")
    ((bytes_each,),) = look(server.database, "PRAGMA page_size")
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return Size(pages * bytes_each, int(kib) * 1024)


class Worker:
    """A session that sends batch after batch, and acknowledges each."""

    def __init__(self, client: RawClient, batch: int) -> None:
        self._client = client
        self._batch = batch
        self._seq = 0

    async def send(self, count: int) -> None:
        """So many requests more."""
        client = self._client
        for _ in range(count // self._batch):
            first, self._seq = self._seq + 1, self._seq + self._batch
            await client.send(
                *(
                    request("echo", "some words of a client", id=f"r{n}", seq=n)
                    for n in range(first, self._seq + 1)
                )
            )
            outcome = await client.until_outcome(self._seq)
            assert (outcome["type"], outcome["seq"]) == ("result", self._seq)
            assert sum(map(is_outcome, client.seen)) == self._batch
            client.seen.clear()
            client._read = 0
            await client.send({"type": "ack", "seq": self._seq})

    async def status(self) -> tuple[int, int]:
        """Accepted and acknowledged, as the server has it."""
        await self._client.send({"type": "status"})
        status = await self._client.until("status")
        return status["accepted"], status["acked"]


async def endure(folder: Path, sessions: int, first: int, each: int) -> tuple[Size, Size]:
    """The sizes after ``first`` requests a session, and after ``each``."""
    batch = max(first // 5, 1)
    config = {"session": {"queue": batch}, "log": {"level": "WARNING", "format": "json"}}
    server = ServerProcess(folder, config)
    await server.start()
    clients = [RawClient(server.url) for _ in range(sessions)]
    try:
        tokens = [await _register(server, n) for n in range(-(-sessions // _PER_USER))]
        gate = asyncio.Semaphore(_CONNECTING)

        async def enter(n: int, client: RawClient) -> Worker:
            async with gate:
                await client.__aenter__()
                await client.hello(token=tokens[n // _PER_USER])
                client.seen.clear()
                client._read = 0
            return Worker(client, batch)

        workers = await asyncio.gather(*(enter(n, client) for n, client in enumerate(clients)))
        await asyncio.gather(*(worker.send(first) for worker in workers))
        await asyncio.gather(*(worker.status() for worker in workers))
        before = size(server)
        await asyncio.gather(*(worker.send(each - first) for worker in workers))
        told = await asyncio.gather(*(worker.status() for worker in workers))
        assert set(told) == {(each, each)}
        return before, size(server)
    finally:
        await server.kill()


async def _register(server: ServerProcess, n: int) -> str:
    async with RawClient(server.url) as client:
        token: str = (await client.register(f"user-{n}", "a password"))["token"]
    return token


def grown(before: Size, after: Size) -> list[str]:
    """What has grown too much."""
    return [
        f"the {name} grew from {getattr(before, name)} to {getattr(after, name)} bytes"
        for name in ("database", "memory")
        if getattr(after, name) > MOST * getattr(before, name)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--first", type=int, default=10, help="requests a session at first")
    parser.add_argument("--each", type=int, default=1000, help="requests a session in all")
    given = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="inorder-endurance-") as folder:
        before, after = asyncio.run(endure(Path(folder), given.sessions, given.first, given.each))
    seconds = time.monotonic() - begun
    print(f"after {given.sessions * given.first} requests: {before}")
    print(f"after {given.sessions * given.each} requests: {after}; {seconds:.0f} s")
    bad = grown(before, after)
    print(json.dumps(bad) if bad else "nothing grew")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
