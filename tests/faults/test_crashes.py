"""SIGKILL at the moments that matter, and a request that takes the process down by itself."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import checker
import pytest
from crowd import client, crowd, rolls, runs_of, until
from frames import Json, RawClient, request
from kept import kept
from nursery import Nursery
from outside import metrics_of
from plan import REQUESTS, plan
from proxy import Proxy
from trial import trial

pytestmark = pytest.mark.slow


async def test_between_accepted_and_outcome(place) -> None:
    """What ran on is run again, and what is told is what the last run returned."""
    at = await place()
    async with RawClient(at.server.url) as one:
        welcome = await one.register("ann", "a password")
        await one.send(*(m | {"seq": n, "id": f"r{n}"} for n, m in enumerate(rolls(20, 50), 1)))
        await one.until(lambda m: m["type"] == "accepted" and m["seq"] == 20)
        await until(at.runs.read)
        await at.server.kill()
        heard = len(one.outcomes)
    await at.server.start()
    again = {"token": welcome["token"], "session": welcome["session"]}
    async with RawClient(at.server.url) as one:
        await one.hello(**again, seq=heard, accepted=20)
        await one.until_outcome(20)
        assert [o["seq"] for o in one.outcomes] == list(range(heard + 1, 21))
        last = {run.seq: run.value for run in at.runs.read()}
        assert {o["seq"]: o["result"] for o in one.outcomes}.items() <= last.items()
        assert (await one.bye())["verified"] is True
    ran = runs_of(at.runs, welcome["session"])
    assert [(run.seq, run.attempt) for run in ran] == sorted((run.seq, run.attempt) for run in ran)
    # The head was run again, and told that it was; nothing else was.
    assert len(ran) == 21


@pytest.mark.parametrize("again", [1, 2])
async def test_between_the_commit_of_an_outcome_and_its_sending(place, again: int) -> None:
    """The way to the client is blocked, so the outcomes are in the file and nobody has them."""
    at = await place()
    async with Proxy(at.server.url) as proxy, RawClient(proxy.url) as one:
        welcome = await one.register("ann", "a password")
        session = welcome["session"]
        await one.send(*(m | {"seq": n, "id": f"r{n}"} for n, m in enumerate(rolls(10, 20), 1)))
        await one.until(lambda m: m["type"] == "accepted" and m["seq"] == 10)
        proxy.freeze()
        await until(lambda: [r.ending for r in kept(at.server).requests()] == ["done"] * 10)
        held = len(one.outcomes)
        proxy.drop()
    for _ in range(again):
        await at.server.kill()
        await at.server.start()
    committed = [request.body for request in kept(at.server).requests()]
    async with RawClient(at.server.url) as one:
        await one.hello(token=welcome["token"], session=session, seq=held, accepted=10)
        await one.until_outcome(10)
        assert [outcome["result"] for outcome in one.outcomes] == committed[held:]
        assert (await one.bye())["done"] == 10
    assert [(run.seq, run.value) for run in at.runs.read()] == list(enumerate(committed, 1))


@pytest.mark.parametrize("through", ["raw", "library"])
async def test_at_any_time(nursery: Nursery, through: str, on_mongodb: bool) -> None:
    """Twenty kills at random, in the middle of commits too: no outcome that was told changes.
    The long form: ``tests/faults/run.py --kills 300 --runs 1``."""
    kills, requests = (4, 400) if on_mongodb else (20, REQUESTS)
    report = await trial(plan(1, through, kills, requests), nursery)
    assert report.violations == []
    assert report.kills == kills


async def test_a_request_that_kills_the_process(place, on_mongodb: bool) -> None:
    """Beside fifty sessions of others: it alone ends ``interrupted``."""
    at = await place()
    many = 10 if on_mongodb else 50
    deadly: list[Json] = [request("deadly"), *rolls(3, 1)]
    innocents = [client(f"innocent-{n}", rolls(10, 40), window=10) for n in range(many)]

    async def keep_it_running(net, tellers) -> int:
        deaths = 0
        while any(len(teller.witness.outcomes) < len(teller._order) for teller in tellers):
            if at.server.process.poll() is not None:
                assert await at.server.ended() == 77
                deaths += 1
                # It may die again before it has said where it listens.
                with suppress(RuntimeError):
                    await at.server.start()
                    net.point(at.server.url)
            await asyncio.sleep(0.01)
        return deaths

    killer = client("killer", deadly)
    tellers = await crowd(at.server.url, [killer, *innocents], at.runs, keep_it_running)
    killed, *others = [teller.witness for teller in tellers]
    assert [word for w in [killed, *others] for word in w.trouble] == []
    endings = [killed.outcomes[seq].get("code", "result") for seq in range(1, 5)]
    assert endings == ["interrupted", "result", "result", "result"]
    attempts = [run.attempt for run in runs_of(at.runs, killed.session) if run.seq == 1]
    assert attempts == [1, 2, 3, 4][: len(attempts)]
    assert len(attempts) >= 3, "it was given up before it had run as often as it may"
    for witness in others:
        assert [o["type"] for o in witness.outcomes.values()] == ["result"] * 10, witness.name
        assert witness.receipt is not None
        assert witness.receipt["done"] == 10
    await until(lambda: not list(checker.check_metrics(metrics_of(at.server))))
    assert list(checker.check_runs(at.runs, [killed, *others], restarts=len(attempts))) == []
    assert await at.server.verify() == []
