"""SIGKILL in the middle of the load: what was accepted has one outcome, nothing ran twice."""

from __future__ import annotations

import asyncio
import random

import pytest
from bank import LEDGER, Books, Customer, send_all
from frames import RawClient
from node_processes import coming_back
from outside import verify
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.slow

CLIENTS = 200
TRANSFERS = 50
ON_MONGODB = 25  # times fewer
# An operation may take a third of the lease; a stand-in needs it where many come back at once.
CONFIG = {"handlers": {"modules": [LEDGER]}, "store": {"lease": 6}}


@pytest.mark.parametrize("outcomes_before", [100, 3000])
async def test_kill_in_the_middle_of_the_load(
    serve, outcomes_before: int, on_mongodb: bool
) -> None:
    server = await serve(CONFIG)
    clients = CLIENTS // ON_MONGODB if on_mongodb else CLIENTS
    if on_mongodb:
        outcomes_before //= ON_MONGODB
    customers = [Customer(f"customer-{n}") for n in range(clients)]
    names = [customer.name for customer in customers]
    everybody_in = asyncio.Barrier(clients)

    async def live(customer: Customer, seed: int) -> None:
        async with RawClient(server.url) as client:
            welcome = await client.register(customer.name, "a password")
            customer.session, customer.token = welcome["session"], welcome["token"]
            await everybody_in.wait()
            rng = random.Random(seed)
            work = customer.plan(names, TRANSFERS, rng)
            sending = asyncio.create_task(send_all(client, work, rng))
            await customer.listen(client)
            await asyncio.wait([sending])
            if sending.exception() is not None:
                assert isinstance(sending.exception(), ConnectionClosed)

    load = [asyncio.create_task(live(customer, n)) for n, customer in enumerate(customers)]
    while sum(len(customer.outcomes) for customer in customers) < outcomes_before:
        await asyncio.sleep(0.005)
    await server.kill()
    await asyncio.gather(*load)
    assert [customer.trouble for customer in customers if customer.trouble] == []
    heard = sum(len(customer.outcomes) for customer in customers)
    assert outcomes_before <= heard < clients * (TRANSFERS + 1)
    told = sum(customer.accepted for customer in customers)
    assert told > heard

    await server.start()

    async def resume(customer: Customer) -> None:
        if not customer.accepted:
            return  # its session may never have become durable
        again = {"token": customer.token, "session": customer.session}
        numbers = {"seq": len(customer.outcomes), "accepted": customer.accepted}
        async with coming_back(server.url, **again, **numbers) as (client, welcome):
            assert welcome["resumed"] is True
            assert welcome["accepted"] >= customer.accepted
            while len(customer.outcomes) < welcome["accepted"]:
                message = await client.next()
                assert message is not None, client.closed
                customer.heard(message)
            customer.receipt = await client.bye()

    await asyncio.gather(*(resume(customer) for customer in customers))
    assert [customer.trouble for customer in customers if customer.trouble] == []
    for customer in customers:
        if customer.accepted:
            assert customer.receipt is not None
            assert customer.receipt["accepted"] == len(customer.outcomes) >= customer.accepted
            assert customer.receipt["done"] == customer.done
            assert customer.receipt["pending"] == 0
            assert customer.receipt["verified"] is True
    Books(server.folder / "ledger.db").check(customers)
    assert await asyncio.to_thread(verify, server.folder) == []


async def test_what_was_accepted_is_finished_without_its_client(serve, on_mongodb: bool) -> None:
    server = await serve(CONFIG)
    customer = Customer("eve")
    async with RawClient(server.url) as client:
        customer.session = (await client.register("eve", "a password"))["session"]
        rng = random.Random(7)
        await send_all(client, customer.plan(["adam"], 100 if on_mongodb else 500, rng), rng)
        while customer.accepted < (40 if on_mongodb else 200):
            message = await client.next()
            assert message is not None
            customer.heard(message)
        await server.kill()
    await server.start()
    async with asyncio.timeout(30):
        while "last one out" not in server.output():
            await asyncio.sleep(0.02)
    Books(server.folder / "ledger.db").check([customer])
    assert await asyncio.to_thread(verify, server.folder) == []
