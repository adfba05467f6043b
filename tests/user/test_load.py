"""Many clients at once: nobody's order breaks, no money is lost, all countings agree."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from bank import LEDGER, START, Books, Customer, send_all
from frames import RawClient, request
from kept import journal_counts
from outside import last_one_out, metrics_of, verify

pytestmark = pytest.mark.slow

CLIENTS = 200
TRANSFERS = 50
ON_MONGODB = 20
"""Clients."""


async def test_200_clients_with_50_transfers_each(serve, on_mongodb: bool) -> None:
    clients = ON_MONGODB if on_mongodb else CLIENTS
    server = await serve({"handlers": {"modules": [LEDGER]}})
    customers = [Customer(f"customer-{n}") for n in range(clients)]
    names = [customer.name for customer in customers]

    async def live(customer: Customer, seed: int) -> None:
        async with RawClient(server.url) as client:
            welcome = await client.register(customer.name, "a password")
            customer.session = welcome["session"]
            rng = random.Random(seed)
            work = customer.plan(names, TRANSFERS, rng)
            sending = asyncio.create_task(send_all(client, work, rng))
            await customer.listen(client)
            await sending
            customer.receipt = await client.bye()

    await asyncio.gather(*(live(customer, n) for n, customer in enumerate(customers)))

    for customer in customers:
        assert customer.trouble == []
        assert customer.receipt is not None
        failed = len(customer.outcomes) - customer.done
        assert customer.receipt == {
            "session": customer.session,
            "accepted": TRANSFERS + 1,
            "done": customer.done,
            "failed": failed,
            "cancelled": 0,
            "pending": 0,
            "verified": True,
        }
    done = sum(customer.done for customer in customers)
    total = clients * (TRANSFERS + 1)
    books = Books(server.folder / "ledger.db")
    books.check(customers)
    assert sum(books.balances.values()) == clients * START
    assert len(books.bookings) == done

    metrics = await asyncio.to_thread(metrics_of, server)
    assert metrics["inorder_accepted_total"] == total
    assert metrics['inorder_settled_total{outcome="done"}'] == done
    assert metrics.get('inorder_settled_total{outcome="failed"}', 0) == total - done
    assert metrics["inorder_receipts_verified_total"] == clients
    assert metrics["inorder_violations_total"] == 0
    assert metrics["inorder_queue_depth"] == metrics["inorder_sessions"] == 0

    assert await asyncio.to_thread(verify, server.folder) == []
    counts = journal_counts(server)
    assert counts["accepted"] == total
    assert counts["done"] == done
    assert last_one_out(server) == {**counts, "verified": clients}


async def test_200_sessions_that_each_sleep_a_second_do_so_beside_each_other(
    serve, on_mongodb: bool
) -> None:
    server = await serve()
    async with asyncio.timeout(60):
        count = ON_MONGODB if on_mongodb else CLIENTS
        clients = [RawClient(server.url) for _ in range(count)]
        for n, client in enumerate(clients):
            await client.__aenter__()
            await client.register(f"sleeper-{n}", "a password")
        begun = time.monotonic()
        await asyncio.gather(*(client.send(request("sleep", 1, seq=1)) for client in clients))
        await asyncio.gather(*(client.until_outcome(1) for client in clients))
        assert time.monotonic() - begun < 3
        for client in clients:
            await client.socket.close()
