"""The processes of the load generator, real ones."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from puppet import Puppet, result

from inorder_server.bench.crew import Crew, processes_for
from inorder_server.bench.plan import BenchError, Plan


def plan(url: str, **more: object) -> Plan:
    given = {"connections": 3, "in_flight": 2, "duration": 0.1} | more
    return Plan(url=url, token="t", method="echo", params="[1]", **given)  # type: ignore[arg-type]


async def test_several_processes_amount_to_one_report(puppet: Puppet) -> None:
    counts: list[int] = []
    async with Crew(plan(puppet.url, duration=0.7, idle=1), 2) as crew:
        assert sum(message["type"] == "hello" for message in puppet.seen) == 4
        await crew.run(counts.append)
        report = await crew.finish()
    assert (report.processes, report.sessions, report.receipts) == (2, 4, 4)
    assert report.holds
    assert 0 < counts[-1] <= report.outcomes
    assert {message["token"] for message in puppet.seen if message["type"] == "hello"} == {"t"}


async def test_what_one_complains_of_ends_them_all(puppet: Puppet) -> None:
    puppet.welcome = {"type": "error", "of": "hello", "code": "forbidden", "message": "go away"}
    with pytest.raises(BenchError, match="forbidden: go away"):
        async with Crew(plan(puppet.url), 2):
            pass


async def test_one_that_ends_by_itself(puppet: Puppet) -> None:
    puppet.outcomes = lambda request: []
    async with Crew(plan(puppet.url, duration=60), 1) as crew:
        running = asyncio.create_task(crew.run())
        while not any(message["type"] == "request" for message in puppet.seen):
            await asyncio.sleep(0.01)
        [member] = crew._members
        os.kill(member._process.pid, signal.SIGKILL)
        with pytest.raises(BenchError, match="ended by itself"):
            await running


async def test_leaving_in_the_middle_ends_the_processes(puppet: Puppet) -> None:
    async with Crew(plan(puppet.url, duration=60), 2) as crew:
        running = asyncio.create_task(crew.run())
        puppet.outcomes = lambda request: [result(request)]
        await asyncio.sleep(0)
        running.cancel()
        members = crew._members
    assert [member._process.returncode for member in members] == [0, 0]


async def test_one_that_does_not_end_is_killed(
    puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inorder_server.bench.crew._END", 0.05)
    async with Crew(plan(puppet.url), 1) as crew:
        [member] = crew._members
        os.kill(member._process.pid, signal.SIGSTOP)
    assert member._process.returncode == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no pinning on this system")
async def test_they_can_be_kept_on_some_processors(puppet: Puppet) -> None:
    cpu = min(os.sched_getaffinity(0))
    async with Crew(plan(puppet.url), 1, cpus={cpu}) as crew:
        [member] = crew._members
        assert os.sched_getaffinity(member._process.pid) == {cpu}


@pytest.mark.parametrize(
    ("cores", "connections", "processes"), [(8, 50, 7), (8, 3, 3), (1, 50, 1), (None, 50, 1)]
)
def test_a_processor_is_left_to_the_server(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, connections: int, processes: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert processes_for(plan("", connections=connections)) == processes
