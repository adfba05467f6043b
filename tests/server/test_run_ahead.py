"""Idempotent requests start before the outcomes ahead of them are durable; no others do."""

from __future__ import annotations

from typing import Any

import pytest
from node_bench import Bench, after_a_crash, ask, serving, settled
from virtual_time import virtual

from inorder_server import queue as queue_module
from inorder_server.handlers import handler


def recording() -> tuple[Any, Any, list[int]]:
    """An idempotent method, one that is not, and what they were run with."""
    ran: list[int] = []

    @handler(idempotent=True)
    async def free(request: Any, n: int) -> int:
        ran.append(n)
        return n

    @handler
    async def strict(request: Any, n: int) -> int:
        ran.append(n)
        return n

    return free, strict, ran


async def accepted_but_not_settled(bench: Bench, methods: list[str]) -> tuple[Any, Any]:
    """Requests to ``methods``, numbered from 1, are durable; no outcome can become so."""
    queue, peer = await bench.open()
    bench.store.hold()
    for n, method in enumerate(methods, 1):
        queue.request(ask(method, n))
    await settled()
    bench.store.release()
    while not peer.heard("accepted"):
        await settled(1)
    bench.store.hold()
    await settled()
    return queue, peer


@virtual
async def test_idempotent_requests_do_not_wait_for_each_others_commits() -> None:
    free, strict, ran = recording()
    async with serving(free, strict) as bench:
        _, peer = await accepted_but_not_settled(bench, ["free"] * 5)
        assert ran == [1, 2, 3, 4, 5]
        assert peer.outcomes == []  # G3: durable before it is sent
        before = len(bench.store.groups)
        bench.store.release()
        await settled()
        assert peer.outcomes == [(n, "done", n) for n in range(1, 6)]
        assert len(bench.store.groups) - before <= 1


@virtual
@pytest.mark.parametrize(
    ("methods", "before"),
    [
        (["strict", "strict"], [1]),
        (["strict", "free"], [1]),
        (["free", "strict"], [1]),
        (["free", "free", "strict", "free"], [1, 2]),
    ],
)
async def test_only_the_head_of_others_can_have_run(methods: list[str], before: list[int]) -> None:
    free, strict, ran = recording()
    async with serving(free, strict) as bench:
        _, peer = await accepted_but_not_settled(bench, methods)
        assert ran == before
        bench.store.release()
        await settled()
        assert ran == list(range(1, len(methods) + 1))
        assert [seq for seq, *_ in peer.outcomes] == ran


@virtual
async def test_not_more_than_so_many_run_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "_MOST_AHEAD", 3)
    free, strict, ran = recording()
    async with serving(free, strict) as bench:
        _, peer = await accepted_but_not_settled(bench, ["free"] * 8)
        assert ran == [1, 2, 3]
        bench.store.release()
        await settled()
        assert [seq for seq, *_ in peer.outcomes] == list(range(1, 9))


@virtual
async def test_after_a_crash_a_run_of_them_runs_again_in_order() -> None:
    free, strict, ran = recording()
    dead = Bench(free, strict)
    await dead.start()
    queue, _ = await accepted_but_not_settled(dead, ["free", "free", "free", "strict"])
    assert ran == [1, 2, 3]
    ran.clear()
    async with after_a_crash(dead) as bench:
        await bench.registry.adopt()
        await settled()
        assert ran == [1, 2, 3, 4]
        _, peer = await bench.open(queue.session.id, 0, 4)
        tally = await bench.store.tally(queue.session.id)
        assert (tally.done, tally.pending) == (4, 0)
        assert peer.closed is None


@virtual
async def test_what_was_cancelled_behind_them_does_not_run() -> None:
    free, strict, ran = recording()
    async with serving(free, strict) as bench:
        queue, peer = await bench.open()
        bench.store.hold()
        for n in range(1, 5):
            queue.request(ask("free", n, id=f"r{n}"))
        await settled()
        queue.cancel("r3")
        bench.store.release()
        await settled()
        assert ran == [1, 2, 4]
        endings = [(1, "done", 1), (2, "done", 2), (3, "cancelled", "cancelled"), (4, "done", 4)]
        assert peer.outcomes == endings


@virtual
async def test_a_stop_keeps_what_ran_ahead() -> None:
    free, strict, ran = recording()
    async with serving(free, strict) as bench:
        queue, _ = await accepted_but_not_settled(bench, ["free"] * 4)
        bench.store.release()
        assert await bench.registry.drain(1) == []
        tally = await bench.store.tally(queue.session.id)
        assert (tally.done, tally.pending, len(ran)) == (4, 0, 4)
