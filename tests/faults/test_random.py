"""A few of the random fault runs; ``tests/faults/run.py`` does as many as one likes.

``pytest tests/faults --seed N`` does the one of that seed, after a failure there or here.
"""

from __future__ import annotations

import pytest
from nursery import Nursery
from plan import CLIENTS, REQUESTS, plan
from trial import trial

pytestmark = pytest.mark.slow


async def test_no_promise_is_broken(nursery: Nursery, seed: int, on_mongodb: bool) -> None:
    requests = 500 if on_mongodb else REQUESTS
    report = await trial(plan(seed, requests=requests), nursery)
    assert report.violations == []
    assert report.clients >= CLIENTS
    assert report.accepted >= requests
    assert report.kills
    assert sum(report.faults.values()) >= 3


def test_a_seed_says_all_of_a_run() -> None:
    assert plan(3) == plan(3)
    assert plan(3) != plan(5)
