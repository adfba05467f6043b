"""One session, from login to receipt, over a real socket and a real file."""

from __future__ import annotations

from frames import RawClient, request


async def test_a_session_from_login_to_receipt(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        welcome = await client.register("eve", "secret word")
        assert welcome["resumed"] is False
        await client.send(*(request("echo", [n], seq=n) for n in range(1, 11)))
        await client.until_outcome(10)
        assert [outcome["result"] for outcome in client.outcomes] == [[n] for n in range(1, 11)]
        receipt = await client.bye()
        assert receipt == {
            "session": welcome["session"],
            "accepted": 10,
            "done": 10,
            "failed": 0,
            "cancelled": 0,
            "pending": 0,
            "verified": True,
        }
        assert await client.until_closed() == (1000, "done")
