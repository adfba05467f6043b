"""Registry, queue, execution and journal against a model, by walks of random steps.

Hypothesis draws the steps, and makes a walk that fails as short as it can. Everything is in
virtual time. ``--hypothesis-profile=long`` walks for as long as a long run should.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from loguru import logger
from queue_processes import Step
from queue_walk import walk

CLIENTS = 2
LENGTH = 100


def _steps(times: dict[str, float]) -> list[Step]:
    """What may be drawn, as often as it stands here; ``times`` makes some of
    it more frequent. The plainest first: a walk that fails is made of those as far as it can be."""
    weighted: list[tuple[int, str, Any]] = [(1, "nothing", ()), (12, "turn", ()), (14, "rest", ())]
    for who in range(CLIENTS):
        weighted += [(8, "connect", (who,)), (1, "connect", (who, 1)), (1, "connect", (who, 3, 2))]
        for name, weight in (
            ("quick", 2),
            ("plain", 4),
            ("again", 4),
            ("once", 3),
            ("onceagain", 3),
            ("block", 3),
            ("stubborn", 1),
            ("free", 3),
            ("swift", 3),
        ):
            weighted.append((weight, "send", (who, None, name, 0, None)))
            weighted.append((weight, "send", (who, None, name, 1, 0)))
        for id in ("a", "b", "c"):
            weighted += [(1, "send", (who, id, "plain", 0, offset)) for offset in (None, 0, 0, -1)]
            weighted.append((1, "send", (who, id, "again", 0, None)))
            weighted.append((1, "send", (who, id, "plain", 1, 0)))
        weighted += [(1, "send", (who, None, "plain", 0, offset)) for offset in (1, 2, -1, -6)]
        weighted += [(1, "send", (who, "d", "quick", 0, 1)), (1, "send", (who, None, "gone", 0, 0))]
        weighted.append((1, "send", (who, "#1", "quick", 0, None)))
        weighted += [(8, "finish", (who, "ret")), (3, "finish", (who, "raise"))]
        weighted += [(2, "finish", (who, "error")), (2, "finish", (who, "retry", 3))]
        weighted += [(2, "cancel", (who, place)) for place in range(4)]
        weighted.append((1, "cancel", (who, -1)))
        weighted += [(3, "ack", (who, 0)), (2, "ack", (who, 1)), (1, "ack", (who, -9))]
        weighted += [(2, "status", (who,)), (5, "hang_up", (who,)), (1, "hang_up", (who, 0))]
        weighted += [(1, "bye", (who, "finish")), (1, "bye", (who, "cancel"))]
        weighted += [
            (1, "operate", (who, word, named))
            for word in ("retry", "skip")
            for named in (False, True)
        ]
        weighted += [(1, "behind", (who,)), (1, "takes_all", (who,)), (1, "overclaim", (who,))]
    weighted += [(4, "tick", (0.3,)), (3, "tick", (4,)), (2, "tick", (25,))]
    weighted += [(3, "hold", ()), (2, "hold_answers", ()), (2, "lose_answer", ())]
    weighted += [(2, "away", ()), (10, "back", ())]
    weighted += [(4, "crash", ()), (1, "crash", (True,)), (1, "drain", (2,)), (1, "drain", (60,))]
    weighted.append((2, "expire", ()))
    return [
        Step(name, args)
        for weight, name, args in weighted
        for _ in range(round(weight * times.get(name, 1)))
    ]


# One kind of trouble at a time goes deeper than all of it at once.
CALM = {"crash": 0, "drain": 0, "expire": 0, "away": 0, "hold": 0, "hold_answers": 0}
MOODS = [
    _steps(times)
    for times in (
        {},
        CALM,
        CALM | {"crash": 4, "finish": 0.5, "send": 0.7},
        CALM | {"crash": 6, "finish": 0.3, "send": 0.4, "cancel": 0, "bye": 0, "tick": 0.3},
        CALM | {"drain": 6},
        CALM | {"away": 3, "hold": 2, "hold_answers": 2, "lose_answer": 3, "hang_up": 2},
        CALM | {"hang_up": 3, "operate": 6, "tick": 3, "expire": 1},
        CALM | {"hang_up": 4, "connect": 2, "overclaim": 8, "expire": 8, "bye": 0, "cancel": 0},
    )
]
WALKS = st.one_of(
    st.lists(st.sampled_from(steps), min_size=LENGTH, max_size=LENGTH) for steps in MOODS
)
LONG = settings.get_current_profile_name() == "long"
HOW = settings(
    settings.get_profile("long") if LONG else None,
    max_examples=settings.get_profile("long").max_examples if LONG else 120,
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

# Errors that a walk brings about on purpose.
EXPECTED = ("the handler failed", "the store is unavailable", "history lost")


@pytest.fixture(scope="module", autouse=True)
def errors() -> Iterator[list[str]]:
    """What is logged as an error and should not be."""
    found: list[str] = []

    def look(record: Any) -> bool:
        if not record["message"].startswith(EXPECTED):
            found.append(record["message"])
        return False

    logger.remove()
    logger.add(lambda _: None, level="ERROR", filter=look)
    yield found
    logger.remove()


@pytest.mark.timeout(0 if LONG else 120)
@pytest.mark.parametrize("policy", ["finish", "hold", "cancel"])
def test_walks(policy: str, errors: list[str]) -> None:
    taken, began = 0, time.perf_counter()

    @HOW
    @given(WALKS)
    def walks(steps: list[Step]) -> None:
        nonlocal taken
        taken += len(steps)
        errors.clear()
        note(f"walk({[step for step in steps if step.name != 'nothing']}, {policy!r})")
        walk(steps, policy, CLIENTS)
        assert errors == []

    walks()
    if os.environ.get("WALK_SPEED"):
        print(f"{policy}: {taken} steps, {taken / (time.perf_counter() - began):.0f} a second")
