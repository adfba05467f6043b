"""The benchmarks work, whatever the figures are; nothing here fails because a machine is slow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The benchmarks' modules can be imported by name, as their command does it."""
    monkeypatch.syspath_prepend(str(HERE))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(HERE) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.mark.timeout(300)
def test_the_quick_form_measures_everything_once_and_writes_it(
    tmp_path: Path, modules: None
) -> None:
    from table import BEGIN, END, Results

    readme, chart, found = tmp_path / "R.md", tmp_path / "chart.svg", tmp_path / "found.json"
    readme.write_text(f"before\n{BEGIN}\nold figures\n{END}\nafter\n", encoding="utf-8")
    command = [sys.executable, str(HERE / "run.py"), "--quick", "--write", "--disk", str(tmp_path)]
    command += ["--readme", str(readme), "--chart", str(chart), "--json", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    # A complaint is of what must not be: an outcome missing, twice, or out of order.
    assert done.returncode == 0, done.stdout + done.stderr
    results = msgspec.json.decode(found.read_bytes(), type=Results)
    kinds = {bar for result in results.results for bar in result.runs}
    assert {"inorder", "inorder, arrays", "inorder, single frames"} <= kinds
    assert {"bare echo", "bare echo of arrays", "5,000 idle beside", "alone"} <= kinds
    assert any(run.rate for result in results.results for run in result.runs.get("inorder", ()))
    assert results.machine.fdatasync_ms > 0
    assert results.memory is not None
    assert results.client is not None
    assert "The Python client" in readme.read_text(encoding="utf-8")
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}\n![")
    assert text.endswith(f"{END}\nafter\n")
    assert "old figures" not in text
    assert results.machine.cpu in text
    assert re.search(r"\| 50 × 16 \| inorder, arrays \| [\d,]+ \(", text)
    assert ElementTree.fromstring(chart.read_text(encoding="utf-8")).tag.endswith("svg")
    assert "50 × 16" in done.stdout
    assert not list(tmp_path.glob("inorder*"))


@pytest.mark.timeout(120)
def test_growth_is_measured_in_its_quick_form_too(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "growth.py"), "--quick", "--disk", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"in the newest sessions beside 4,000 outcomes kept: \d", done.stdout)
    assert re.search(r"by a server: \d.* beside 4,000 outcomes kept: \d", done.stdout)
    assert re.search(r"take long, in 50 sessions: loaded after .* running in all", done.stdout)
    assert re.search(r"take no time, in 50 sessions: loaded after .* done in all", done.stdout)
    assert not list(tmp_path.iterdir())


def test_readme_has_a_place_for_the_figures(modules: None) -> None:
    from table import COMMAND, replaced

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "figures of now" in replaced(readme, "figures of now")
    assert COMMAND.removesuffix(" --write") in readme
    with pytest.raises(ValueError, match="README"):
        replaced("no marks", "figures")


def result_of(name: str, over: str | None, **bars: list[float]) -> Any:
    from measure import Result, Run

    def run(value: float) -> Run:
        latency = {"p50": 1.0, "p90": 2.0, "p99": 30.0, "p99.9": 40.0, "max": 50.0}
        return Run(
            per_second=value, latency=latency, cpu_us=1e6 / value, busiest=0.1, complaints=[]
        )

    runs = {bar.replace("_", " "): [run(value) for value in values] for bar, values in bars.items()}
    return Result(name=name, over=over, runs=runs)


def test_ratios_are_those_of_a_round(modules: None) -> None:
    result = result_of("c", "bare echo", inorder=[10, 40, 20], bare_echo=[20, 20, 40])
    ratio = result.ratio("inorder")
    assert (ratio.median, ratio.low, ratio.high) == (0.5, 0.5, 2.0)
    assert result.ratio("bare echo") is None
    assert result.cpu_ratio("inorder") == pytest.approx(1.0)
    assert result.latency("inorder", "p99") == 30
    assert result.spread("bare echo").median == 20


def test_the_chart_shows_each_bar_as_long_as_its_median(modules: None) -> None:
    from chart import svg

    many = {"inorder, arrays": [30_000.0, 40_000.0, 50_000.0], "bare echo": [20_000.0] * 3}
    results = [
        result_of("50 × 16", "bare echo", **many),
        result_of("1 × 1", "bare echo", inorder=[10_000.0], bare_echo=[5_000.0]),
        result_of("50 × 4 of 10 KiB", "bare echo", inorder=[1.0], bare_echo=[1.0]),
        result_of("connections × 1", "50 connections", **{"50 connections": [1.0]}),
    ]
    drawn = svg(results)
    bars = re.findall(
        r'<rect class="(\w)" x="96" .*?width="([\d.]+)".*?<title>(.*?)</title>', drawn
    )
    lengths = {title: float(width) for _, width, title in bars}
    assert list(lengths) == [
        "50 × 16, inorder, arrays: 40,000",
        "50 × 16, bare echo: 20,000",
        "1 × 1, inorder, single frames: 10,000",
        "1 × 1, bare echo: 5,000",
    ]
    whole = lengths["50 × 16, inorder, arrays: 40,000"]
    assert [length / whole for length in lengths.values()] == pytest.approx([1, 0.5, 0.25, 0.125])
    assert "prefers-color-scheme: dark" in drawn
    assert "KiB" not in drawn


def test_an_empty_chart_is_a_chart(modules: None) -> None:
    from chart import svg

    assert ElementTree.fromstring(svg([])).tag.endswith("svg")


@pytest.mark.parametrize("size", [100, 10 * 1024, 200 * 1024])
def test_params_are_json_of_their_size(modules: None, size: int) -> None:
    from subjects import params

    assert len(params(size)) == size
    assert msgspec.json.decode(params(size))["number"] == 42


def test_a_process_is_looked_at_where_the_system_lets_one(modules: None) -> None:
    from machine import cpu_seconds, memory, on_servers_processor, processors

    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("no /proc")
    assert (memory(os.getpid()) or 0) > 2**20
    assert (cpu_seconds(os.getpid()) or 0) > 0
    assert memory(2**30) is None
    assert cpu_seconds(2**30) is None
    split, before = processors(), os.sched_getaffinity(0)
    with on_servers_processor():
        assert split is None or os.sched_getaffinity(0) == split[0]
    assert os.sched_getaffinity(0) == before
