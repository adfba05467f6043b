"""Twenty cuts in a pipeline, mostly in the middle of a frame: for tests of clients."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from bank import Books
from proxy import Proxy

CUTS = 20


def cutting(rng: random.Random, proxy: Proxy) -> None:
    """From now on each connection is cut after some bytes more, in one direction or the other:
    mostly in the middle of a frame. What comes after so many cuts is left alone."""
    left = CUTS
    ends: dict[str, int] = {}

    def cut(way: str, most: int, passed: int, chunk: bytes) -> int | None:
        nonlocal left
        if not left:
            return None
        if not passed or way not in ends:
            ends[way] = passed + rng.randint(1000, most)
        if passed + len(chunk) < ends[way]:
            return None
        left -= 1
        return max(ends[way] - passed, 0)

    proxy.cut_up = lambda passed, chunk: cut("up", 30_000, passed, chunk)
    proxy.cut_down = lambda passed, chunk: cut("down", 6_000, passed, chunk)


def booked_once(folder: Path, session: str, count: int) -> None:
    """Each of the session's requests is in the ledger once, with its own amount."""
    bookings = Books(folder / "ledger.db").bookings
    assert Counter(key for key, *_ in bookings) == {f"{session}:{n + 1}": 1 for n in range(count)}
    assert {key: amount for key, *_, amount in bookings} == {
        f"{session}:{n + 1}": n + 1 for n in range(count)
    }
