"""The registry: attach, resume, the three policies, teardown and its receipt, adoption, drain."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from memory_store import MemoryStore
from node_bench import Bench, Peer, after_a_crash, ask, serving, settled, tasks
from virtual_time import VirtualLoop, virtual

from inorder.messages import Receipt
from inorder_server.auth import Identity
from inorder_server.handlers import Retry, handler
from inorder_server.modes import Mode
from inorder_server.queue import Queue
from inorder_server.refusal import Refusal
from inorder_server.registry import Ended, HungUp
from inorder_server.session import Stage
from inorder_server.stores.port import Attach, End, Release, Tally, User
from inorder_server.stores.sqlite import SqliteStore


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What was logged."""
    found: list[str] = []
    sink = logger.add(lambda m: found.append(m.record["message"]), level="DEBUG")
    yield found
    logger.remove(sink)


async def work(request: Any, seconds: float = 0) -> int:
    await asyncio.sleep(seconds)
    return int(request.seq)


async def gone(bench: Bench, session: str, **claims: Any) -> str:
    """The code with which a hello is refused."""
    with pytest.raises(Refusal) as refused:
        await bench.open(session, **claims)
    return refused.value.code


def of(session: str) -> list[str]:
    """The tasks of a session."""
    return [name for name in tasks() if session in name]


async def left(bench: Bench, queue: Queue, peer: Peer) -> None:
    """The connection goes; whatever needs no time happens."""
    bench.registry.detach(queue, peer)
    await settled()


def receipt(bench: Bench, session: str) -> Receipt:
    """The newest one in the store."""
    found = bench.database.sessions[session].receipt
    assert isinstance(found, Receipt)
    return found


# ---- attaching


@virtual
async def test_a_session_that_accepted_nothing_leaves_nothing() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        assert len(queue.session.id) == 32
        assert of(queue.session.id) == [f"consumer {queue.session.id}"]
        await left(bench, queue, peer)
        assert bench.registry.queues == {}
        assert bench.database.sessions == {}
        assert of(queue.session.id) == []
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
        assert of(queue.session.id) == [f"consumer {queue.session.id}"]
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
        assert of(queue.session.id) == [
            f"consumer {queue.session.id}",
            f"teardown {queue.session.id}",
        ]
        await asyncio.sleep(6)
        same, new = await bench.open(queue.session.id, seq=0, accepted=3)
        assert same is queue
        assert len(of(queue.session.id)) == 2
        queue.request(ask("work"))
        await asyncio.sleep(20)
        assert [seq for seq, _, _ in new.outcomes] == [2, 3, 4]
        assert not queue.ended
        await left(bench, queue, new)
        assert bench.registry.queues == {}
        assert of(queue.session.id) == []
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
        assert len(of(queue.session.id)) == 1


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
        assert of(queue.session.id) == []


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
            assert len(of(queue.session.id)) == live

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


# ---- the policies


async def three(bench: Bench, seconds: float = 5) -> tuple[Queue, Peer]:
    """A session whose first of three requests runs."""
    queue, peer = await bench.open()
    for n in range(3):
        queue.request(ask("work", {"seconds": seconds}, id=f"r{n}"))
    await settled()
    return queue, peer


@virtual
async def test_finish_runs_the_rest() -> None:
    async with serving(work) as bench:
        queue, peer = await three(bench)
        bench.registry.detach(queue, peer)
        await asyncio.sleep(20)
        id = queue.session.id
        assert receipt(bench, id) == Receipt(id, 3, 3, 0, 0, 0, True)
        row = bench.database.sessions[id]
        assert (row.node, row.clean, row.open, row.state) == (None, True, False, "live")
        assert of(id) == []
        assert bench.metrics.receipts == 1


@virtual
async def test_hold_keeps_the_rest_for_the_resume() -> None:
    async with serving(work, on_disconnect="hold") as bench:
        queue, peer = await three(bench)
        bench.registry.detach(queue, peer)
        await asyncio.sleep(20)
        id = queue.session.id
        assert receipt(bench, id) == Receipt(id, 3, 1, 0, 0, 2, True)
        row = bench.database.sessions[id]
        assert (row.clean, row.open) == (True, False)
        assert of(id) == []
        assert await bench.registry.adopt() == 0
        resumed, new = await bench.open(id, seq=0)
        assert resumed is not queue
        await asyncio.sleep(20)
        assert new.outcomes == [(2, "done", 2), (3, "done", 3)]
        assert bench.store.row(id, 2).attempt == 0


@virtual
async def test_cancel_cancels_the_rest() -> None:
    async with serving(work, on_disconnect="cancel") as bench:
        queue, peer = await three(bench)
        await left(bench, queue, peer)
        id = queue.session.id
        assert receipt(bench, id) == Receipt(id, 3, 0, 0, 3, 0, True)
        assert of(id) == []
        resumed, new = await bench.open(id)
        resumed.request(ask("echo", 4))
        await settled()
        assert new.outcomes == [(4, "done", 4)]


@virtual
async def test_ten_thousand_and_the_plug_is_pulled() -> None:
    for policy, counts in (
        ("finish", (10_000, 0, 0)),
        ("hold", (1, 0, 9_999)),
        ("cancel", (0, 10_000, 0)),
    ):
        async with serving(work, on_disconnect=policy, queue=10_000, unacked=20_000) as bench:
            queue, peer = await bench.open()
            queue.request(ask("work", {"seconds": 1}))
            for _ in range(9_999):
                queue.request(ask("work"))
            await settled()
            bench.registry.detach(queue, peer)
            while bench.registry.queues:
                await asyncio.sleep(1)
            found = receipt(bench, queue.session.id)
            assert (found.done, found.cancelled, found.pending) == counts
            assert found.verified
            assert of(queue.session.id) == []


# ---- bye


@virtual
async def test_bye_finishes_and_ends_the_session() -> None:
    async with serving(work) as bench:
        queue, peer = await three(bench)
        bench.registry.leave(queue, "finish")
        queue.request(ask("echo", id="late"))
        queue.request(ask("work", {"seconds": 5}, id="r1"))
        queue.cancel("r2")
        await asyncio.sleep(20)
        id = queue.session.id
        assert peer.refusals == ["closing"]
        assert peer.outcomes == [(1, "done", 1), (2, "done", 2), (3, "cancelled", "cancelled")]
        assert peer.receipt == Receipt(id, 3, 2, 0, 1, 0, True)
        assert peer.said[-1] == ("farewell", peer.receipt)
        assert bench.database.sessions[id].state == "ended"
        assert bench.database.rows[id] == {}
        with pytest.raises(Ended) as ended:
            await bench.open(id)
        assert ended.value.receipt == peer.receipt
        assert await gone(bench, id, user="eve") == "session_gone"
        bench.database.sessions[id].receipt = None
        assert await gone(bench, id) == "session_gone"
        bench.registry.detach(queue, peer)
        assert of(id) == []


@virtual
async def test_bye_cancels() -> None:
    async with serving(work) as bench:
        queue, peer = await three(bench, seconds=1000)
        bench.registry.leave(queue, "cancel")
        await settled()
        assert peer.receipt == Receipt(queue.session.id, 3, 0, 0, 3, 0, True)
        assert bench.database.sessions[queue.session.id].state == "ended"


@virtual
async def test_bye_of_a_session_that_accepted_nothing() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        bench.registry.leave(queue, "finish")
        await settled()
        assert peer.receipt == Receipt(queue.session.id, 0, 0, 0, 0, 0, True)
        assert bench.store.groups == []


@virtual
async def test_the_receipt_is_told_once_the_end_is_durable() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo"))
        await settled()
        bench.store.hold()
        bench.registry.leave(queue, "finish")
        await settled()
        assert peer.receipt is None
        # Nothing that still comes in changes what the receipt says.
        queue.cancel("#1")
        queue.acknowledge(1)
        assert peer.refusals == ["not_found"]
        assert queue.session.acked == 0
        bench.store.release()
        await settled()
        assert peer.receipt is not None
        assert isinstance(bench.store.groups[-1][0], End)


@virtual
async def test_bye_and_cut_before_the_receipt_stays_resumable() -> None:
    async with serving(work) as bench:
        queue, peer = await three(bench)
        bench.registry.leave(queue, "finish")
        bench.registry.detach(queue, peer)
        await asyncio.sleep(20)
        id = queue.session.id
        assert peer.receipt is None
        assert bench.database.sessions[id].state == "live"
        resumed, new = await bench.open(id, seq=1)
        assert (resumed.session.settled, resumed.session.acked) == (3, 1)
        resumed.request(ask("echo", 4))
        await settled()
        assert new.outcomes == [(4, "done", 4)]


@virtual
async def test_bye_and_a_resume_before_the_receipt_takes_the_word_back() -> None:
    async with serving(work) as bench:
        queue, peer = await three(bench)
        bench.registry.leave(queue, "finish")
        same, new = await bench.open(queue.session.id)
        assert same is queue
        queue.request(ask("echo", 4))
        await asyncio.sleep(20)
        assert new.outcomes[-1] == (4, "done", 4)
        assert peer.receipt is None
        assert not queue.ended


@virtual
async def test_a_resume_while_the_end_is_written_gets_the_receipt() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo"))
        await settled()
        bench.store.hold()
        bench.registry.leave(queue, "finish")
        await settled()
        bench.registry.detach(queue, peer)
        opening = asyncio.create_task(bench.open(queue.session.id))
        await settled()
        assert not opening.done()
        bench.store.release()
        with pytest.raises(Ended):
            await opening


@virtual
async def test_bye_of_a_blocked_queue_answers_at_once() -> None:
    @handler(on_exhausted="block")
    async def fails(request: Any) -> None:
        raise RuntimeError("no")

    async with serving(fails) as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo", 1))
        queue.request(ask("fails", id="a"))
        queue.request(ask("echo", 3))
        await settled()
        before = asyncio.get_running_loop().time()
        bench.registry.leave(queue, "finish")
        await settled()
        assert asyncio.get_running_loop().time() == before
        assert peer.receipt == Receipt(queue.session.id, 3, 1, 0, 0, 2, True)
        row = bench.database.sessions[queue.session.id]
        assert (row.state, row.open, row.clean) == ("live", False, True)
        assert await bench.registry.adopt() == 0


# ---- parking


@handler(attempts=2)
async def later(request: Any) -> str:
    if request.attempt == 1:
        raise Retry(after=60)
    return "at last"


@virtual
async def test_a_parked_queue_comes_back_by_its_timer() -> None:
    async with serving(later) as bench:
        await bench.store.add_user(User("ada", b"", 3, True, 0))
        queue, peer = await bench.open()
        queue.request(ask("later"))
        queue.request(ask("echo", 2))
        await settled()
        await left(bench, queue, peer)
        id = queue.session.id
        assert of(id) == []
        assert receipt(bench, id) == Receipt(id, 2, 0, 0, 0, 2, True)
        assert bench.database.sessions[id].open
        await asyncio.sleep(59)
        assert bench.registry.queues == {}
        await asyncio.sleep(2)
        assert receipt(bench, id) == Receipt(id, 2, 2, 0, 0, 0, True)
        assert of(id) == []
        assert bench.registry._departed._timers == {}


@virtual
async def test_a_parked_queue_comes_back_by_a_resume_once() -> None:
    async with serving(later) as bench:
        queue, peer = await bench.open()
        queue.request(ask("later"))
        await settled()
        await left(bench, queue, peer)
        await asyncio.sleep(30)
        _, new = await bench.open(queue.session.id)
        await asyncio.sleep(100)
        assert new.outcomes == [(1, "done", "at last")]
        assert bench.database.sessions[queue.session.id].epoch == 2


@pytest.mark.parametrize("claims", [{}, {"seq": 9}])
def test_held_a_head_that_nobody_looked_at_waits_as_before(claims: dict[str, int]) -> None:
    """A hello that is refused, or cut off at once, shortens no backoff and ends no block."""
    runs: list[int] = []

    @handler(on_exhausted="block", attempts=2)
    async def fails(request: Any) -> None:
        runs.append(request.attempt)
        if request.attempt == 1:
            raise Retry(after=60)
        raise RuntimeError("no")

    async def come_and_go(bench: Bench, id: str) -> None:
        if claims:
            assert await gone(bench, id, **claims) == "history_lost"
        else:
            bench.registry.detach(*await bench.open(id))
        await settled()

    @virtual
    async def check() -> None:
        async with serving(fails, on_disconnect="hold") as bench:
            queue, peer = await bench.open()
            id = queue.session.id
            queue.request(ask("fails"))
            await settled()
            await left(bench, queue, peer)
            await come_and_go(bench, id)
            queue, peer = await bench.open(id)
            await asyncio.sleep(59)
            assert runs == [1]
            await asyncio.sleep(2)
            assert runs == [1, 2]
            await left(bench, queue, peer)
            await come_and_go(bench, id)
            row = bench.database.sessions[id]
            assert (row.open, row.held) == (False, False)
            queue, peer = await bench.open(id)
            await settled()
            assert runs == [1, 2]
            assert queue.block is not None
            assert await bench.registry.operate("skip", id, None)
            await settled()
            assert peer.outcomes == [(1, "failed", "skipped")]

    check()


@virtual
async def test_a_timer_that_finds_the_store_away_tries_again() -> None:
    async with serving(later) as bench:
        queue, peer = await bench.open()
        queue.request(ask("later"))
        await settled()
        await left(bench, queue, peer)
        bench.store.away = {"session", "user", "tally"}
        await asyncio.sleep(70)
        bench.store.away = {"tally"}
        await asyncio.sleep(5)
        # It has run, and its receipt waits for the store.
        assert bench.store.row(queue.session.id, 1).ending == "done"
        assert not bench.database.sessions[queue.session.id].clean
        bench.store.away = set()
        await asyncio.sleep(5)
        assert receipt(bench, queue.session.id).done == 1


@virtual
async def test_a_timer_whose_session_is_gone_meanwhile() -> None:
    async with serving(later) as bench:
        for how in ("expired", "taken", "resumed"):
            queue, peer = await bench.open()
            queue.request(ask("later"))
            await settled()
            await left(bench, queue, peer)
            id = queue.session.id
            if how == "expired":
                del bench.database.sessions[id]
                bench.registry.forgotten([id])
            elif how == "taken":
                bench.store.take_away(id)
            else:
                bench.store.hold("session")
                await asyncio.sleep(61)
                # The timer's adoption has the session's lock; the hello waits for it.
                opening = asyncio.create_task(bench.open(id))
                await settled()
                bench.store.release("session")
                await opening
            await asyncio.sleep(70)
        assert list(bench.registry.queues) == [id]
        assert bench.registry._departed._timers == {}


@virtual
async def test_an_adoption_that_fails_is_logged() -> None:
    async with serving(later) as bench:
        queue, peer = await bench.open()
        queue.request(ask("later"))
        await settled()
        await left(bench, queue, peer)
        seen: list[str] = []
        sink = logger.add(lambda m: seen.append(m.record["message"]), level="ERROR")
        del bench.store.database
        await asyncio.sleep(70)
        logger.remove(sink)
        assert seen == [f"adopt {queue.session.id} failed"]


@virtual
async def test_held_work_does_not_come_back_by_itself() -> None:
    async with serving(later, on_disconnect="hold") as bench:
        queue, peer = await bench.open()
        queue.request(ask("later"))
        queue.request(ask("echo", 2))
        await settled()
        await left(bench, queue, peer)
        await asyncio.sleep(1000)
        assert not bench.database.sessions[queue.session.id].open
        assert receipt(bench, queue.session.id).pending == 2
        _, new = await bench.open(queue.session.id)
        await settled()
        assert new.outcomes == [(1, "done", "at last"), (2, "done", 2)]


# ---- verifying


@virtual
async def test_a_row_that_was_deleted_makes_the_receipt_false() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        for n in range(3):
            queue.request(ask("echo", n))
        await settled()
        del bench.database.rows[queue.session.id][2]
        bench.registry.leave(queue, "finish")
        await settled()
        assert peer.receipt == Receipt(queue.session.id, 3, 3, 0, 0, 0, False)
        assert (bench.metrics.violations, bench.metrics.receipts) == (1, 0)
        # Its rows are the evidence.
        assert bench.database.sessions[queue.session.id].state == "live"


async def test_a_row_deleted_by_hand_from_a_real_file(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "inorder.db"
    bench = Bench(store=SqliteStore(path))
    await bench.start()
    queue, peer = await bench.open()
    for n in range(3):
        queue.request(ask("echo", n))
    async with asyncio.timeout(10):
        while len(peer.outcomes) < 3:
            await asyncio.sleep(0.01)
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM requests WHERE id = '#2'")
    db.close()
    bench.registry.leave(queue, "finish")
    async with asyncio.timeout(10):
        while peer.receipt is None:
            await asyncio.sleep(0.01)
    assert peer.receipt == Receipt(queue.session.id, 3, 3, 0, 0, 0, False)
    assert bench.metrics.violations == 1
    assert await bench.stop() == []


@virtual
async def test_a_tally_that_is_wrong_makes_the_receipt_false() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo"))
        await settled()
        bench.database.sessions[queue.session.id].failed += 1
        bench.registry.leave(queue, "finish")
        await settled()
        assert peer.receipt is not None
        assert not peer.receipt.verified


@virtual
async def test_acknowledged_outcomes_are_in_the_tally() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        for n in range(5):
            queue.request(ask("echo", n))
        await settled()
        queue.acknowledge(4)
        bench.registry.leave(queue, "finish")
        await settled()
        assert peer.receipt == Receipt(queue.session.id, 5, 5, 0, 0, 0, True)
        assert await bench.store.tally(queue.session.id) == Tally(5, 0, 0, 0)


@virtual
async def test_a_consumer_that_breaks_is_torn_down_and_told() -> None:
    async with serving(work) as bench:
        queue, peer = await three(bench)
        assert queue.running is not None
        queue.running.entry.stage = Stage.SETTLED
        await asyncio.sleep(10)
        id = queue.session.id
        assert peer.closed == (1011, "internal")
        assert not receipt(bench, id).verified
        assert bench.metrics.violations == 1
        assert bench.registry.queues == {}
        # What ran may have done harm: it is no clean end.
        assert not bench.database.sessions[id].clean
        bench.registry.detach(queue, peer)
        _, new = await bench.open(id)
        await asyncio.sleep(20)
        assert [seq for seq, _, _ in new.outcomes] == [1, 2, 3]
        assert bench.store.row(id, 1).attempt == 1


@virtual
async def test_moved_while_it_was_torn_down() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo"))
        await settled()
        bench.store.hold("tally")
        bench.registry.leave(queue, "finish")
        await settled()
        bench.store.take_away(queue.session.id)
        bench.store.release("tally")
        await settled()
        assert peer.receipt == Receipt(queue.session.id, 1, 1, 0, 0, 0, False)
        assert bench.metrics.violations == 0
        assert bench.registry.queues == {}


@virtual
async def test_a_teardown_that_fails_is_logged_and_its_session_can_t_be_had() -> None:
    async with serving() as bench:
        queue, peer = await bench.open()
        queue.request(ask("echo"))
        await settled()
        seen: list[str] = []
        sink = logger.add(lambda m: seen.append(m.record["message"]), level="ERROR")

        async def broken(session: str) -> Tally:
            raise RuntimeError("a bug")

        bench.store.tally = broken
        await left(bench, queue, peer)
        logger.remove(sink)
        assert seen == [f"teardown {queue.session.id} failed"]
        with pytest.raises(RuntimeError, match="a bug"):
            await bench.open(queue.session.id)


# ---- the last one out


@virtual
async def test_the_last_one_out_says_what_all_came_to() -> None:
    seen: list[str] = []
    sink = logger.add(lambda m: seen.append(m.record["message"]), level="INFO")
    async with serving(work, on_disconnect="hold") as bench:
        for _ in range(2):
            queue, peer = await bench.open()
            queue.request(ask("echo"))
            await settled()
            bench.registry.leave(queue, "finish")
            await settled()
        held, peer = await three(bench)
        empty, nobody = await bench.open()
        bench.registry.detach(held, peer)
        await asyncio.sleep(10)
        await left(bench, empty, nobody)
        # It comes back: it is not counted twice.
        again, peer = await bench.open(held.session.id)
        await asyncio.sleep(10)
        await asyncio.sleep(20)
        await left(bench, again, peer)
        bench.registry.forgotten([held.session.id])
        assert bench.registry._departed._counted == {}
    logger.remove(sink)
    last = [line.removeprefix("last one out: ") for line in seen if line.startswith("last one")]
    assert last == [
        "1 sessions, 1 accepted, 1 done, 0 failed, 0 cancelled, 0 pending, 1 verified",
        "2 sessions, 2 accepted, 2 done, 0 failed, 0 cancelled, 0 pending, 2 verified",
        "3 sessions, 5 accepted, 3 done, 0 failed, 0 cancelled, 2 pending, 3 verified",
        "3 sessions, 5 accepted, 5 done, 0 failed, 0 cancelled, 0 pending, 3 verified",
    ]


@virtual
async def test_metrics_show_what_is_live() -> None:
    async with serving(work) as bench:
        await three(bench)
        await bench.open()
        assert bench.metrics.live() == (2, 3)


# ---- adoption


@virtual
async def test_unfinished_sessions_are_finished_without_their_clients() -> None:
    dead = Bench(work)
    await dead.start()
    queues = [(await three(dead))[0] for _ in range(3)]
    done, peer = await dead.open()
    done.request(ask("echo"))
    await settled()
    await left(dead, done, peer)
    async with after_a_crash(dead) as bench:
        assert await bench.registry.adopt() == 3
        assert await bench.registry.adopt() == 0
        await asyncio.sleep(20)
        for queue in queues:
            assert receipt(bench, queue.session.id).done == 3
        assert bench.registry.queues == {}


@virtual
async def test_under_hold_adopted_work_waits_for_its_client() -> None:
    dead = Bench(work, on_disconnect="hold")
    await dead.start()
    queue, _ = await three(dead)
    async with after_a_crash(dead) as bench:
        assert await bench.registry.adopt() == 1
        await settled()
        row = bench.database.sessions[queue.session.id]
        assert (row.node, row.open, row.held) == (None, False, True)
        # Nothing was marked, and nothing forgotten: its head may have run.
        assert bench.store.row(queue.session.id, 1).attempt == 0
        assert not row.clean
        assert await bench.registry.adopt() == 0
        _, peer = await bench.open(queue.session.id)
        await asyncio.sleep(20)
        assert [seq for seq, _, _ in peer.outcomes] == [1, 2, 3]
        assert bench.store.row(queue.session.id, 1).attempt == 1


@virtual
async def test_adopted_work_runs_with_its_user_s_rights() -> None:
    seen: list[Any] = []

    async def look(request: Any) -> None:
        seen.append(request.user)
        if len(seen) < 2:
            await asyncio.sleep(1000)

    dead = Bench(look)
    await dead.start()
    queue, _ = await dead.open()
    queue.request(ask("look"))
    await settled()
    await dead.store.add_user(User("ada", b"", 3, True, 0))
    async with after_a_crash(dead) as bench:
        await bench.registry.adopt()
        await settled()
        assert [(user.name, user.admin) for user in seen] == [("ada", False), ("ada", True)]


@virtual
async def test_a_hello_meets_an_adoption_under_way() -> None:
    dead = Bench(work)
    await dead.start()
    queue, _ = await three(dead)
    async with after_a_crash(dead) as bench:
        bench.store.hold("claim")
        adopting = asyncio.create_task(bench.registry.adopt())
        await settled()
        opening = asyncio.create_task(bench.open(queue.session.id))
        await settled()
        bench.store.release("claim")
        assert await adopting == 1
        _, peer = await opening
        await asyncio.sleep(20)
        assert [seq for seq, _, _ in peer.outcomes] == [1, 2, 3]
        assert bench.database.sessions[queue.session.id].epoch == 2


# ---- expiry and operators


async def held(bench: Bench) -> str:
    """A session whose client went while two of its requests waited."""
    queue, peer = await three(bench, seconds=1)
    bench.registry.detach(queue, peer)
    await asyncio.sleep(2)
    assert bench.database.sessions[queue.session.id].held
    return queue.session.id


@virtual
async def test_held_work_is_cancelled_and_ended_at_its_time() -> None:
    async with serving(work, on_disconnect="hold") as bench:
        id = await held(bench)
        row = bench.database.sessions[id]
        await bench.registry.expire(id, row.left_ms)
        assert row.state == "live"
        assert bench.registry.queues == {}
        await bench.registry.expire(id, row.left_ms + 1)
        await settled()
        assert row.state == "ended"
        assert receipt(bench, id) == Receipt(id, 3, 1, 0, 2, 0, True)
        assert of(id) == []
        with pytest.raises(Ended):
            await bench.open(id)


@virtual
async def test_a_resume_while_it_expires_keeps_the_session() -> None:
    async with serving(work, on_disconnect="hold") as bench:
        id = await held(bench)
        bench.store.hold("commit")
        await bench.registry.expire(id, 1 << 60)
        opening = asyncio.create_task(bench.open(id))
        await settled()
        bench.store.release("commit")
        queue, peer = await opening
        await settled()
        assert [(seq, how) for seq, how, _ in peer.outcomes] == [(2, "cancelled"), (3, "cancelled")]
        queue.request(ask("echo", 4))
        await settled()
        await left(bench, queue, peer)
        assert bench.database.sessions[id].state == "live"


@virtual
async def test_an_operator_s_word_reaches_a_parked_queue() -> None:
    runs: list[int] = []

    @handler(on_exhausted="block")
    async def fails(request: Any) -> str:
        runs.append(request.seq)
        if len(runs) == 1:
            raise RuntimeError("no")
        return "done"

    async with serving(fails) as bench:
        queue, peer = await bench.open()
        queue.request(ask("fails", id="a"))
        queue.request(ask("echo", 2, id="b"))
        await settled()
        await left(bench, queue, peer)
        id = queue.session.id
        # Not a word on another request, nor on another session.
        assert not await bench.registry.operate("skip", id, "b")
        await settled()
        assert not await bench.registry.operate("skip", "0" * 32, None)
        assert bench.registry.queues == {}
        assert runs == [1]
        assert await bench.registry.operate("retry", id, "a")
        await settled()
        assert receipt(bench, id) == Receipt(id, 2, 2, 0, 0, 0, True)
        assert runs == [1, 1]


@virtual
async def test_an_operator_s_word_while_a_queue_is_being_parked_is_not_lost() -> None:
    @handler(on_exhausted="block")
    async def fails(request: Any) -> None:
        raise RuntimeError("no")

    async with serving(fails) as bench:
        queue, peer = await bench.open()
        queue.request(ask("fails", id="a"))
        await settled()
        bench.store.hold()
        await left(bench, queue, peer)
        assert queue.ended
        word = asyncio.create_task(bench.registry.operate("skip", queue.session.id, None))
        await settled()
        bench.store.release()
        assert await word
        await settled()
        assert receipt(bench, queue.session.id) == Receipt(queue.session.id, 1, 0, 1, 0, 0, True)


@virtual
async def test_an_operator_s_word_while_a_parked_queue_waits_for_the_store_is_not_lost() -> None:
    runs: list[int] = []

    @handler(on_exhausted="block")
    async def fails(request: Any) -> None:
        runs.append(request.seq)
        await asyncio.sleep(1)
        raise RuntimeError("no")

    async with serving(fails, on_disconnect="hold") as bench:
        queue, peer = await bench.open()
        queue.request(ask("fails", id="a"))
        await settled()
        bench.store.hold()
        queue.request(ask("echo", 2))
        bench.registry.detach(queue, peer)
        await asyncio.sleep(2)
        assert not queue.ended
        assert await bench.registry.operate("skip", queue.session.id, "a")
        bench.store.release()
        await settled()
        assert receipt(bench, queue.session.id) == Receipt(queue.session.id, 2, 1, 1, 0, 0, True)
        assert runs == [1]


@virtual
async def test_no_word_counts_while_the_node_goes_down() -> None:
    async with serving(work) as bench:
        queue, _ = await three(bench)
        queue.turn(Mode.STOP)
        assert not queue.operate("skip")


@virtual
async def test_an_operator_s_word_at_a_live_queue() -> None:
    @handler(on_exhausted="block")
    async def fails(request: Any) -> None:
        raise RuntimeError("no")

    async with serving(fails, work) as bench:
        queue, peer = await bench.open()
        queue.request(ask("work", {"seconds": 5}))
        queue.request(ask("fails"))
        await settled()
        assert not await bench.registry.operate("skip", queue.session.id, None)
        await asyncio.sleep(6)
        assert await bench.registry.operate("skip", queue.session.id, "#2")
        await settled()
        assert peer.outcomes == [(1, "done", 1), (2, "failed", "skipped")]


@virtual
async def test_an_operator_s_word_sets_no_held_work_going() -> None:
    async with serving(work, on_disconnect="hold") as bench:
        id = await held(bench)
        assert not await bench.registry.operate("retry", id, None)
        await settled()
        assert bench.store.row(id, 2).ending is None
        assert bench.database.sessions[id].held


# ---- drain


@virtual
async def test_a_drain_finishes_what_it_can_and_says_so() -> None:
    bench = Bench(work)
    await bench.start()
    queue, peer = await three(bench, seconds=2)
    idle, idle_peer = await bench.open()
    closing, bye = await bench.open()
    bench.registry.leave(closing, "finish")
    draining = asyncio.create_task(bench.registry.drain(30))
    await settled()
    queue.request(ask("echo", id="late"))
    assert peer.refusals == ["draining"]
    assert await draining == []
    assert peer.heard("draining") == [30]
    assert [seq for seq, _, _ in peer.outcomes] == [1, 2, 3]
    assert peer.said[-1] == ("finish", 1012, "draining")
    assert idle_peer.said == [("draining", 30), ("finish", 1012, "draining")]
    assert bye.receipt is not None
    assert idle.ended
    assert receipt(bench, queue.session.id).done == 3
    await bench.stop()
    assert tasks() == []


@virtual
async def test_a_drain_leaves_the_rest_in_time() -> None:
    bench = Bench(work)
    await bench.start()
    queue, peer = await three(bench, seconds=10)
    before = asyncio.get_running_loop().time()
    assert await bench.registry.drain(15) == []
    assert asyncio.get_running_loop().time() - before == pytest.approx(15, abs=0.1)
    id = queue.session.id
    assert receipt(bench, id) == Receipt(id, 3, 1, 0, 0, 2, True)
    row = bench.database.sessions[id]
    assert (row.node, row.clean, row.open) == (None, True, True)
    assert peer.said[-1] == ("finish", 1012, "draining")
    await bench.stop()


@virtual
async def test_a_bye_that_a_drain_leaves_unanswered_is_asked_again() -> None:
    """Cut short by the deadline, or too late for the end of the session: no receipt is told
    of a session that lives on."""
    bench = Bench(work)
    await bench.start()
    queue, peer = await three(bench, seconds=10)
    bench.registry.leave(queue, "finish")
    late, late_peer = await bench.open()
    late.request(ask("echo"))
    await settled()
    bench.store.hold()
    draining = asyncio.create_task(bench.registry.drain(15))
    await settled()
    bench.registry.leave(late, "finish")
    bench.store.release()
    assert await draining == []
    for who, told in ((queue, peer), (late, late_peer)):
        assert told.receipt is None
        assert told.said[-1] == ("finish", 1012, "draining")
        assert bench.database.sessions[who.session.id].state == "live"
    await bench.stop()


@virtual
async def test_a_bye_to_a_queue_that_a_drain_has_parked_is_asked_again() -> None:
    """Its head comes back by itself: only who waits for an operator is answered."""

    @handler(on_exhausted="block")
    async def fails(request: Any) -> None:
        await asyncio.sleep(10)
        raise RuntimeError("no")

    @handler(attempts=2)
    async def slow(request: Any) -> None:
        await asyncio.sleep(10)
        raise Retry(after=60)

    for method, mode, pending in (
        ("slow", "finish", None),
        ("slow", "cancel", None),
        ("fails", "finish", 2),
    ):
        bench = Bench(fails, slow)
        await bench.start()
        queue, peer = await bench.open()
        queue.request(ask(method))
        queue.request(ask("echo"))
        await settled()
        draining = asyncio.create_task(bench.registry.drain(15))
        await settled()
        bench.registry.leave(queue, mode)
        assert await draining == []
        if pending is None:
            assert peer.said[-1] == ("finish", 1012, "draining")
            assert peer.receipt is None
        else:
            assert peer.receipt == Receipt(queue.session.id, 2, 0, 0, 0, pending, True)
        assert receipt(bench, queue.session.id).pending == 2
        await bench.stop()


@virtual
async def test_a_drain_with_a_handler_that_will_not_stop() -> None:
    async def stubborn(request: Any) -> None:
        end = asyncio.get_running_loop().time() + 1000
        while asyncio.get_running_loop().time() < end:
            try:
                await asyncio.sleep(end)
            except asyncio.CancelledError:
                continue

    bench = Bench(stubborn, work)
    await bench.start()
    queue, peer = await bench.open()
    queue.request(ask("stubborn"))
    other, other_peer = await three(bench, seconds=1)
    await settled()
    before = asyncio.get_running_loop().time()
    assert await bench.registry.drain(5) == [queue.session.id]
    assert asyncio.get_running_loop().time() - before <= 6.1
    assert other_peer.said[-1] == ("finish", 1012, "draining")
    assert other.ended
    await bench.registry.close()
    assert asyncio.get_running_loop().time() - before <= 6.7
    assert bench.database.sessions[queue.session.id].node == "n1"
    # Let it go, for the sake of the next test.
    await asyncio.sleep(2000)
    assert peer.outcomes == []
    await bench.stop()


@virtual
async def test_a_drain_with_a_thread_that_is_stuck() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    leave, began = threading.Event(), threading.Event()

    def stuck(request: Any) -> None:
        began.set()
        leave.wait(20)

    bench = Bench(stuck)
    await bench.start()
    queue, _ = await bench.open()
    queue.request(ask("stuck"))
    while not began.is_set():
        await asyncio.sleep(0)
    assert await bench.registry.drain(5) == []
    id = queue.session.id
    assert receipt(bench, id) == Receipt(id, 1, 0, 0, 0, 1, True)
    left = await bench.stop()
    assert left == [f"thread of stuck ({id}/1 of ada)"] or len(left) == 1
    leave.set()


@virtual
async def test_a_drain_while_the_store_is_away() -> None:
    bench = Bench(work)
    await bench.start()
    await three(bench, seconds=1)
    bench.store.away = {"*"}
    before = asyncio.get_running_loop().time()
    assert len(await bench.registry.drain(5)) == 1
    await bench.registry.close()
    assert not await bench.journal.close(0.25)
    assert asyncio.get_running_loop().time() - before <= 7
    await bench.runner.close(0)
    assert tasks() == []


@virtual
async def test_many_are_drained_in_batches() -> None:
    bench = Bench()
    await bench.start()
    peers = [(await bench.open())[1] for _ in range(250)]
    assert await bench.registry.drain(5) == []
    assert {peer.said[-1] for peer in peers} == {("finish", 1012, "draining")}
    await bench.stop()


@virtual
async def test_nobody_comes_in_during_a_drain() -> None:
    bench = Bench(work, later)
    await bench.start()
    queue, peer = await bench.open()
    queue.request(ask("echo"))
    await settled()
    await left(bench, queue, peer)
    parked, peer = await bench.open()
    parked.request(ask("later"))
    await settled()
    await left(bench, parked, peer)
    # One hello is under way.
    bench.store.hold("claim")
    opening = asyncio.create_task(bench.open(queue.session.id))
    adopting = asyncio.create_task(bench.registry.adopt())
    await settled()
    bench.node.draining = True
    bench.store.release("claim")
    with pytest.raises(Refusal) as refused:
        await opening
    assert refused.value.code == "draining"
    assert await adopting == 1
    await settled()
    assert bench.registry.queues == {}
    row = bench.database.sessions[parked.session.id]
    assert (row.node, row.clean, row.open) == (None, True, True)
    assert await gone(bench, queue.session.id) == "draining"
    with pytest.raises(Refusal, match="draining"):
        await bench.open()
    assert await bench.registry.adopt() == 0
    assert await bench.stop() == []


@virtual
async def test_a_timer_does_not_bring_work_back_after_a_drain() -> None:
    bench = Bench(later)
    await bench.start()
    queue, peer = await bench.open()
    queue.request(ask("later"))
    await settled()
    await left(bench, queue, peer)
    other, _ = await bench.open()
    other.request(ask("later"))
    await settled()
    assert await bench.registry.drain(5) == []
    await asyncio.sleep(100)
    assert bench.registry.queues == {}
    assert bench.database.sessions[other.session.id].open
    await bench.stop()
    assert tasks() == []


@virtual
async def test_closing_ends_what_still_waits_for_the_store() -> None:
    bench = Bench(later)
    await bench.start()
    queue, peer = await bench.open()
    queue.request(ask("later"))
    await settled()
    await left(bench, queue, peer)
    bench.store.away = {"session"}
    await asyncio.sleep(65)
    assert tasks() == [f"adopt {queue.session.id}", "journal"]
    await bench.registry.close()
    assert tasks() == ["journal"]
    bench.store.away = set()
    await bench.stop()


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
