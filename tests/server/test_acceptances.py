"""Which `accepted` a program is told: the newest one, where no outcome says it."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref

from virtual_time import virtual

from inorder.messages import Accepted
from inorder_server.acceptances import Acceptances, Hold


class Desk:
    """``put`` holds the numbers of those that were told where they came."""

    def __init__(self, coming: int = 0) -> None:
        self.put: list[int] = []
        self.notified = 0
        self.coming = coming
        self.hold = Hold()
        self.all = self.another()
        self.all.open(lambda: self.coming)

    def another(self) -> Acceptances:
        return Acceptances(
            lambda message: self.put.append(seq_of(message)), self._notify, self.hold
        )

    def _notify(self) -> None:
        self.notified += 1

    def add(self, *seqs: int, by_itself: bool = False) -> None:
        for seq in seqs:
            self.all.add(Accepted(id=f"r{seq}", seq=seq, ahead=0), by_itself=by_itself)

    def take(self, at_once: bool = False) -> int | None:
        taken = self.all.take(at_once)
        return None if taken is None else seq_of(taken)


def seq_of(message: bytes | None) -> int:
    return int(json.loads(message or b"{}")["seq"])


def test_the_newest_stands_for_all() -> None:
    d = Desk()
    assert d.take() is None
    d.add(1, 2, 3)
    assert (d.put, d.notified) == ([], 3)
    assert d.take() == 3
    assert d.take() is None


def test_an_outcome_says_it() -> None:
    d = Desk()
    d.add(1, 2)
    d.all.settled(2)
    assert d.take() is None
    assert d.take(at_once=True) is None
    d.add(3)
    assert d.take() == 3


def test_one_by_itself_and_all_after_it_are_told_where_they_come() -> None:
    d = Desk()
    d.add(1)
    d.add(2, by_itself=True)
    d.add(3)
    assert d.put == [1, 2, 3]
    assert d.take() is None


def test_an_older_one_is_a_repeat() -> None:
    d = Desk()
    d.add(5, 2)
    assert d.put == [2]
    assert d.take() == 5


@virtual
async def test_it_waits_for_what_is_on_its_way() -> None:
    d = Desk(coming=2)
    d.add(1, 2)
    assert d.take() is None
    assert d.take(at_once=True) == 2
    d.add(3)
    assert d.take() == 3, "nothing is on its way for this one"
    await asyncio.sleep(1)
    assert d.put == []


@virtual
async def test_it_waits_for_so_long() -> None:
    d = Desk(coming=9)
    d.add(1)
    assert d.take() is None
    await asyncio.sleep(0.245)
    other = d.another()
    other.open(lambda: 9)
    other.add(Accepted(id="r7", seq=7, ahead=0), by_itself=False)
    assert other.take(at_once=False) is None
    await asyncio.sleep(0.25)
    assert d.put == []
    await asyncio.sleep(0.01)
    assert d.put == [1, 7]


@virtual
async def test_the_time_of_one_is_not_that_of_the_next() -> None:
    d = Desk(coming=9)
    d.add(1)
    assert d.take() is None
    await asyncio.sleep(0.4)
    d.all.settled(1)
    d.add(2)
    assert d.take() is None
    await asyncio.sleep(0.25)
    assert d.put == []
    await asyncio.sleep(0.25)
    assert d.put == [2]
    await asyncio.sleep(1)
    d.add(3)
    assert d.take() is None
    await asyncio.sleep(0.51)
    assert d.put == [2, 3], "it goes on after a rest"


@virtual
async def test_one_that_is_expected_asks_for_no_look() -> None:
    d = Desk()
    d.all.add(Accepted(id="r1", seq=1, ahead=0), by_itself=False, expected=True)
    assert d.notified == 0
    await asyncio.sleep(0.51)
    assert d.put == [1]
    d.all.add(Accepted(id="r2", seq=2, ahead=0), by_itself=False, expected=True)
    assert d.take() == 2, "nothing is on its way for this one"
    await asyncio.sleep(1)
    assert d.put == [1]


@virtual
async def test_none_is_told_after_the_end_or_of_an_earlier_welcome() -> None:
    d = Desk(coming=9)
    d.add(1)
    assert d.take() is None
    d.all.open(lambda: 9)
    assert d.take(at_once=True) is None
    d.add(2)
    assert d.take() is None
    d.all.close()
    await asyncio.sleep(1)
    assert d.put == []


def test_it_keeps_nobody_alive() -> None:
    d = Desk()
    gone = weakref.ref(d)
    d.all.open(lambda: 0)
    d.all.close()
    gc.disable()
    try:
        del d
        assert gone() is None
    finally:
        gc.enable()
