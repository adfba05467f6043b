"""A request that is sent again never runs again, whatever became of it meanwhile (SPEC.md,
"Repeats")."""

from __future__ import annotations

from pathlib import Path

from frames import Json, RawClient, request
from gates import CONFIG, Gates, gated, nothing_but_pongs
from kept import kept


def without_number(message: Json) -> Json:
    return {key: value for key, value in message.items() if key != "seq"}


async def test_in_each_state(serve, tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    server = await serve(CONFIG)
    one, two, three = gated("g", 1), gated("g", 2), gated("h", 3)
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        # On its way to the journal: in the very frame of the first.
        await client.send(one, one, without_number(one), two, two, three)
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == 3)
        await gates.reached(1)
        await client.send({"type": "ping"})
        await client.until("pong")
        for repeated in (one, two, without_number(three), {**two, "seq": 7}):
            await client.send(repeated)
            answer = await client.next()
            assert (answer["type"], answer["id"]) == ("accepted", repeated["id"])
        gates.open("g")
        await client.until_outcome(2)
        outcomes = list(client.outcomes)
        assert [outcome["seq"] for outcome in outcomes] == [1, 2]
        for repeated, outcome in ((two, outcomes[1]), (without_number(one), outcomes[0])):
            await client.send(repeated)
            assert await client.next() == outcome, "the very same"
        await client.send({"type": "ack", "seq": 1})
        await client.send(one)
        answer = await client.next()
        assert (answer.get("code"), answer["details"]) == ("already_acknowledged", {"seq": 1})
        await client.send(two)
        assert await client.next() == outcomes[1]
        gates.open("h")
        await client.until_outcome(3)
        assert (await client.bye())["accepted"] == 3
    assert [step.seq for step in gates.steps if step.word == "begin"] == [1, 2, 3]


async def test_across_a_crash(serve, tmp_path: Path) -> None:
    """Settled and acknowledged, settled, running, waiting: then the server is killed."""
    gates = Gates(tmp_path)
    gates.open("g")
    server = await serve(CONFIG)
    work = [gated("g", 1), gated("g", 2), gated("h", 3), gated("h", 4)]
    async with RawClient(server.url) as client:
        welcome = await client.register("ann", "correct horse")
        await client.send(*work)
        await client.until_outcome(2)
        first = list(client.outcomes)
        await client.send({"type": "ack", "seq": 1}, gated("h", 5))
        await client.until(lambda m: m["type"] == "accepted" and m["seq"] == 5)
        await gates.reached(5)
        await server.kill()
    await server.start()
    async with RawClient(server.url) as client:
        again = {"token": welcome["token"], "session": welcome["session"]}
        back = await client.hello(**again, seq=1, accepted=5)
        assert (back["accepted"], back["settled"], back["acked"]) == (5, 2, 1)
        assert await client.until_outcome(2) == first[1], "what was sent never changes"
        await client.send(without_number(work[0]))
        assert (await client.next()).get("code") == "already_acknowledged"
        await client.send(without_number(work[1]))
        assert await client.next() == first[1]
        for waiting in work[2:]:
            await client.send(without_number(waiting))
            answer = await client.next()
            assert (answer["type"], answer["seq"]) == ("accepted", waiting["seq"])
        await client.send(request("echo", 1, id="r3"))
        assert (await client.next()).get("code") == "id_conflict"
        gates.open("h")
        await client.until_outcome(5)
        assert (await client.bye())["accepted"] == 5
    # Only the one that was running when the server was killed began twice.
    assert [step.seq for step in gates.steps if step.word == "begin"] == [1, 2, 3, 3, 4, 5]


async def test_what_is_settled_does_not_run_again_after_a_crash(serve, tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    gates.open("g")
    server = await serve(CONFIG)
    async with RawClient(server.url) as client:
        welcome = await client.register("ann", "correct horse")
        await client.send(gated("g", 1))
        outcome = await client.until_outcome(1)
        await server.kill()
    await server.start()
    async with RawClient(server.url) as client:
        again = {"token": welcome["token"], "session": welcome["session"]}
        back = await client.hello(**again, seq=0, accepted=1)
        assert (back["accepted"], back["settled"]) == (1, 1)
        assert await client.until_outcome(1) == outcome
        await client.send(gated("g", 2))
        await client.until_outcome(2)
        assert (await client.bye())["verified"] is True
    assert [step.seq for step in gates.steps if step.word == "begin"] == [1, 2]


async def test_late_ones_are_known_for_so_many_numbers(serve, tmp_path: Path) -> None:
    """As long as the last ``limits.queue`` numbers, in memory and in the database."""
    gates = Gates(tmp_path)
    gates.open("g")
    server = await serve({**CONFIG, "session": {"queue": 4}})
    async with RawClient(server.url) as client:
        welcome = await client.register("ann", "correct horse")
        for seq in range(1, 9):
            await client.send(gated("g", seq))
            await client.until_outcome(seq)
        await client.send({"type": "ack", "seq": 8}, gated("g", 9))
        await client.until_outcome(9)
        await client.send(without_number(gated("g", 5)))
        assert (await client.next()).get("code") == "already_acknowledged"
        await server.kill()
    await server.start()
    async with RawClient(server.url) as client:
        await client.hello(token=welcome["token"], session=welcome["session"])
        await client.until_outcome(9)
        await client.send(without_number(gated("g", 5)), without_number(gated("g", 8)))
        codes = [(await client.next()).get("code") for _ in range(2)]
        assert codes == ["already_acknowledged"] * 2
        # Older ones the number protects.
        await client.send(gated("g", 1))
        assert (await client.next()).get("code") == "already_acknowledged"
        await nothing_but_pongs(client)
        ids = kept(server).stripped()
        assert ids == [f"r{seq}" for seq in (5, 6, 7, 8)], "and no older one is kept"
        assert [(row.id, row.ending) for row in kept(server).requests()] == [("r9", "done")]
        assert (await client.bye())["accepted"] == 9
    assert [step.seq for step in gates.steps if step.word == "begin"] == list(range(1, 10))
