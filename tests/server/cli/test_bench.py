"""``inorder bench``: its options and what it prints."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inorder_server.bench.histogram import Histogram
from inorder_server.bench.plan import BenchError, Plan, Report
from inorder_server.cli import bench


class Crew:
    """Stands for the processes; what they report, and what they were told."""

    report: Report
    fails: str | None
    plan: Plan
    processes: int

    def __init__(self, plan: Plan, processes: int) -> None:
        Crew.plan, Crew.processes = plan, processes

    async def __aenter__(self) -> Crew:
        if Crew.fails is not None:
            raise BenchError(Crew.fails)
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def run(self, count: Any) -> None:
        count(10)

    async def finish(self) -> Report:
        return Crew.report


@pytest.fixture(autouse=True)
def crew(monkeypatch: pytest.MonkeyPatch) -> type[Crew]:
    latency = Histogram()
    for value in range(1, 201):
        latency.record(value)
    Crew.fails = None
    Crew.report = Report(
        answered=1000,
        outcomes=1100,
        sessions=2,
        receipts=2,
        seconds=10.0,
        cpu=0.01,
        busiest=0.5,
        latency=latency.dump(),
    )
    monkeypatch.setattr(bench, "Crew", Crew)
    monkeypatch.setenv("INORDER_TOKEN", "tok")
    monkeypatch.setenv("INORDER_URL", "ws://there/ws")
    return Crew


def test_what_it_is_told(crew: type[Crew], cli: Any) -> None:
    cli(
        "bench --connections 7 --in-flight 3 --rate 50 --single-frames --duration 2.5 --warmup 0 "
        "--method sleep --params 0.1 --idle 4 --processes 2 --json"
    )
    assert crew.processes == 2
    assert crew.plan == Plan(
        url="ws://there/ws",
        token="tok",
        method="sleep",
        params="0.1",
        connections=7,
        in_flight=3,
        rate=50.0,
        single_frames=True,
        idle=4,
        duration=2.5,
        warmup=0.0,
    )


def test_the_defaults(crew: type[Crew], cli: Any) -> None:
    assert cli("bench").exit_code == 0
    plan = crew.plan
    assert (plan.connections, plan.in_flight, plan.rate, plan.method) == (50, 16, None, "echo")
    assert len(plan.params) == 100
    assert json.loads(plan.params)["number"] == 42
    assert crew.processes >= 1


def test_json(answer: Any) -> None:
    told = answer("bench", "--connections", "2")
    assert told["requests"] == 1000
    assert told["per_second"] == 100.0
    assert told["latency_ms"] == {
        "p50": 0.1,
        "p90": 0.18,
        "p99": 0.198,
        "p99.9": 0.2,
        "max": 0.2,
        "mean": 0.101,
    }
    assert told["errors"] == {}
    assert told["check"] == {
        "holds": True,
        "outcomes": 1100,
        "sessions": 2,
        "receipts": 2,
        "wrong": {},
        "samples": [],
    }
    assert told["generator"] == {"processes": 1, "cpu_us_per_request": 10.0, "busiest": 0.5}


def test_for_people(cli: Any) -> None:
    assert cli("bench --connections 2 --in-flight 3").stdout.splitlines() == [
        "load         2 connections, 3 in flight each",
        "requests/s   100  (1,000 in 10 s)",
        "latency      p50 0.10 ms · p90 0.18 ms · p99 0.20 ms · p99.9 0.20 ms · max 0.20 ms",
        "errors       none",
        "check        every outcome came once and in order (1,100), and 2 receipts agree",
        "generator    10.0 µs of a processor a request, the busiest of 1 processes at 50%",
    ]


def test_the_load_in_words(crew: type[Crew], cli: Any) -> None:
    crew.report.busiest = 0.95
    lines = cli("bench --rate 50 --idle 4000 --single-frames").stdout.splitlines()
    assert lines[0] == (
        "load         50 connections, 50 requests/s due, at most 16 in flight each, "
        "4,000 idle beside them, single frames"
    )
    assert "more --processes" in lines[-1]


def test_a_check_that_fails_is_an_exit_status(crew: type[Crew], cli: Any) -> None:
    crew.report.wrong = {"again": 1200, "lost": 1}
    crew.report.samples = ["again: outcome 3 came after 4"]
    crew.report.errors = {"timeout": 3}
    result = cli("bench")
    assert result.exit_code == 1
    assert "errors       timeout 3\n" in result.stdout
    assert "check        FAILED: again 1,200, lost 1\n" in result.stdout
    assert "             again: outcome 3 came after 4\n" in result.stdout
    assert cli("bench --json").exit_code == 1


def test_nothing_came(crew: type[Crew], cli: Any) -> None:
    crew.report = Report(seconds=10.0)
    assert "requests/s   0  (0 in 10 s)" in cli("bench").stdout


def test_what_can_not_be_done_is_one_line(crew: type[Crew], failed: Any) -> None:
    crew.fails = "refused: 4529 too_many_connections"
    assert failed("bench") == "refused: 4529 too_many_connections"


def test_wrong_use(failed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--params" in failed("bench", "--params", "{", status=2)
    assert "--rate" in failed("bench --rate 0", status=2)
    monkeypatch.delenv("INORDER_TOKEN")
    assert "INORDER_TOKEN" in failed("bench", status=2)


def test_a_name_logs_in_once(crew: type[Crew], cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logins: list[tuple[str, ...]] = []

    async def log_in(*login: str) -> str:
        logins.append(login)
        return "fresh"

    monkeypatch.setattr(bench, "log_in", log_in)
    cli("bench --user ann --password-stdin", stdin="long word\n")
    assert logins == [("ws://there/ws", "ann", "long word")]
    assert crew.plan.token == "fresh"


def test_a_bad_address(failed: Any) -> None:
    words = ["bench", "--user", "ann", "--password-stdin", "--url", "http://a"]
    assert "http://a" in failed(*words, stdin="x\n")


def test_the_progress_line_needs_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(url="", token="", method="", params="", connections=1, duration=1.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert not bench._progress(plan, quiet=False).disable
    assert bench._progress(plan, quiet=True).disable
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert bench._progress(plan, quiet=False).disable
