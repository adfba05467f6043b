"""A clean stop during load, with a thread that is stuck for ever: in time, told, nothing twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import checker
import pytest
from crowd import client, crowd, runs_of, until
from frames import Json, RawClient, request
from kept import kept
from vector_server import ServerProcess

pytestmark = pytest.mark.slow

DRAIN = 0.5


def pending(server: ServerProcess) -> int:
    """How much is left of everybody but the one that is stuck."""
    stuck = {session.id for session in kept(server).sessions() if session.user == "stuck"}
    rows = kept(server).requests()
    return sum(row.ending is None and row.session not in stuck for row in rows)


def load(name: str, count: int) -> list[Json]:
    """A deposit, then transfers and rolls by turns."""
    work = [request("deposit", {"amount": 1000})]
    for n in range(count - 1):
        transfer = request("transfer", {"to": "bank", "amount": 1})
        work.append(request("roll", {"ms": 2}) if n % 2 else transfer)
    return work


async def test_a_clean_stop_during_load(place, on_mongodb: bool) -> None:
    many, each, left = (4, 150, 20) if on_mongodb else (30, 300, 500)
    at = await place({"server": {"drain_timeout": DRAIN}})
    server = at.server
    clients = [client(f"client-{n}", load(f"client-{n}", each), window=1000) for n in range(many)]

    async def stop_and_start(net, tellers) -> None:
        async with RawClient(server.url) as one:
            await one.register("stuck", "a password")
            await one.send(request("stuck", seq=1), request("roll", {"ms": 1}, seq=2))
            await one.until(lambda m: m["type"] == "accepted" and m["seq"] == 2)
            # Everybody has more to do than can be done in time.
            await until(lambda: all(t.witness.told > t.witness.held + each // 3 for t in tellers))
            begun = time.monotonic()
            await server.stop()
            told = await one.until("draining")
            assert 0 < told["deadline"] <= DRAIN
            assert await one.until_closed() == (1012, "draining")
        net.refuse()
        assert await server.ended() == 0
        assert time.monotonic() - begun < DRAIN + 2
        for teller in tellers:
            assert teller.witness.drained == [1012], teller.witness.name
        assert pending(server) > left
        await server.start()
        net.point(server.url)
        # Nobody is let in yet, and all the same it is done.
        await until(lambda: not pending(server))
        net.admit()

    tellers = await crowd(server.url, clients, at.runs, stop_and_start)
    witnesses = [teller.witness for teller in tellers]
    assert list(checker.check_witnesses(witnesses)) == []
    for witness in witnesses:
        assert witness.held == each
        assert witness.endings == {"done": each}
        # A run that the deadline cut off returned nothing; only such a one is begun again.
        ran = Counter(run.seq for run in runs_of(at.runs, witness.session))
        assert sum(ran.values()) <= len(ran) + 1
        # A clean stop counts for nothing: to its handler it is the first attempt.
        assert {run.attempt for run in runs_of(at.runs, witness.session)} == {1}
    assert list(checker.check_ledger(server.folder / "ledger.db", witnesses)) == []
    await server.stop()
    assert await server.ended() == 0
    assert "thread of stuck" in server.output()
    assert await asyncio.wait_for(server.verify(), 30) == []
