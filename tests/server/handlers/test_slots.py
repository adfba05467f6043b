"""The bound on what goes on at once."""

from __future__ import annotations

import asyncio

from inorder_server.handlers.slots import Slots


async def test_first_come_first_served() -> None:
    slots = Slots(2)
    assert slots.enter() is None
    assert slots.enter() is None
    first, second = slots.enter(), slots.enter()
    assert first is not None
    assert second is not None
    slots.leave()
    assert first.done()
    assert not second.done()
    assert (slots.enter() or second) is not second  # A latecomer stands behind.
    slots.leave()
    assert second.result()


async def test_who_gave_up_is_passed_over() -> None:
    slots = Slots(1)
    assert slots.enter() is None
    first, second, third = slots.enter(), slots.enter(), slots.enter()
    assert first is not None
    assert second is not None
    assert third is not None
    first.set_result(False)
    second.cancel()
    slots.leave()
    assert third.result() is True
    slots.leave()
    assert slots.enter() is None
    assert isinstance(slots.enter(), asyncio.Future)
