"""A node among others, in virtual time: its lease, its neighbours' death, what it hands over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from node_bench import Bench, Peer, ask, settled
from shared_memory import SharedDatabase, SharedMemoryStore
from virtual_time import virtual

from inorder_server.handlers import Retry, handler
from inorder_server.membership import Membership
from inorder_server.refusal import Refusal
from inorder_server.registry import HungUp

LEASE = 12.0


@handler(timeout=1000)
async def slow(request: Any, seconds: float) -> str:
    """Takes its time."""
    await asyncio.sleep(seconds)
    return "slowly"


@handler(attempts=5)
async def later(request: Any) -> None:
    """Asks for another attempt in a minute."""
    raise Retry(after=60)


@asynccontextmanager
async def node(
    database: SharedDatabase, name: str, *functions: Callable[..., Any]
) -> AsyncIterator[tuple[Bench, Membership]]:
    """One of several, as the app builds it."""
    store = SharedMemoryStore(database)
    bench = Bench(*(functions or (slow, later)), store=store, name=name)
    await bench.start()
    loop = asyncio.get_running_loop()
    member = Membership(bench.node, bench.registry, store, LEASE, clock=loop.time)
    bench.node.standing = member
    await member.start()
    member.begin()
    yield bench, member
    store.away.clear()
    await bench.stop()
    await member.close()


def row(database: SharedDatabase, session: str) -> Any:
    return database.sessions[session]


@virtual
async def test_a_lease_is_kept() -> None:
    database = SharedDatabase()
    async with node(database, "a") as (_, member), node(database, "b"):
        await asyncio.sleep(20 * LEASE)
        assert member.alive
        assert {n.name: n.dead for n in database.nodes.values()} == {"a": False, "b": False}
        assert database.nodes["a"].n >= 60


@virtual
async def test_who_can_not_raise_it_stops_before_the_others_may_say_so() -> None:
    database = SharedDatabase()
    async with node(database, "a") as (one, member), node(database, "b") as (two, _):
        queue, peer = await one.open()
        queue.request(ask("slow", [500], id="r1", seq=1))
        await settled()
        _, fresh = await one.open(user="bob")
        loop = asyncio.get_running_loop()
        one.store.away = {"raise_lease", "neighbours", "rejoin"}
        started = loop.time()
        while member.alive:
            assert not database.nodes["a"].dead
            await asyncio.sleep(0.1)
        assert loop.time() - started < LEASE
        await settled()
        assert peer.closed == (4509, "moved")
        assert fresh.closed is None, "it has nothing that others could take"
        with pytest.raises(Refusal, match="store_unavailable"):
            await one.open()
        with pytest.raises(Refusal, match="store_unavailable"):
            await one.open(queue.session.id)
        await asyncio.sleep(2 * LEASE)
        assert database.nodes["a"].dead
        assert row(database, queue.session.id).node == "b"
        one.store.away = set()
        await asyncio.sleep(LEASE)
        assert member.alive
        assert one.node.name != "a"
        assert two.node.name == "b"
        await one.open()


@virtual
async def test_a_raise_whose_answer_was_lost_counts_for_nothing() -> None:
    database = SharedDatabase()
    async with node(database, "a") as (one, member):
        one.store.lose_raises = 1
        before = member._lease.until
        await asyncio.sleep(LEASE / 3 + 0.1)
        assert database.nodes["a"].n == 2
        assert member._lease.until == before
        await asyncio.sleep(LEASE)
        assert member.alive
        assert member._lease.until > before


@virtual
async def test_who_was_declared_dead_too_early_begins_again() -> None:
    database = SharedDatabase()
    async with node(database, "a") as (one, member), node(database, "b") as (two, _):
        queue, peer = await one.open()
        queue.request(ask("slow", [3], id="r1", seq=1))
        await settled()
        assert await two.store.declare_dead("a", database.nodes["a"].n)
        await asyncio.sleep(LEASE)
        assert peer.closed == (4509, "moved")
        assert member.alive
        assert one.node.name != "a"
        (row_1,) = database.rows[queue.session.id].values()
        assert row_1.ending == "done"
        assert row(database, queue.session.id).epoch == 2


@virtual
async def test_the_dead_are_taken_over_from_and_buried() -> None:
    database = SharedDatabase()
    async with node(database, "b") as (two, _):
        dead = Bench(slow, store=SharedMemoryStore(database), name="a")
        await dead.start()
        queue, _ = await dead.open()
        queue.request(ask("slow", [3], id="r1", seq=1))
        queue.request(ask("echo", [1], id="r2", seq=2))
        await settled()
        await dead.die()
        await asyncio.sleep(LEASE - 1)
        assert row(database, queue.session.id).node == "a"
        await asyncio.sleep(LEASE)
        assert [r.ending for r in database.rows[queue.session.id].values()] == ["done", "done"]
        assert row(database, queue.session.id).node is None
        assert "a" in database.nodes, "its last late write may still come"
        await asyncio.sleep(120)
        assert list(database.nodes) == ["b"]
        assert two.node.alive


@virtual
async def test_who_begins_again_in_the_middle_of_a_round_goes_on_with_it() -> None:
    database = SharedDatabase()
    async with node(database, "b") as (two, member):
        dead = Bench(slow, store=SharedMemoryStore(database), name="a")
        await dead.start()
        for _ in range(2):
            queue, _ = await dead.open()
            queue.request(ask("slow", [3], id="r1", seq=1))
        await settled()
        await dead.die()
        assert await two.store.declare_dead("a", database.nodes["a"].n)
        can_run = member._can_run

        async def begins_again(id: str) -> bool:
            if two.node.name == "b":
                member._lapse("a test says so")
                await member._rejoin()
            return await can_run(id)

        member._can_run = begins_again
        await member._sweep()
        assert {row.node for row in database.sessions.values()} == {two.node.name}


@virtual
async def test_what_lacks_a_method_is_left_to_others() -> None:
    database = SharedDatabase()
    async with node(database, "b", later) as (two, _):
        dead = Bench(slow, store=SharedMemoryStore(database), name="a")
        await dead.start()
        queue, _ = await dead.open()
        queue.request(ask("slow", [3], id="r1", seq=1))
        await settled()
        await dead.die()
        await asyncio.sleep(5 * LEASE)
        assert (row(database, queue.session.id).node, two.registry.queues) == ("a", {})
        async with node(database, "c", slow):
            await asyncio.sleep(3 * LEASE)
        assert [r.ending for r in database.rows[queue.session.id].values()] == ["done"]


@virtual
async def test_what_waits_for_its_next_try_is_left_to_its_node() -> None:
    database = SharedDatabase()
    async with node(database, "a") as (one, _):
        queue, peer = await one.open()
        queue.request(ask("later", id="r1", seq=1))
        await settled()
        one.registry.detach(queue, peer)
        await asyncio.sleep(30)
        assert row(database, queue.session.id).epoch == 1
        assert row(database, queue.session.id).node is None
        assert row(database, queue.session.id).open


@virtual
async def test_what_a_stop_left_is_adopted_by_another_after_a_lease() -> None:
    database = SharedDatabase()
    async with node(database, "b"), node(database, "c"):
        async with node(database, "a") as (one, _):
            queue, peer = await one.open()
            queue.request(ask("slow", [20], id="r1", seq=1))
            await settled()
            one.registry.detach(queue, peer)
        left = row(database, queue.session.id)
        assert (left.node, left.open, left.epoch) == (None, True, 1)
        await asyncio.sleep(LEASE / 2)
        assert left.epoch == 1
        await asyncio.sleep(LEASE + 25)
        assert [r.ending for r in database.rows[queue.session.id].values()] == ["done"]


@virtual
async def test_a_session_is_handed_over_once_its_head_is_done() -> None:
    database = SharedDatabase()
    async with node(database, "a") as (one, _), node(database, "b") as (two, _):
        queue, peer = await one.open()
        for seq in (1, 2, 3):
            queue.request(ask("slow", [2], id=f"r{seq}", seq=seq))
        await settled()
        there, newer = await two.open(queue.session.id, 0, 3)
        assert peer.closed == (4509, "moved")
        assert (there.session.epoch, there.session.settled) == (2, 1)
        await asyncio.sleep(5)
        assert [word for word in newer.said if word[0] == "outcome"] == [
            ("outcome", 2, "done", "slowly"),
            ("outcome", 3, "done", "slowly"),
        ]
        assert [r.attempt for r in database.rows[queue.session.id].values()] == [0, 0, 0]


@virtual
async def test_who_waits_too_long_is_told_to_come_again() -> None:
    database = SharedDatabase()
    async with node(database, "a") as (one, _), node(database, "b") as (two, _):
        queue, _ = await one.open()
        queue.request(ask("slow", [10], id="r1", seq=1))
        await settled()
        with pytest.raises(Refusal, match="overloaded") as refused:
            await two.open(queue.session.id, 0, 1)
        assert refused.value.after == 1.0
        await asyncio.sleep(3)
        there, _ = await two.open(queue.session.id, 0, 1)
        assert there.session.settled == 1


@virtual
async def test_who_hangs_up_waits_no_longer() -> None:
    """It may be back at the owner, which is to keep the session then."""
    database = SharedDatabase()
    async with node(database, "a") as (one, _), node(database, "b") as (two, _):
        queue, _ = await one.open()
        queue.request(ask("slow", [10], id="r1", seq=1))
        await settled()
        peer = Peer()
        asking = asyncio.create_task(two.open(queue.session.id, 0, 1, peer=peer))
        await asyncio.sleep(1)
        peer.gone = True
        with pytest.raises(HungUp):
            await asyncio.wait_for(asking, 1)


@virtual
async def test_who_waits_at_a_node_that_goes_down_is_told_so_at_once() -> None:
    database = SharedDatabase()
    async with node(database, "a") as (one, _), node(database, "b") as (two, _):
        queue, _ = await one.open()
        queue.request(ask("slow", [10], id="r1", seq=1))
        await settled()
        asking = asyncio.create_task(two.open(queue.session.id, 0, 1))
        await asyncio.sleep(1)
        two.node.draining = True
        with pytest.raises(Refusal, match="draining"):
            await asyncio.wait_for(asking, 1)


@virtual
async def test_what_moves_while_it_is_torn_down_is_for_its_new_owner_to_verify() -> None:
    database = SharedDatabase()
    async with node(database, "a") as (one, _), node(database, "b") as (two, _):
        queue, peer = await one.open()
        queue.request(ask("echo", [1], id="r1", seq=1))
        await settled()
        one.store.away = {"tally", "raise_lease", "neighbours", "rejoin"}
        one.registry.detach(queue, peer)
        await asyncio.sleep(2 * LEASE)
        there, newer = await two.open(queue.session.id, 1, 1)
        there.request(ask("echo", [2], id="r2", seq=2))
        await settled()
        one.store.away = set()
        await asyncio.sleep(LEASE)
        assert queue.teardown is not None
        assert queue.teardown.done()
        assert (one.metrics.violations, one.metrics.receipts) == (0, 0)
        assert row(database, queue.session.id).node == "b"
        two.registry.detach(there, newer)
        await settled()
        assert two.metrics.violations == 0
        assert row(database, queue.session.id).receipt.verified


@virtual
async def test_a_blocked_head_is_handed_over_at_once() -> None:
    database = SharedDatabase()
    async with node(database, "a") as (one, _), node(database, "b") as (two, _):
        queue, _ = await one.open()
        queue.request(ask("later", id="r1", seq=1))
        await settled()
        started = asyncio.get_running_loop().time()
        await two.open(queue.session.id, 0, 1)
        assert asyncio.get_running_loop().time() - started < 1


@virtual
async def test_nobody_gets_what_is_another_users() -> None:
    database = SharedDatabase()
    async with node(database, "a") as (one, _), node(database, "b") as (two, _):
        queue, peer = await one.open()
        queue.request(ask("slow", [5], id="r1", seq=1))
        await settled()
        with pytest.raises(Refusal, match="session_gone"):
            await two.open(queue.session.id, 0, 1, user="eve")
        with pytest.raises(Refusal, match="session_gone"):
            await two.open("nobody's", 0, 1)
        await asyncio.sleep(1)
        assert peer.closed is None


@virtual
async def test_what_it_lost_is_dropped_and_what_it_owns_is_run() -> None:
    database = SharedDatabase()
    async with node(database, "a") as (one, _), node(database, "b"):
        lost, peer = await one.open()
        lost.request(ask("slow", [50], id="r1", seq=1))
        kept, _ = await one.open(user="bob")
        kept.request(ask("slow", [50], id="r1", seq=1))
        await settled()
        one.store.take_away(lost.session.id, "b")
        await asyncio.sleep(2)
        assert peer.closed == (4509, "moved")
        assert list(one.registry.queues) == [kept.session.id]
        # The other one owns it, and did not know.
        await asyncio.sleep(60)
        assert [r.ending for r in database.rows[lost.session.id].values()] == ["done"]


@virtual
async def test_what_is_damaged_is_left_alone_for_a_while() -> None:
    database = SharedDatabase()
    async with node(database, "a") as (one, _):
        async with node(database, "b") as (two, _):
            queue, peer = await two.open()
            queue.request(ask("slow", [500], id="r1", seq=1))
            queue.request(ask("echo", id="r2", seq=2))
            await settled()
            two.registry.detach(queue, peer)
        del database.rows[queue.session.id][1]
        await asyncio.sleep(LEASE + 30)
        assert one.metrics.violations == 1
        await asyncio.sleep(60)
        assert one.metrics.violations == 2


@virtual
async def test_a_round_that_fails_is_not_the_last_one() -> None:
    database = SharedDatabase()
    async with node(database, "a") as (one, _), node(database, "b") as (two, _):
        queue, _ = await one.open()
        queue.request(ask("echo", id="r1", seq=1))
        await settled()
        wanted = one.store.wanted
        one.store.wanted = None
        await asyncio.sleep(1)
        one.store.wanted = wanted
        one.store.away = {"wanted"}
        await asyncio.sleep(1)
        one.store.away = set()
        await two.open(queue.session.id, 0, 1)
