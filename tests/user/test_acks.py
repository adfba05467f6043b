"""What is acknowledged is forgotten, and counted all the same."""

from __future__ import annotations

from frames import RawClient, request
from kept import kept, session_of


async def test_acknowledged_outcomes_are_forgotten_and_counted(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        welcome = await client.register("ann", "correct horse")
        work = [request("echo", n, id=f"r{n}", seq=n) for n in range(1, 7)]
        work[2] = request("fail", id="r3", seq=3)
        await client.send(*work)
        await client.until_outcome(6)
        await client.send({"type": "ack", "seq": 4}, request("echo", 7, id="r7", seq=7))
        await client.until_outcome(7)
        # What was committed with, or after, the acknowledgement is told: so that is, too.
        session = session_of(server, welcome["session"])
        assert session.numbers == (7, 7, 4)
        assert (session.done, session.failed, session.cancelled) == (3, 1, 0)
        assert [r.id for r in kept(server).requests() if r.ending] == ["r5", "r6", "r7"]
        await client.send({"type": "ack", "seq": 2}, {"type": "status"})
        assert (await client.until("status"))["acked"] == 4, "it goes up only"
        await client.send({"type": "ack", "seq": 99}, {"type": "status"})
        assert (await client.until("status"))["acked"] == 7, "there are no more"
        receipt = await client.bye()
    assert receipt == {
        "session": welcome["session"],
        "accepted": 7,
        "done": 6,
        "failed": 1,
        "cancelled": 0,
        "pending": 0,
        "verified": True,
    }


async def test_they_are_not_sent_again(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        welcome = await client.register("ann", "correct horse")
        await client.send(*(request("echo", n, seq=n) for n in range(1, 6)))
        await client.until_outcome(5)
        await client.send({"type": "ack", "seq": 3}, request("echo", 6, seq=6))
        await client.until_outcome(6)
        await server.kill()
    await server.start()
    async with RawClient(server.url) as client:
        back = await client.hello(token=welcome["token"], session=welcome["session"], seq=1)
        assert (back["accepted"], back["settled"], back["acked"]) == (6, 6, 3)
        await client.until_outcome(6)
        assert [outcome["seq"] for outcome in client.outcomes] == [4, 5, 6]
        receipt = await client.bye()
    assert (receipt["done"], receipt["verified"]) == (6, True)
