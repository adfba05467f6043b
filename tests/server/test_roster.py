"""The teardown of queues: bye, verified receipts, the last one out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from node_bench import Bench, ask, gone, left, receipt, serving, settled, tasks_of, three, work
from sqlite_file import catch_up
from virtual_time import virtual

from inorder.messages import Receipt
from inorder_server.handlers import handler
from inorder_server.registry import Ended
from inorder_server.session import Stage
from inorder_server.stores.port import End, Tally
from inorder_server.stores.sqlite import SqliteStore

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
        assert tasks_of(id) == []


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
        catch_up(db)
        db.execute("DELETE FROM runs WHERE NOT key & 1 AND instr(head, '#2')")
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
