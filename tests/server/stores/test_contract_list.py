"""The contract suite is the same list of tests for both adapters."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[3]
CONTRACT = Path(__file__).with_name("test_contract.py")
_CASE = re.compile(r"::(\w+)\[(.+)\]$")


def listed() -> dict[str, list[str]]:
    """By adapter: the tests that pytest would run, in order."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [*command, str(CONTRACT)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tests: dict[str, list[str]] = defaultdict(list)
    for line in done.stdout.splitlines():
        if "::" not in line:
            continue
        found = _CASE.search(line)
        assert found is not None, f"{line} is for no adapter"
        (adapter,) = {"sqlite", "mongodb", "memory"}.intersection(found[2].split("-"))
        case = "-".join(word for word in found[2].split("-") if word != adapter)
        tests[adapter].append(f"{found[1]}[{case}]")
    return tests


def test_both_adapters_take_the_same_tests() -> None:
    tests = listed()
    assert tests["sqlite"]
    assert tests["sqlite"] == tests["mongodb"] == tests["memory"]
    # One that left out an adapter by itself would be in the list all the same.
    assert not re.search(r"pytest\.(mark\.)?(skip|xfail|importorskip)", CONTRACT.read_text())
