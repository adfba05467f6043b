"""The benchmarks: ``python tests/benchmarks/run.py``.

This server, durable and with everything on, beside a bare ``websockets`` echo under the same
event loop, by turns, each a process; ratios with their spread, memory, and how it grows.
``--write`` puts the figures into README.md and draws the chart; ``--quick`` only shows that
it all works. The exit status is 1 where a check of the load generator failed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parent)]

import peers  # noqa: E402
from cases import CASES, INORDER, Case, Load, shortened  # noqa: E402
from chart import svg  # noqa: E402
from client_alone import client_alone  # noqa: E402
from machine import processors, this_machine  # noqa: E402
from measure import Form, Result, Run, by_turns  # noqa: E402
from memory_of import memory_of  # noqa: E402
from subjects import Inorder, Subject, bare_echo  # noqa: E402
from table import (  # noqa: E402
    Results,
    client_words,
    markdown,
    memory_rows,
    plain,
    replaced,
    throughput,
)

from inorder_server.bench.plan import BenchError  # noqa: E402

_README = _HERE.parent.parent / "README.md"
_CHART = _HERE / "chart.svg"
_BUSY = 0.9
_MEMORY = "memory"
_CLIENT = "client"
_WINDOW = 256
# Enough for every kind of measurement to be made once.
_QUICK = {"50 × 16", "50 × 4 of 200 KiB", "50 × 16 busy", "1,000 × 1, open loop"}


class Bench:
    """Runs cases, prints what comes, and keeps it."""

    def __init__(self, given: argparse.Namespace, disk: Path) -> None:
        self.quick: bool = given.quick
        self._disk = disk
        split = processors()
        self.form = Form(
            rounds=1 if self.quick else given.rounds,
            seconds=0.2 if self.quick else given.seconds,
            warmup=0.1 if self.quick else given.warmup,
            processes=max(1, len(split[1])) if split and not self.quick else 1,
        )
        self.complaints: list[str] = []
        self.peers = peers.makers(disk) if given.peers else {}

    def fresh(self, who: str) -> Subject:
        """A server that was not started yet."""
        return Inorder(self._disk) if who == INORDER else self.peers.get(who, bare_echo)()

    async def case(self, case: Case) -> Result | None:
        """One case, with servers of its own; None where it could not be done."""
        print(f"{case.name}", flush=True)
        subjects = {who: self.fresh(who) for who, _ in case.bars.values()}
        try:
            for subject in subjects.values():
                await subject.start()
            load_of = shortened if self.quick else _as_it_is
            result = await by_turns(case, subjects, self.form, self._tell(case), load_of)
        except BenchError as exc:
            self.complaints.append(f"{case.name}: {exc}")
            return None
        finally:
            for subject in subjects.values():
                await subject.close()
        for bar in result.runs:
            ratio, cpu = result.ratio(bar), result.cpu_ratio(bar)
            if ratio is not None:
                words = "" if cpu is None else f"; by the server's CPU {cpu:.2f}"
                print(f"  {bar}: {ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f}){words}")
        return result

    def _tell(self, case: Case) -> Callable[[str, Run], None]:
        def tell(bar: str, run: Run) -> None:
            cpu = "" if run.cpu_us is None else f", server {run.cpu_us:.1f} µs of CPU a request"
            print(
                f"    {bar:<24} {run.per_second:>9,.0f}/s  p50 {run.latency['p50']:.2f} ms, "
                f"p99 {run.latency['p99']:.2f}, p99.9 {run.latency['p99.9']:.2f}{cpu}",
                flush=True,
            )
            self.complaints += [f"{case.name}, {bar}: {words}" for words in run.complaints]
            if run.busiest > _BUSY:
                print(f"    (the load generator was busy to {run.busiest:.0%})")

        return tell


def _as_it_is(load: Load) -> Load:
    return load


async def measure_all(given: argparse.Namespace, disk: Path) -> tuple[Results, list[str]]:
    """Everything that was asked for, and what the checks complain of."""
    bench = Bench(given, disk)
    machine = this_machine(disk)
    print(machine.words, flush=True)
    cases = [case for case in CASES if not bench.quick or case.name in _QUICK]
    cases += peers.cases(bench.peers)
    if given.case:
        cases = [case for case in cases if any(words in case.name for words in given.case)]
    results = Results(machine=machine, form=bench.form, results=[])
    for case in cases:
        if (result := await bench.case(case)) is not None:
            results.results.append(result)
    if not given.case or _MEMORY in given.case:
        sessions, queues = (50, 1) if bench.quick else (5000, 20)
        results.memory = await memory_of(bench.fresh, sessions, queues, bench.form.processes)
    if not given.case or _CLIENT in given.case:
        form = bench.form
        results.client = await client_alone(
            bench.fresh, window=_WINDOW, rounds=form.rounds, seconds=form.seconds
        )
    return results, bench.complaints


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of each case (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="measured in each run")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before that")
    parser.add_argument(
        "--case", action="append", help=f"only those whose name contains it; {_MEMORY}; {_CLIENT}"
    )
    parser.add_argument("--peers", action="store_true", help="Socket.IO and Redis Streams, too")
    parser.add_argument("--quick", action="store_true", help="only show that it works")
    parser.add_argument("--write", action="store_true", help="into README.md, and the chart")
    parser.add_argument("--readme", type=Path, default=_README, help="another one to write to")
    parser.add_argument("--chart", type=Path, default=_CHART, help="another one to draw")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--disk", type=Path, help="a folder for the databases")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.disk, prefix="inorder-bench-") as folder:
        results, complaints = asyncio.run(measure_all(given, Path(folder)))
    if results.results:
        print("\n" + plain(throughput(results)))
    if results.memory is not None:
        print("\n" + plain(memory_rows(results.memory)))
    if results.client is not None:
        print(f"\n{client_words(results.client)}")
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    if given.write:
        text = given.readme.read_text(encoding="utf-8")
        given.readme.write_text(replaced(text, markdown(results)), encoding="utf-8")
        given.chart.write_text(svg(results.results), encoding="utf-8")
    for words in complaints:
        print(f"complaint: {words}", file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
