"""SIGKILL while requests run: who is run again, how often, and what it is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

from frames import RawClient
from gates import CONFIG, Gates, Step, gated
from kept import kept
from outside import metrics_of


def marks_of(server) -> list[int]:
    """The start marks of each request."""
    return [request.attempt for request in kept(server).requests()]


async def begun(server, gates: Gates, *work) -> dict[str, str]:
    """A session whose first request runs, the others behind it; what a resume needs."""
    async with RawClient(server.url) as client:
        welcome = await client.register("ann", "correct horse")
        await client.send(*work)
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == len(work))
        await gates.reached(1)
    return {"token": welcome["token"], "session": welcome["session"]}


async def test_what_was_accepted_is_taken_up_at_the_start(
    serve, tmp_path: Path, on_mongodb: bool
) -> None:
    """Without its client; only the head is another attempt."""
    gates = Gates(tmp_path)
    server = await serve(CONFIG)
    again = await begun(server, gates, gated("g", 1), gated("g", 2))
    await server.kill()
    assert marks_of(server) == [0, 0], "a first run leaves no mark"
    await server.start()
    if on_mongodb:
        # Once the lease of the one that was killed is over.
        await gates.reached(2)
    metrics = await asyncio.to_thread(metrics_of, server)
    assert (metrics["inorder_sessions"], metrics["inorder_queue_depth"]) == (1, 2)
    assert await gates.reached(2) == [Step("begin", 1, 1), Step("begin", 1, 2)]
    assert marks_of(server) == [1, 0], "marked before it ran again"
    gates.open("g")
    await gates.reached(5)
    async with RawClient(server.url) as client:
        await client.hello(**again, seq=0, accepted=2)
        await client.until_outcome(2)
        receipt = await client.bye()
    assert (receipt["done"], receipt["verified"]) == (2, True)
    assert gates.steps[2:] == [
        Step("end", 1, 2),
        Step("begin", 2, 1),
        Step("end", 2, 1),
    ]


async def test_one_that_must_not_run_twice_does_not(serve, tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    server = await serve(CONFIG)
    once = {"how": "gated_once"}
    again = await begun(server, gates, gated("g", 1, **once), gated("g", 2, **once))
    marks = marks_of(server)
    await server.kill()
    gates.open("g")
    await server.start()
    async with RawClient(server.url) as client:
        await client.hello(**again, seq=0, accepted=2)
        await client.until_outcome(2)
        endings = [outcome.get("code", outcome["type"]) for outcome in client.outcomes]
        assert endings == ["interrupted", "result"]
        receipt = await client.bye()
    assert (receipt["failed"], receipt["done"], receipt["verified"]) == (1, 1, True)
    assert gates.steps == [Step("begin", 1, 1), Step("begin", 2, 1), Step("end", 2, 1)]
    assert marks == [1, 0], "marked before it ran at all"


async def test_so_many_interruptions_and_no_more(serve, tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    server = await serve({**CONFIG, "session": {"max_interrupts": 2}})
    again = await begun(server, gates, gated("g", 1), gated("h", 2))
    for attempt in (1, 2):
        await server.kill()
        await server.start()
        assert (await gates.reached(attempt + 1))[-1] == Step("begin", 1, attempt + 1)
    await server.kill()
    # It would end now, if it still ran.
    gates.open("g")
    gates.open("h")
    await server.start()
    async with RawClient(server.url) as client:
        await client.hello(**again, seq=0, accepted=2)
        await client.until_outcome(2)
        endings = [outcome.get("code", outcome["type"]) for outcome in client.outcomes]
        assert endings == ["interrupted", "result"]
        assert (await client.bye())["verified"] is True
    assert gates.steps[3:] == [Step("begin", 2, 1), Step("end", 2, 1)]


async def test_a_clean_stop_counts_for_nothing(serve, tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    server = await serve({**CONFIG, "server": {"drain_timeout": 0.1}})
    again = await begun(server, gates, gated("g", 1))
    for starts in (2, 3, 4, 5):
        await server.stop()
        assert await server.ended() == 0
        await server.start()
        assert await gates.reached(starts) == [Step("begin", 1, 1)] * starts
    assert marks_of(server) == [0]
    gates.open("g")
    async with RawClient(server.url) as client:
        await client.hello(**again, seq=0, accepted=1)
        assert (await client.until_outcome(1))["type"] == "result"
