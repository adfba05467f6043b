"""The store goes away and comes back: nothing that was accepted is lost, nothing is invented.

Another process holds the database's write lock, which is how a store that can't be written to
looks to SQLite after its two seconds of patience.
"""

from __future__ import annotations

import asyncio
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing

import pytest
import sqlite_file
from frames import RawClient, request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.sqlite("it locks SQLite's file; tests/faults/test_away.py is the same on MongoDB"),
]


def status(url: str, path: str) -> int:
    """The HTTP status of a route."""
    try:
        with urllib.request.urlopen(url.replace("ws://", "http://").replace("/ws", path)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code


async def test_the_store_goes_away_and_comes_back(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client, RawClient(server.url) as other:
        session = (await client.register("ann", "correct horse"))["session"]
        await client.send(request("tell", {"values": ["begun"]}, id="a", seq=1))
        await client.until("progress")
        with closing(sqlite3.connect(server.database, isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            await client.send(request("echo", "b", id="b", seq=2))
            await client.send({"type": "cancel", "id": "a"})
            async with asyncio.timeout(15):
                while status(server.url, "/readyz") == 200:
                    await asyncio.sleep(0.02)
            assert status(server.url, "/readyz") == 503
            assert status(server.url, "/healthz") == 200, "it lives, and says that it can't work"

            await client.send(request("echo", "c", id="c", seq=3))
            refusal = await client.until("error")
            assert (refusal["code"], refusal["retry"]) == ("store_unavailable", True)
            assert (refusal["of"], refusal["id"]) == ("request", "c")
            await other.hello(username="ann", password="correct horse")
            await other.send(request("echo", "d", id="d", seq=1))
            assert (await other.until("error"))["code"] == "store_unavailable"
            await client.send({"type": "ping"})
            await client.until("pong")
            said = {message["type"] for message in client.seen}
            assert said == {"welcome", "accepted", "progress", "error", "pong"}
            assert [m["id"] for m in client.seen if m["type"] == "accepted"] == ["a"]
            with closing(sqlite3.connect(server.database)) as db:
                rows = [(row.id, row.ending) for row in sqlite_file.requests(db)]
            assert rows == [("a", None)], "what was not committed was not announced either"
            lock.execute("ROLLBACK")

        assert (await client.until_outcome(1))["code"] == "cancelled"
        assert (await client.until_outcome(2))["result"] == "b"
        await client.send(request("echo", "c", id="c", seq=3))
        assert (await client.until_outcome(3))["result"] == "c"
        assert status(server.url, "/readyz") == 200
        receipt = await client.bye()
        assert receipt == {
            "session": session,
            "accepted": 3,
            "done": 2,
            "failed": 0,
            "cancelled": 1,
            "pending": 0,
            "verified": True,
        }
