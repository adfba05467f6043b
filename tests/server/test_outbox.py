"""What waits for one connection: order, frames, a peer that is behind, the two ways to close."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fake_socket import FakeSocket
from node_bench import settled, tasks
from virtual_time import virtual

from inorder import codec
from inorder.codes import CloseCode
from inorder.messages import Accepted
from inorder_server.acceptances import Hold
from inorder_server.outbox import HIGH_WATER, Outbox, outcome_message
from inorder_server.stores.port import Outcome, StoreUnavailable

PATIENCE = 30.0


def outcome(seq: int, size: int = 0) -> Outcome:
    return Outcome(seq, f"r{seq}", "done", b'"' + b"x" * size + b'"')


def accepted(seq: int) -> Accepted:
    return Accepted(id=f"r{seq}", seq=seq, ahead=0)


def plain(word: str, size: int = 0) -> bytes:
    return codec.encode({"type": word, "fill": "x" * size})


class Desk:
    """An outbox, its socket, and the journal that it reads."""

    def __init__(self, *, batch: int = 256, arrays: bool = True) -> None:
        self.socket = FakeSocket()
        self.outbox = Outbox(self.socket, Hold(), batch=batch, patience=PATIENCE)  # type: ignore[arg-type]
        self.outbox.arrays = arrays
        self.kept: dict[int, Outcome] = {}
        self.settled = 0
        self.coming = 0
        self.reads: list[tuple[int, int]] = []
        self.trouble: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.writer: asyncio.Task[None]

    def open(self, sent: int = 0) -> None:
        self.outbox.open(sent, lambda: self.settled, lambda: self.coming, self._read)

    def settle(self, seq: int, size: int = 0) -> None:
        """An outcome becomes durable and is told, as the queue does it."""
        self.keep(seq, size)
        self.outbox.outcomes([self.kept[seq]])

    def keep(self, seq: int, size: int = 0) -> None:
        self.kept[seq] = outcome(seq, size)
        self.settled = seq

    async def _read(self, after: int, upto: int, most: int) -> list[Outcome]:
        self.reads.append((after, upto))
        await self.gate.wait()
        await asyncio.sleep(0)
        if self.trouble:
            raise self.trouble.pop(0)
        found: list[Outcome] = []
        size = 0
        for seq in range(after + 1, upto + 1):
            if seq in self.kept:
                size += len(self.kept[seq].body)
                if found and size > most:
                    break
                found.append(self.kept[seq])
        return found

    @property
    def seqs(self) -> list[int]:
        """Of the outcomes that were written."""
        return [message["seq"] for message in self.socket.of("result")]


@asynccontextmanager
async def desk(**options: Any) -> AsyncIterator[Desk]:
    """With the writer at work; afterwards no task of it may be left."""
    made = Desk(**options)
    made.writer = asyncio.create_task(made.outbox.write(), name="writer")
    await settled()
    yield made
    made.socket.go()
    made.writer.cancel()
    await asyncio.wait([made.writer])
    assert tasks() == []


# ---- an outcome, as the wire has it


def test_outcomes_as_messages() -> None:
    done = Outcome(3, "a", "done", b'{"n": 1}')
    assert json.loads(codec.encode(outcome_message(done))) == {
        "type": "result",
        "id": "a",
        "seq": 3,
        "result": {"n": 1},
    }
    failed = Outcome(4, "b", "failed", b'{"code":"no_money","message":"m","details":{"has":3}}')
    assert json.loads(codec.encode(outcome_message(failed))) == {
        "type": "error",
        "code": "no_money",
        "message": "m",
        "retry": False,
        "id": "b",
        "seq": 4,
        "details": {"has": 3},
    }
    cancelled = Outcome(5, "c", "cancelled", b'{"code":"cancelled","message":"m"}')
    assert "details" not in json.loads(codec.encode(outcome_message(cancelled)))


# ---- frames


@virtual
async def test_what_waits_together_shares_a_frame() -> None:
    async with desk() as d:
        for word in "abc":
            d.outbox.put(plain(word))
        await settled()
        assert len(d.socket.frames) == 1
        assert d.socket.types == ["a", "b", "c"]
        d.outbox.put(plain("d"))
        await settled()
        assert d.socket.frames[1] == plain("d"), "one alone is no array"


@virtual
async def test_a_frame_holds_so_many_messages() -> None:
    async with desk(batch=2) as d:
        for word in "abcde":
            d.outbox.put(plain(word))
        await settled()
        assert [len(json.loads(frame)) for frame in d.socket.frames[:2]] == [2, 2]
        assert d.socket.frames[2] == plain("e")
        assert d.socket.types == [*"abcde"]


@virtual
async def test_a_frame_is_closed_when_it_is_large() -> None:
    async with desk() as d:
        for word in "abc":
            d.outbox.put(plain(word, 40 << 10))
        await settled()
        assert [len(json.loads(frame)) for frame in d.socket.frames[:1]] == [2]
        assert d.socket.types == [*"abc"]


@virtual
async def test_by_hand_every_message_has_its_frame() -> None:
    async with desk(arrays=False) as d:
        d.open()
        for seq in (1, 2):
            d.outbox.accepted(accepted(seq), cumulative=True)
        d.settle(1)
        d.settle(2)
        await settled()
        assert len(d.socket.frames) == 4
        assert d.socket.types == ["accepted", "accepted", "result", "result"]


# ---- accepted


@virtual
async def test_one_accepted_stands_for_all_earlier_ones() -> None:
    async with desk() as d:
        d.open()
        for seq in (1, 2, 3):
            d.outbox.accepted(accepted(seq), cumulative=True)
        await settled()
        assert [m["seq"] for m in d.socket.of("accepted")] == [3]


@virtual
async def test_an_outcome_stands_for_its_accepted() -> None:
    async with desk() as d:
        d.open()
        d.outbox.accepted(accepted(1), cumulative=True)
        d.settle(1)
        await settled()
        assert d.socket.types == ["result"]
        d.outbox.accepted(accepted(2), cumulative=True)
        d.outbox.accepted(accepted(3), cumulative=True)
        d.settle(2)
        await settled()
        assert [(m["type"], m["seq"]) for m in d.socket.seen[1:]] == [
            ("accepted", 3),
            ("result", 2),
        ]


@virtual
async def test_an_accepted_waits_for_an_outcome_that_is_on_its_way() -> None:
    async with desk() as d:
        d.open()
        d.coming = 2
        for seq in (1, 2):
            d.outbox.accepted(accepted(seq), cumulative=True)
            await settled()
        assert d.socket.types == []
        for seq in (1, 2):
            d.settle(seq)
        await settled()
        assert d.socket.types == ["result", "result"]
        await asyncio.sleep(1)
        assert d.socket.types == ["result", "result"], "nor later"
        d.outbox.accepted(accepted(3), cumulative=True)
        await settled()
        assert d.socket.types[2:] == ["accepted"], "nothing is on its way for this one"


@virtual
async def test_one_that_waits_is_told_before_progress() -> None:
    async with desk() as d:
        d.open()
        d.coming = 1
        d.outbox.accepted(accepted(1), cumulative=True)
        d.outbox.progress(plain("progress"))
        d.settle(1)
        await settled()
        assert d.socket.types == ["accepted", "progress", "result"]


@virtual
async def test_each_waits_a_time_of_its_own() -> None:
    async with desk() as d:
        d.open()
        d.coming = 10
        for seq in range(1, 10):
            d.outbox.accepted(accepted(seq), cumulative=True)
            await asyncio.sleep(0.1)
            d.settle(seq)
        await settled()
        assert d.socket.types == ["result"] * 9
        d.outbox.accepted(accepted(10), cumulative=True)
        await asyncio.sleep(0.5)
        assert d.socket.types[9:] == ["accepted"]


@virtual
async def test_one_that_waits_is_told_before_the_close() -> None:
    async with desk() as d:
        d.open()
        d.coming = 1
        d.outbox.accepted(accepted(1), cumulative=True)
        d.outbox.finish(CloseCode.RESTART, "draining")
        await settled()
        assert d.socket.types == ["accepted"]
        assert d.socket.closed == (CloseCode.RESTART, "draining")


@virtual
async def test_none_of_an_earlier_welcome_is_told() -> None:
    async with desk() as d:
        d.open()
        d.coming = 1
        d.outbox.accepted(accepted(1), cumulative=True)
        await settled()
        d.outbox.hold_back()
        d.open(sent=1)
        await asyncio.sleep(1)
        assert d.socket.types == []


@virtual
async def test_one_that_came_without_its_number_has_its_own() -> None:
    async with desk() as d:
        d.open()
        d.outbox.accepted(accepted(1), cumulative=True)
        d.outbox.accepted(accepted(2), cumulative=False)
        d.outbox.accepted(accepted(3), cumulative=True)
        d.outbox.accepted(accepted(4), cumulative=False)
        await settled()
        assert [m["seq"] for m in d.socket.of("accepted")] == [1, 2, 3, 4], "in order, each"


@virtual
async def test_a_repeat_does_not_put_back_the_newest() -> None:
    async with desk() as d:
        d.open()
        d.outbox.accepted(accepted(5), cumulative=True)
        d.outbox.accepted(accepted(2), cumulative=True)
        await settled()
        assert [m["seq"] for m in d.socket.of("accepted")] == [5, 2]


@virtual
async def test_an_accepted_covered_by_an_outcome_behind_a_repeat() -> None:
    async with desk() as d:
        d.open()
        d.settle(1)
        await settled()
        d.socket.stop_reading()
        d.outbox.put(plain("stuck"))
        await settled()
        d.outbox.accepted(accepted(2), cumulative=True)
        d.outbox.repeat(1)
        d.settle(2)
        d.socket.read_on()
        await settled()
        assert d.socket.types == ["result", "stuck", "result", "result"]
        assert d.seqs == [1, 1, 2]


@virtual
async def test_before_the_welcome_nothing_of_the_queue_is_said() -> None:
    async with desk() as d:
        d.outbox.accepted(accepted(1), cumulative=True)
        d.outbox.progress(plain("progress"))
        d.settle(1)
        await settled()
        assert d.socket.frames == []
        d.outbox.put(plain("welcome"))
        d.open()
        await settled()
        assert d.socket.types == ["welcome", "result"], "read from the journal"
        assert d.reads == [(0, 1)]


@virtual
async def test_held_back_for_another_welcome() -> None:
    async with desk(arrays=False) as d:
        d.open()
        d.outbox.hold_back()
        d.outbox.accepted(accepted(1), cumulative=False)
        d.outbox.progress(plain("progress"))
        d.settle(1)
        await settled()
        assert d.socket.frames == []
        d.outbox.put(plain("welcome"))
        d.open()
        await settled()
        assert d.socket.types == ["welcome", "result"]
        assert d.seqs == [1], "once"


@virtual
async def test_a_repeat_that_is_held_back_is_none() -> None:
    async with desk() as d:
        d.open()
        d.settle(1)
        await settled()
        d.outbox.repeat(1)
        d.outbox.hold_back()
        await settled()
        assert d.seqs == [1]


# ---- a peer that is behind


@virtual
async def test_outcomes_are_left_to_the_journal_and_come_in_order_once() -> None:
    async with desk() as d:
        d.open()
        d.socket.stop_reading()
        for seq in range(1, 31):
            d.settle(seq, 100_000)
            await settled(3)
        assert d.outbox.full
        assert d.outbox.sent < 30
        waiting = sum(len(m.body) for m in d.outbox._messages if isinstance(m, Outcome))
        assert waiting < HIGH_WATER + 200_000, "what waits is bounded"
        d.socket.read_on()
        await settled(500)
        assert d.seqs == list(range(1, 31))
        d.settle(31)
        await settled()
        assert d.seqs[-1] == 31
        assert d.outbox.sent == 31


@virtual
async def test_one_that_comes_while_the_journal_is_read_waits_for_its_turn() -> None:
    async with desk() as d:
        for seq in (1, 2, 3):
            d.keep(seq)
        d.gate.clear()
        d.open()
        await settled()
        d.settle(4)
        d.settle(5)
        await settled()
        assert d.seqs == []
        d.gate.set()
        await settled()
        assert d.seqs == [1, 2, 3, 4, 5]
        d.settle(6)
        await settled()
        assert d.seqs == [1, 2, 3, 4, 5, 6]
        assert len(d.reads) == 2, "the last one came directly"


@virtual
async def test_a_resume_sends_what_comes_after() -> None:
    async with desk() as d:
        for seq in range(1, 8):
            d.keep(seq)
        d.open(sent=4)
        await settled()
        assert d.seqs == [5, 6, 7]
        assert d.reads == [(4, 7)]


@virtual
async def test_a_replay_is_read_in_portions() -> None:
    async with desk() as d:
        for seq in range(1, 11):
            d.keep(seq, 100_000)
        d.open()
        await settled(200)
        assert d.seqs == list(range(1, 11))
        assert len(d.reads) == 5


@virtual
async def test_what_was_acknowledged_meanwhile_is_owed_to_nobody() -> None:
    async with desk() as d:
        d.keep(3)
        d.kept.clear()
        d.open()
        await settled()
        assert d.seqs == []
        assert d.outbox.sent == 3
        d.settle(4)
        await settled()
        assert d.seqs == [4]


@virtual
async def test_progress_is_dropped_where_the_peer_is_behind() -> None:
    async with desk() as d:
        d.open()
        d.outbox.progress(plain("progress"))
        await settled()
        d.socket.stop_reading()
        d.outbox.put(plain("a"))
        await settled()
        d.outbox.put(plain("b", HIGH_WATER))
        d.outbox.progress(plain("progress"))
        d.socket.read_on()
        await settled()
        assert d.socket.types == ["progress", "a", "b"]


@virtual
async def test_the_reader_waits_for_room() -> None:
    async with desk() as d:
        await d.outbox.room()
        d.socket.stop_reading()
        d.outbox.put(plain("a"))
        await settled()
        d.outbox.put(plain("b", HIGH_WATER))
        waits = asyncio.create_task(d.outbox.room())
        await settled()
        assert not waits.done()
        d.socket.read_on()
        await asyncio.wait_for(waits, 1)


@pytest.mark.parametrize("end", ["shut", "gone"])
def test_no_reader_waits_for_room_that_never_comes(end: str) -> None:
    @virtual
    async def run() -> None:
        async with desk() as d:
            d.socket.stop_reading()
            d.outbox.put(plain("a"))
            await settled()
            d.outbox.put(plain("b", HIGH_WATER))
            waits = asyncio.create_task(d.outbox.room())
            await settled()
            if end == "shut":
                d.outbox.shut(CloseCode.SLOW_CLIENT, "slow_client")
            else:
                d.socket.go()
            await asyncio.wait_for(waits, 1)

    run()


@virtual
async def test_a_reader_that_was_cancelled_is_not_woken() -> None:
    async with desk() as d:
        d.socket.stop_reading()
        d.outbox.put(plain("a"))
        await settled()
        d.outbox.put(plain("b", HIGH_WATER))
        waits = asyncio.create_task(d.outbox.room())
        await settled()
        waits.cancel()
        await settled()
        d.socket.read_on()
        await settled()
        assert d.socket.types == ["a", "b"]


@virtual
async def test_the_time_of_the_write_under_way_is_known() -> None:
    async with desk() as d:
        assert d.outbox.stuck_since is None
        d.socket.stop_reading()
        began = asyncio.get_running_loop().time()
        d.outbox.put(plain("a"))
        await asyncio.sleep(7)
        assert d.outbox.stuck_since == began
        d.socket.read_on()
        await settled()
        assert d.outbox.stuck_since is None


# ---- repeats


@virtual
async def test_a_peer_that_leaves_the_last_frame_unread_is_stuck_too() -> None:
    async with desk() as d:
        d.open()
        d.socket.full_after = 1
        d.outbox.put(plain("a"))
        await settled()
        began = asyncio.get_running_loop().time()
        assert [m["type"] for m in d.socket.seen] == ["a"]
        assert d.outbox.stuck_since == began
        d.socket.read_on()
        await settled()
        assert d.outbox.stuck_since is None


@virtual
async def test_repeats_are_answered_in_the_order_in_which_they_were_asked() -> None:
    async with desk() as d:
        d.open()
        for seq in range(1, 6):
            d.settle(seq)
        await settled()
        d.outbox.repeat(4)
        d.outbox.put(plain("pong"))
        d.outbox.repeat(2)
        d.outbox.repeat(2)
        await settled()
        answers = [m.get("seq", m["type"]) for m in d.socket.seen[5:]]
        assert answers == [4, "pong", 2, 2]


@virtual
async def test_a_repeat_of_one_not_yet_written_comes_in_its_turn() -> None:
    async with desk() as d:
        d.gate.clear()
        d.keep(1)
        d.open()
        await settled()
        d.outbox.repeat(1)
        d.gate.set()
        await settled()
        assert d.seqs == [1]


@virtual
async def test_a_repeat_that_was_acknowledged_meanwhile_is_nothing() -> None:
    async with desk() as d:
        d.open()
        d.settle(1)
        await settled()
        d.kept.clear()
        d.outbox.repeat(1)
        d.outbox.put(plain("pong"))
        await settled()
        assert d.socket.types == ["result", "pong"]


@virtual
async def test_repeats_that_wait_count_as_what_waits() -> None:
    async with desk() as d:
        d.open()
        d.settle(1)
        await settled()
        d.socket.stop_reading()
        d.outbox.put(plain("stuck"))
        await settled()
        asked = 0
        while not d.outbox.full:
            d.outbox.repeat(1)
            asked += 1
        assert asked < 100_000
        d.socket.read_on()
        await settled(10 * asked)
        assert len(d.seqs) == asked + 1
        assert d.outbox._bytes == 0


# ---- the store is away


@virtual
async def test_a_replay_waits_for_the_store() -> None:
    async with desk() as d:
        d.keep(1)
        d.trouble = [StoreUnavailable("away")] * 20
        d.open()
        d.outbox.put(plain("pong"))
        await settled()
        assert d.socket.types == ["pong"]
        await asyncio.sleep(10)
        assert d.seqs == [1]
        assert len(d.reads) == 21


@virtual
async def test_a_repeat_waits_for_the_store() -> None:
    async with desk() as d:
        d.open()
        d.settle(1)
        await settled()
        d.trouble = [StoreUnavailable("away")] * 3
        d.outbox.repeat(1)
        await asyncio.sleep(2)
        assert d.seqs == [1, 1]


@virtual
async def test_a_close_does_not_wait_for_the_store() -> None:
    async with desk() as d:
        d.keep(1)
        d.trouble = [StoreUnavailable("away")] * 100_000
        d.open()
        await settled()
        d.outbox.finish(CloseCode.RESTART, "draining")
        await asyncio.sleep(1)
        assert d.socket.closed == (1012, "draining")
        assert d.writer.done()


@virtual
async def test_shut_does_not_wait_for_a_store_that_hangs() -> None:
    async with desk() as d:
        d.keep(1)
        d.gate.clear()
        d.open()
        await settled()
        d.outbox.shut(CloseCode.FORBIDDEN, "forbidden")
        await settled()
        assert d.socket.closed == (4403, "forbidden")
        assert d.socket.gone
        d.gate.set()
        await settled()
        assert d.writer.done()
        assert d.seqs == []


@virtual
async def test_shut_while_a_repeat_is_read() -> None:
    async with desk() as d:
        d.open()
        d.settle(1)
        await settled()
        d.gate.clear()
        d.outbox.repeat(1)
        await settled()
        d.outbox.shut(CloseCode.FORBIDDEN, "forbidden")
        d.gate.set()
        await settled()
        assert d.writer.done()
        assert d.seqs == [1]


# ---- finish


@virtual
async def test_finish_writes_what_is_due_and_closes() -> None:
    async with desk() as d:
        d.open()
        d.socket.stop_reading()
        for seq in range(1, 31):
            d.settle(seq, 100_000)
            await settled(3)
        d.outbox.put(plain("last"))
        d.outbox.finish(CloseCode.RESTART, "draining")
        d.socket.read_on()
        await settled(500)
        assert d.seqs == list(range(1, 31)), "also what was left to the journal"
        assert d.socket.closed == (1012, "draining")
        assert d.writer.done()


@virtual
async def test_after_finish_nothing_new_is_due() -> None:
    async with desk() as d:
        d.open()
        d.settle(1)
        d.outbox.finish(CloseCode.RESTART, "draining")
        d.settle(2)
        d.outbox.put(plain("late"))
        d.outbox.accepted(accepted(3), cumulative=True)
        d.outbox.repeat(1)
        d.outbox.finish(CloseCode.DONE, "done")
        await settled()
        assert d.socket.types == ["result"]
        assert d.socket.closed == (1012, "draining"), "the first word counts"


@virtual
async def test_finish_has_patience_with_a_slow_peer() -> None:
    async with desk() as d:
        d.socket.answers_close = False
        d.outbox.finish(CloseCode.DONE, "done")
        await asyncio.sleep(PATIENCE - 1)
        assert not d.socket.gone
        await asyncio.sleep(2)
        assert d.socket.aborted


@virtual
async def test_finish_then_shut() -> None:
    async with desk() as d:
        d.socket.stop_reading()
        d.outbox.put(plain("a"))
        await settled()
        d.outbox.finish(CloseCode.DONE, "done")
        d.outbox.shut(CloseCode.SLOW_CLIENT, "slow_client")
        await settled()
        assert d.socket.closed == (4510, "slow_client")
        await asyncio.sleep(6)
        assert d.socket.aborted
        await settled()
        assert d.writer.done()


# ---- shut


@virtual
async def test_shut_drops_what_waits() -> None:
    async with desk() as d:
        d.open()
        d.socket.stop_reading()
        d.outbox.put(plain("under way"))
        await settled()
        d.settle(1)
        d.outbox.accepted(accepted(2), cumulative=True)
        d.outbox.shut(CloseCode.REPLACED, "replaced")
        d.outbox.shut(CloseCode.FORBIDDEN, "forbidden")
        d.outbox.finish(CloseCode.DONE, "done")
        d.outbox.put(plain("late"))
        d.settle(2)
        d.outbox.repeat(1)
        assert d.outbox.stuck_since is None, "not closed for it a second time"
        assert not d.outbox.full
        d.socket.read_on()
        await settled()
        assert d.socket.types == ["under way"]
        assert d.socket.closed == (4409, "replaced")
        assert d.writer.done()


@virtual
async def test_shut_cuts_off_a_peer_that_reads_nothing() -> None:
    async with desk() as d:
        d.socket.stop_reading()
        d.outbox.put(plain("a"))
        await settled()
        d.outbox.shut(CloseCode.SLOW_CLIENT, "slow_client")
        await asyncio.sleep(4)
        assert not d.socket.gone
        await asyncio.sleep(2)
        assert d.socket.aborted
        await settled()
        assert d.writer.done()


@virtual
async def test_shut_wakes_an_idle_writer() -> None:
    async with desk() as d:
        d.outbox.shut(CloseCode.FORBIDDEN, "forbidden")
        await settled()
        assert d.socket.closed == (4403, "forbidden")
        assert d.writer.done()


@virtual
async def test_shut_before_the_writer_began() -> None:
    d = Desk()
    writer = asyncio.create_task(d.outbox.write())
    d.outbox.put(plain("a"))
    d.outbox.shut(CloseCode.TOO_MANY_CONNECTIONS, "too_many_connections")
    await writer
    assert d.socket.frames == []
    assert d.socket.closed == (4529, "too_many_connections")
    assert tasks() == []


@virtual
async def test_shut_after_the_end_does_nothing() -> None:
    async with desk() as d:
        d.socket.go()
        d.outbox.put(plain("a"))
        await settled()
        assert d.writer.done()
        d.outbox.shut(CloseCode.FORBIDDEN, "forbidden")
        d.outbox.put(plain("b"))
        d.outbox.finish(CloseCode.DONE, "done")
        await settled()
        assert d.socket.closed is None


@virtual
async def test_a_writer_that_was_cancelled_is_not_woken() -> None:
    async with desk() as d:
        d.open()
        d.writer.cancel()
        d.outbox.put(plain("a"))
        await settled()
        d.settle(1)
        d.outbox.put(plain("b"))
        assert d.socket.frames == []
        assert not d.outbox.full


@virtual
async def test_a_writer_that_fails_closes_the_connection() -> None:
    async with desk() as d:
        d.keep(1)
        d.trouble = [RuntimeError("a row that can't be read")]
        d.open()
        await settled()
        assert d.socket.closed == (1011, "internal")
        assert d.writer.done()
        assert d.writer.exception() is None


# ---- caught up


@virtual
async def test_caught_up_when_all_is_written() -> None:
    async with desk() as d:
        d.open()
        assert await d.outbox.caught_up()
        d.socket.stop_reading()
        for seq in range(1, 31):
            d.settle(seq, 100_000)
            await settled(3)
        waits = asyncio.create_task(d.outbox.caught_up())
        await settled()
        assert not waits.done()
        d.socket.read_on()
        assert await waits
        assert d.seqs == list(range(1, 31))


@pytest.mark.parametrize("end", ["shut", "finish", "gone", "cancelled"])
def test_nobody_waits_for_a_peer_that_is_gone(end: str) -> None:
    @virtual
    async def run() -> None:
        async with desk() as d:
            d.open()
            d.socket.stop_reading()
            d.settle(1)
            await settled()
            if end == "finish":
                d.outbox.finish(CloseCode.BAD_MESSAGE, "bad_message")
            waits = asyncio.create_task(d.outbox.caught_up())
            await settled()
            if end == "shut":
                d.outbox.shut(CloseCode.SLOW_CLIENT, "slow_client")
            elif end == "cancelled":
                waits.cancel()
                await settled()
            d.socket.go()
            await settled()
            assert waits.cancelled() if end == "cancelled" else not waits.result()
            assert not await d.outbox.caught_up()

    run()
