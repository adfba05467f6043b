"""What a handler raises: what the client is told, what only the log has, what is tried again."""

from __future__ import annotations

from frames import RawClient, request


async def test_an_exception_is_for_the_log_alone(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        await client.send(request("fail", id="a", seq=1), request("odd", id="b", seq=2))
        for seq, id in ((1, "a"), (2, "b")):
            outcome = await client.until_outcome(seq)
            assert outcome["type"] == "error"
            assert (outcome["id"], outcome["code"]) == (id, "handler_failed")
            assert outcome["retry"] is False
            assert outcome.keys() == {"type", "id", "seq", "code", "message", "retry"}
            assert not [word for word in ("MARKED", "Error", "object") if word in str(outcome)]
        receipt = await client.bye()
    assert (receipt["failed"], receipt["verified"]) == (2, True)
    assert "MARKED-PRIVATE-TEXT" in server.output()


async def test_an_error_of_the_handlers_own_is_for_the_client(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        await client.send(request("refuse", {"balance": 7}, id="a", seq=1))
        assert await client.until_outcome(1) == {
            "type": "error",
            "code": "no_money",
            "message": "you have 7 only",
            "retry": False,
            "id": "a",
            "seq": 1,
            "details": {"balance": 7},
        }
        assert (await client.bye())["failed"] == 1


async def test_attempts_are_made_while_the_queue_waits(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        await client.send(request("flaky", id="a", seq=1), request("echo", "behind", seq=2))
        await client.until_outcome(2)
        assert [outcome.get("result") for outcome in client.outcomes] == [3, "behind"]
        receipt = await client.bye()
    assert (receipt["done"], receipt["verified"]) == (2, True)


async def test_a_wait_for_the_next_attempt_is_shown_and_can_be_cancelled(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        await client.send(request("patient", id="a", seq=1), request("echo", "behind", seq=2))
        blocked = None
        while blocked is None:
            await client.send({"type": "status"})
            blocked = (await client.until("status")).get("blocked")
        assert (blocked["id"], blocked["seq"], blocked["code"]) == ("a", 1, "handler_failed")
        assert 3500 < blocked["next_retry_s"] <= 3600
        await client.send({"type": "cancel", "id": "a"})
        assert (await client.until_outcome(1)).get("code") == "cancelled"
        assert (await client.until_outcome(2)).get("result") == "behind"
        assert (await client.bye())["verified"] is True
