"""What is done to all connections together."""

from __future__ import annotations

import asyncio

from edge_bench import door
from node_bench import settled
from virtual_time import virtual

from inorder_server.voice import Phase


@virtual
async def test_dismiss_sends_away_who_has_not_logged_in() -> None:
    async with door() as d:
        guest, by_hand, client = await d.connect(), await d.connect(hand=True), await d.welcome()
        d.edge.dismiss()
        await settled()
        assert guest.closed == by_hand.closed == (1012, "draining")
        assert client.closed is None
        assert {connection.phase for connection in d.edge.connections} == {Phase.OPEN}


@virtual
async def test_close_slow_looks_at_the_write_under_way() -> None:
    async with door(slow_client_timeout=5) as d:
        loop = asyncio.get_running_loop()
        idle, busy, stuck = await d.welcome(), await d.welcome(), await d.welcome()
        stuck.socket.stop_reading()
        await stuck.say({"type": "ping"})
        for _ in range(6):
            await asyncio.sleep(1)
            await busy.say({"type": "ping"})
        d.edge.close_slow(loop.time())
        await settled()
        assert stuck.closed == (4510, "slow_client")
        assert idle.closed is busy.closed is None
