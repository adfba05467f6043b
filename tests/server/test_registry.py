"""The registry: attach, resume, what a client can know, revoked users."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from loguru import logger
from memory_store import MemoryStore
from node_bench import Peer, ask, gone, left, receipt, serving, settled, tasks_of, three, work
from virtual_time import virtual

from inorder_server.auth import Identity
from inorder_server.modes import Mode
from inorder_server.registry import HungUp
from inorder_server.stores.port import Attach, Damaged, Release


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What was logged."""
    found: list[str] = []
    sink = logger.add(lambda m: found.append(m.record["message"]), level="DEBUG")
    yield found
    logger.remove(sink)


# ---- attaching


@virtual
async def test_a_session_that_accepted_nothing_leaves_nothing() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        assert len(queue.session.id) == 32
        assert tasks_of(queue.session.id) == [f"consumer {queue.session.id}"]
        await left(bench, queue, peer)
        assert bench.registry.queues == {}
        assert bench.database.sessions == {}
        assert tasks_of(queue.session.id) == []
        assert await gone(bench, queue.session.id) == "session_gone"


@virtual
async def test_a_resume_takes_over_the_very_queue() -> None:
    async with serving(work) as bench:
        queue, old = await bench.open()
        queue.request(ask("work", {"seconds": 5}))
        queue.request(ask("work"))
        await settled()
        same, new = await bench.open(queue.session.id, admin=True)
        assert same is queue
        assert same.user.admin
        assert old.closed == (4409, "replaced")
        assert tasks_of(queue.session.id) == [f"consumer {queue.session.id}"]
        # What the old connection's end brings along concerns nobody.
        bench.registry.detach(queue, old)
        assert queue.mode is Mode.RUN
        await asyncio.sleep(10)
        assert new.outcomes == [(1, "done", 1), (2, "done", 2)]
        assert [words[0] for words in old.said] == ["accepted", "accepted", "shut"]
        assert bench.database.sessions[queue.session.id].attach == 2
        assert queue.session.epoch == 1


@virtual
async def test_a_resume_while_it_finishes_gets_that_very_queue_and_one_consumer() -> None:
    async with serving(work) as bench:
        queue, old = await bench.open()
        for _ in range(3):
            queue.request(ask("work", {"seconds": 5}))
        await settled()
        await left(bench, queue, old)
        assert tasks_of(queue.session.id) == [
            f"consumer {queue.session.id}",
            f"teardown {queue.session.id}",
        ]
        await asyncio.sleep(6)
        same, new = await bench.open(queue.session.id, seq=0, accepted=3)
        assert same is queue
        assert len(tasks_of(queue.session.id)) == 2
        queue.request(ask("work"))
        await asyncio.sleep(20)
        assert [seq for seq, _, _ in new.outcomes] == [2, 3, 4]
        assert not queue.ended
        await left(bench, queue, new)
        assert bench.registry.queues == {}
        assert tasks_of(queue.session.id) == []
        assert receipt(bench, queue.session.id).done == 4


@virtual
async def test_a_resume_from_the_store_replays_after_what_the_client_holds() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        for n in range(5):
            queue.request(ask("echo", n))
        await settled()
        queue.acknowledge(1)
        await left(bench, queue, peer)
        opened = await bench.registry.open(
            Identity("ada", False, 1), Peer(), session=queue.session.id, seq=3, accepted=5
        )
        assert (opened.resumed, opened.replay_after) == (True, 3)
        session = opened.queue.session
        assert (session.epoch, session.accepted, session.settled, session.acked) == (2, 5, 5, 3)
        await settled()
        assert bench.database.sessions[session.id].acked == 3
        opened = await bench.registry.open(
            Identity("ada", False, 1), Peer(), session=session.id, seq=None, accepted=None
        )
        assert opened.replay_after == 3


@virtual
async def test_the_welcome_waits_for_the_attach_to_be_durable() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo"))
        await settled()
        await left(bench, queue, peer)
        bench.store.hold()
        opening = asyncio.create_task(bench.open(queue.session.id))
        await settled()
        assert not opening.done()
        bench.store.release()
        await opening
        assert bench.store.writes(Attach)


@virtual
async def test_resumes_of_one_session_come_one_after_the_other() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo"))
        await settled()
        await left(bench, queue, peer)
        peers = [Peer() for _ in range(4)]
        opened = await asyncio.gather(*(bench.open(queue.session.id, peer=peer) for peer in peers))
        assert len({id(queue) for queue, _ in opened}) == 1
        assert [peer.closed for peer in peers] == [(4409, "replaced")] * 3 + [None]
        assert len(tasks_of(queue.session.id)) == 1


@virtual
async def test_who_has_hung_up_takes_no_session_over() -> None:
    late = Peer()
    late.gone = True
    async with serving(work) as bench:
        queue, peer = await bench.open()
        queue.request(ask("work", {"seconds": 10}))
        await settled()
        for leaves in (False, True):
            if leaves:
                bench.registry.leave(queue, "finish")
            with pytest.raises(HungUp):
                await bench.open(queue.session.id, seq=0, peer=late)
            assert (queue.link, peer.closed, late.said) == (peer, None, [])
        await asyncio.sleep(20)
        assert peer.outcomes == [(1, "done", 1)]
        assert peer.receipt is not None


@virtual
async def test_who_hangs_up_while_the_session_is_looked_for_gets_it_no_more() -> None:
    async with serving(work, on_disconnect="hold") as bench:
        queue, peer = await bench.open()
        queue.request(ask("work", {"seconds": 1}))
        queue.request(ask("work"))
        await settled()
        await left(bench, queue, peer)
        await asyncio.sleep(2)
        late = Peer()
        bench.store.hold("session")
        opening = asyncio.create_task(bench.open(queue.session.id, peer=late))
        await settled()
        late.gone = True
        bench.store.release("session")
        with pytest.raises(HungUp):
            await opening
        await settled()
        assert (late.said, bench.registry.queues) == ([], {})
        assert receipt(bench, queue.session.id).pending == 1
        _, back = await bench.open(queue.session.id, seq=1)
        await settled()
        assert back.outcomes == [(2, "done", 2)]


@virtual
async def test_a_session_of_somebody_else() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo"))
        await settled()
        assert await gone(bench, queue.session.id, user="eve") == "session_gone"
        assert peer.closed is None
        await left(bench, queue, peer)
        assert await gone(bench, queue.session.id, user="eve") == "session_gone"
        assert await gone(bench, "0" * 32) == "session_gone"
        bench.database.sessions[queue.session.id].state = "gone"
        assert await gone(bench, queue.session.id) == "session_gone"


@virtual
async def test_a_session_that_another_node_owns() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo"))
        await settled()
        await left(bench, queue, peer)
        bench.store.take_away(queue.session.id)
        assert await gone(bench, queue.session.id) == "session_gone"


@virtual
async def test_the_store_is_away_at_a_resume() -> None:
    async with serving(work) as bench:
        queue, peer = await bench.open()
        queue.request(ask("work", {"seconds": 100}))
        await settled()
        idle, idle_peer = await bench.open()
        idle.request(ask("echo"))
        await settled()
        await left(bench, idle, idle_peer)
        bench.store.away = {"session"}
        assert await gone(bench, idle.session.id) == "store_unavailable"
        bench.store.away = {"*"}
        queue.request(ask("echo"))
        await asyncio.sleep(1)
        # The connection that there is stays: nothing would be gained.
        assert await gone(bench, queue.session.id) == "store_unavailable"
        assert peer.closed is None
        bench.store.away = set()
        await asyncio.sleep(2)
        await bench.open(queue.session.id)
        queue.turn(Mode.CANCEL)


@virtual
async def test_fenced_at_the_attach_nobody_is_welcome() -> None:
    async with serving(work) as bench:
        queue, _ = await bench.open()
        queue.request(ask("work", {"seconds": 100}))
        await settled()
        bench.store.take_away(queue.session.id)
        new = Peer()
        await bench.open(queue.session.id, peer=new)
        assert new.said == [("shut", 4509, "moved")]
        await settled()
        assert bench.registry.queues == {}
        assert tasks_of(queue.session.id) == []


@virtual
async def test_a_hello_that_is_called_off_leaves_nothing_attached() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo"))
        await settled()
        await left(bench, queue, peer)
        bench.store.hold()
        opening = asyncio.create_task(bench.open(queue.session.id))
        await settled()
        opening.cancel()
        await settled()
        bench.store.release()
        await settled()
        assert opening.cancelled()
        assert bench.registry.queues == {}


@virtual
async def test_whether_a_resume_takes_a_connection_s_place() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        registry = bench.registry
        assert registry.attached(queue.session.id, "ada")
        assert not registry.attached(queue.session.id, "eve")
        assert not registry.attached(None, "ada")
        assert not registry.attached("another", "ada")
        registry.detach(queue, peer)
        assert not registry.attached(queue.session.id, "ada")


# ---- history


@pytest.mark.parametrize("claims", [{"seq": 3}, {"accepted": 3}, {"seq": 2, "accepted": 9}])
@pytest.mark.parametrize("live", [True, False])
def test_a_store_that_was_rolled_back(claims: dict[str, int], live: bool, lines: list[str]) -> None:
    @virtual
    async def check() -> None:
        async with serving() as bench:
            queue, peer = await bench.open()
            queue.request(ask("echo", 1))
            queue.request(ask("echo", 2))
            await settled()
            if not live:
                await left(bench, queue, peer)
            assert await gone(bench, queue.session.id, **claims) == "history_lost"
            assert bench.metrics.violations == 1
            assert any("history lost" in line for line in lines)
            await settled()
            assert peer.closed is None
            assert len(bench.registry.queues) == live
            assert len(tasks_of(queue.session.id)) == live

    check()


@virtual
async def test_who_claims_too_much_sets_no_held_work_going() -> None:
    async with serving(work, on_disconnect="hold") as bench:
        queue, peer = await bench.open()
        queue.request(ask("work", {"seconds": 1}))
        queue.request(ask("work"))
        await settled()
        bench.registry.detach(queue, peer)
        await asyncio.sleep(2)
        assert await gone(bench, queue.session.id, seq=9) == "history_lost"
        await settled()
        row = bench.database.sessions[queue.session.id]
        assert (row.node, row.open) == (None, False)
        assert bench.store.row(queue.session.id, 2).ending is None


@virtual
async def test_rows_that_are_gone_are_told_and_left_alone() -> None:
    async with serving(work, on_disconnect="hold") as bench:
        queue, peer = await bench.open()
        for _ in range(3):
            queue.request(ask("work", {"seconds": 1}))
        await settled()
        bench.registry.detach(queue, peer)
        await asyncio.sleep(2)
        id = queue.session.id
        del bench.database.rows[id][2]
        assert await gone(bench, id) == "history_lost"
        assert bench.metrics.violations == 1
        assert bench.registry.queues == {}
    bench.database.sessions[id].open = True
    async with serving(work, store=MemoryStore(bench.database), name="n2") as bench:
        assert await bench.registry.adopt() == 0
        assert bench.metrics.violations == 1


@virtual
async def test_so_are_rows_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(work, on_disconnect="hold") as bench:
        queue, peer = await bench.open()
        queue.request(ask("work", {"seconds": 1}))
        bench.registry.detach(queue, peer)
        await asyncio.sleep(2)

        async def claim(session: str) -> None:
            raise Damaged("a row can't be read")

        monkeypatch.setattr(bench.store, "claim", claim)
        assert await gone(bench, queue.session.id) == "history_lost"
        assert bench.metrics.violations == 1
        assert bench.registry.queues == {}


# ---- revoked


@virtual
async def test_the_connections_of_a_user_are_cut_and_the_work_goes_on() -> None:
    async with serving(work) as bench:
        queue, peer = await three(bench)
        other, other_peer = await bench.open(user="eve")
        loose, loose_peer = await three(bench)
        bench.registry.detach(loose, loose_peer)
        bench.registry.revoke("ada")
        assert peer.closed == (4403, "forbidden")
        assert other_peer.closed is None
        assert loose_peer.closed is None
        bench.registry.detach(queue, peer)
        await asyncio.sleep(20)
        assert receipt(bench, queue.session.id).done == 3
        assert list(bench.registry.queues) == [other.session.id]


@virtual
async def test_releases_carry_the_attach_they_were_made_under() -> None:
    async with serving() as bench:
        queue, _ = await bench.open()
        queue.request(ask("echo"))
        await settled()
        _, peer = await bench.open(queue.session.id)
        await left(bench, queue, peer)
        releases = bench.store.writes(Release)
        assert [w.attach for w in releases] == [2]
        assert bench.database.sessions[queue.session.id].node is None
