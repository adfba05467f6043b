"""A few of the random runs on three nodes; ``tests/faults/run.py --nodes 3`` does more.

``pytest tests/faults/test_fleet.py --seed N`` does the one of that seed.
"""

from __future__ import annotations

import pytest
from fleet_plan import CLIENTS, REQUESTS, fleet_plan
from fleet_trial import fleet_trial
from nursery import Nursery

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def test_no_promise_is_broken_among_nodes(nursery: Nursery, fleet_seed: int) -> None:
    report = await fleet_trial(fleet_plan(fleet_seed), nursery)
    assert report.violations == []
    assert report.clients > CLIENTS
    assert report.accepted >= REQUESTS
    assert report.kills
    assert sum(report.faults.values()) >= 4


def test_a_seed_says_all_of_a_run_among_nodes() -> None:
    assert fleet_plan(3) == fleet_plan(3)
    assert fleet_plan(3) != fleet_plan(5)
