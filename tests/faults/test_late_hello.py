"""A hello that was given up and kept by the network takes the session over from a newer one."""

from __future__ import annotations

import asyncio
import json
import random

import checker
import pytest
from crowd import PATIENCE, client, rolls
from frames import Json, RawClient, is_outcome, request
from network import Door, Network
from proxy import Proxy
from runs import Runs
from teller import Teller
from websockets.asyncio.client import ClientConnection

pytestmark = pytest.mark.slow


class Overtaken(Teller):
    """Its second connection goes dead at its hello, which is let through once the third one
    is welcome; that one then waits for its end."""

    def __init__(self, work: list[Json], doors: list[Door], runs: Runs) -> None:
        network = Network(doors, random.Random(0))
        super().__init__(client("ann", work), network, runs.stopped, 0)
        self._doors = doors

    def _hear(self, message: Json) -> None:
        super()._hear(message)
        if self.witness.connections == 1 and is_outcome(message):
            # From here on only the second door is open.
            self._doors[0].frozen = True
            self._doors[0].proxy.drop()

    async def _ask(self, socket: ClientConnection, message: Json) -> Json:
        first, second = self._doors
        if self.witness.connections == 2:
            second.proxy.freeze()
            await socket.send(json.dumps(message))
            first.frozen, second.frozen = False, True
            self._abandoned.set()
            await asyncio.Event().wait()
        answer = await super()._ask(socket, message)
        if self.witness.connections == 3:
            second.proxy.thaw()
            await socket.wait_closed()
            assert socket.close_code == 4409
        return answer


async def test_who_is_replaced_by_a_hello_of_his_own_comes_back(place) -> None:
    at = await place()
    async with Proxy(at.server.url) as first, Proxy(at.server.url) as second:
        doors = [Door(first), Door(second)]
        teller = Overtaken(rolls(50, ms=1), doors, at.runs)
        async with asyncio.timeout(PATIENCE):
            await teller.live(asyncio.Barrier(1))
    witness = teller.witness
    assert list(checker.check_witnesses([witness])) == []
    assert witness.connections == 4
    assert witness.endings == {"done": 50}


async def test_who_is_replaced_by_somebody_else_stops(place) -> None:
    at = await place()
    async with Proxy(at.server.url) as only:
        door = Door(only)
        network = Network([door], random.Random(0))
        work = [*rolls(1, ms=1), request("roll", {"ms": 20_000})]
        teller = Teller(client("ann", work), network, at.runs.stopped, 0)
        living = asyncio.create_task(teller.live(asyncio.Barrier(1)))
        while not teller.witness.held:
            await asyncio.sleep(0)
        witness = teller.witness
        async with RawClient(at.server.url) as other:
            await other.hello(token=witness.token, session=witness.session)
            while not witness.trouble:
                await asyncio.sleep(0)
        living.cancel()
    assert witness.trouble == ["ann: closed with 4409 replaced"]
