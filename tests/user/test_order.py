"""One at a time, in order; nothing slips past a refused request; every bound is told."""

from __future__ import annotations

from pathlib import Path

from frames import RawClient, request
from gates import CONFIG, Gates, Step, gated, nothing_but_pongs


async def test_one_at_a_time(serve, tmp_path: Path) -> None:
    """Of a session; others run beside it."""
    gates = Gates(tmp_path)
    server = await serve(CONFIG)
    async with RawClient(server.url) as client, RawClient(server.url) as other:
        await client.register("ann", "correct horse")
        await client.send(*(gated("g", seq) for seq in range(1, 6)))
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == 5)
        await gates.reached(1)
        await other.register("eve", "correct horse")
        for seq in range(1, 4):
            await other.send(request("echo", seq, seq=seq))
            await other.until_outcome(seq)
        assert gates.steps == [Step("begin", 1, 1)]
        await client.send({"type": "status", "from": 1})
        states = [line["state"] for line in (await client.until("status"))["requests"]]
        assert states == ["running", *["waiting"] * 4]
        gates.open("g")
        await client.until_outcome(5)
        assert [outcome["seq"] for outcome in client.outcomes] == [1, 2, 3, 4, 5]
        assert (await client.bye())["verified"] is True
    assert gates.steps == [Step(word, seq, 1) for seq in range(1, 6) for word in ("begin", "end")]


async def test_nothing_slips_past_a_refused_request(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        work = [request("echo", n, id=f"r{n}", seq=n) for n in range(1, 7)]
        work[2] = request("no such method", id="r3", seq=3)
        await client.send(*work[:4])
        await client.send(*work[4:])
        refusal = await client.until("error")
        assert (refusal.get("code"), refusal["id"]) == ("unknown_method", "r3")
        assert refusal["details"] == {"seq": 3}
        await client.until_outcome(2)
        # Those behind it are refused without an answer each.
        await nothing_but_pongs(client)
        assert [m for m in client.seen if m["type"] == "error"] == [refusal]
        await client.send({"type": "status"})
        assert (await client.until("status"))["accepted"] == 2
        await client.send(*({**message, "seq": message["seq"] - 1} for message in work[3:]))
        await client.until_outcome(5)
        assert [outcome["id"] for outcome in client.outcomes] == ["r1", "r2", "r4", "r5", "r6"]
        receipt = await client.bye()
    assert (receipt["accepted"], receipt["verified"]) == (5, True)


async def test_a_gap_that_nothing_else_told_is_told_once(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        await client.send(*(request("echo", n, id=f"r{n}", seq=n) for n in range(2, 6)))
        refusal = await client.next()
        assert (refusal.get("code"), refusal["id"]) == ("out_of_order", "r2")
        assert refusal["details"] == {"expected": 1}
        await nothing_but_pongs(client)
        await client.send(*(request("echo", n, id=f"r{n}", seq=n) for n in range(1, 6)))
        await client.until_outcome(5)
        assert [outcome["result"] for outcome in client.outcomes] == [1, 2, 3, 4, 5]


async def test_so_many_waiting_or_running_and_no_more(serve, tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    server = await serve({**CONFIG, "session": {"queue": 3}})
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        await client.send(*(gated("g", seq) for seq in (1, 2, 3)))
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == 3)
        await client.send(gated("g", 4), gated("g", 5))
        refusal = await client.next()
        assert (refusal.get("code"), refusal["id"]) == ("queue_full", "r4")
        assert refusal["retry"] is True
        assert refusal["after"] > 0
        await nothing_but_pongs(client)
        gates.open("g")
        await client.until_outcome(3)
        await client.send(gated("g", 4))
        await client.until_outcome(4)
        assert (await client.bye())["verified"] is True


async def test_so_many_unacknowledged_outcomes_and_no_more(serve) -> None:
    server = await serve({"session": {"unacked": 5}})
    async with RawClient(server.url) as client:
        welcome = await client.register("ann", "correct horse")
        assert welcome["limits"]["unacked"] == 5
        await client.send(*(request("echo", n, id=f"r{n}", seq=n) for n in range(1, 6)))
        await client.until_outcome(5)
        await client.send(request("echo", 6, id="r6", seq=6), request("echo", 7, id="r7", seq=7))
        refusal = await client.next()
        assert (refusal["type"], refusal.get("code"), refusal["id"]) == (
            "error",
            "queue_full",
            "r6",
        )
        assert refusal["retry"] is True
        assert refusal["after"] > 0
        await client.send({"type": "ack", "seq": 2}, request("echo", 6, id="r6", seq=6))
        assert (await client.until_outcome(6))["result"] == 6
        assert (await client.bye())["verified"] is True
