"""A cancel that was answered holds, whatever happens then."""

from __future__ import annotations

from pathlib import Path

import pytest
from frames import RawClient
from gates import CONFIG, Gates, Step, gated, nothing_but_pongs


async def cancel(client: RawClient, seq: int) -> None:
    await client.send({"type": "cancel", "id": f"r{seq}"})
    answer = await client.until("cancelling")
    assert (answer["id"], answer["seq"]) == (f"r{seq}", seq)


async def test_survives_a_crash(serve, tmp_path: Path) -> None:
    """Of one that waits, and of one that runs where nothing can stop it."""
    gates = Gates(tmp_path)
    server = await serve(CONFIG)
    async with RawClient(server.url) as client:
        welcome = await client.register("ann", "correct horse")
        work = [gated("g", n, how="gated_thread" if n == 1 else "gated") for n in (1, 2, 3)]
        await client.send(*work)
        await gates.reached(1)
        await cancel(client, 2)
        await cancel(client, 1)
        assert client.outcomes == []
        await server.kill()
    gates.open("g")
    await server.start()
    async with RawClient(server.url) as client:
        await client.hello(token=welcome["token"], session=welcome["session"], seq=0, accepted=3)
        await client.until_outcome(3)
        endings = [outcome.get("code", outcome["type"]) for outcome in client.outcomes]
        assert endings == ["cancelled", "cancelled", "result"]
        receipt = await client.bye()
    assert (receipt["done"], receipt["cancelled"], receipt["verified"]) == (1, 2, True)
    begun = [step.seq for step in gates.steps if step.word == "begin"]
    assert begun == [1, 3], "neither ran after its cancel"


@pytest.mark.parametrize("how", ["gated", "gated_thread"])
async def test_in_its_turn(serve, tmp_path: Path, how: str) -> None:
    """One that waits is told its outcome when it is at the head; it never runs."""
    gates = Gates(tmp_path)
    server = await serve(CONFIG)
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        await client.send(*(gated("g", seq, how=how) for seq in (1, 2, 3)))
        await gates.reached(1)
        await cancel(client, 2)
        await nothing_but_pongs(client)
        gates.open("g")
        await client.until_outcome(3)
        endings = [outcome.get("code", outcome["type"]) for outcome in client.outcomes]
        assert endings == ["result", "cancelled", "result"]
        await client.send({"type": "cancel", "id": "r2"})
        assert (await client.next()).get("code") == "not_found"
        receipt = await client.bye()
    assert (receipt["done"], receipt["cancelled"], receipt["verified"]) == (2, 1, True)
    assert [step.seq for step in gates.steps if step.word == "begin"] == [1, 3]


async def test_a_thread_is_waited_for(serve, tmp_path: Path) -> None:
    """Nothing stops it, so its outcome, and the next request, wait until it has returned."""
    gates = Gates(tmp_path)
    server = await serve(CONFIG)
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        await client.send(gated("g", 1, how="gated_thread"), gated("g", 2))
        await gates.reached(1)
        await cancel(client, 1)
        await nothing_but_pongs(client)
        await client.send({"type": "status"})
        running = (await client.until("status"))["running"]
        assert (running["id"], running["overdue"]) == ("r1", True)
        assert len(gates.steps) == 1
        gates.open("g")
        assert (await client.until_outcome(1)).get("code") == "cancelled"
        await client.until_outcome(2)
        assert (await client.bye())["verified"] is True
    steps = [(step.word, step.seq) for step in gates.steps]
    assert steps == [("begin", 1), ("end", 1), ("begin", 2), ("end", 2)]


async def test_work_does_not_hold_it_up(serve, tmp_path: Path) -> None:
    """Nor a ping: both are answered while the request runs that they came behind."""
    gates = Gates(tmp_path)
    server = await serve(CONFIG)
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        # Ends by itself at last, so that a reader that waits for it is seen soon.
        await client.send(
            gated("g", 1, timeout=1),
            {"type": "ping", "data": "awake"},
            {"type": "cancel", "id": "r1"},
        )
        outcome = await client.until_outcome(1)
        assert outcome.get("code") == "cancelled"
        assert [m["data"] for m in client.seen[: client.seen.index(outcome)] if "data" in m] == [
            "awake"
        ]
    assert Step("end", 1, 1) not in gates.steps
