"""An explicit-state model checker: every state that can be reached, the nearest first."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)
Moves = Callable[[S], Iterator[tuple[str, Callable[[], S]]]]


class Broken(Exception):
    """An invariant does not hold. The text names it."""


class Found(NamedTuple):
    """``states`` were seen. ``broken`` is which invariant does not hold, if one does not;
    ``trace`` the shortest way there, a move each."""

    states: int
    broken: str | None = None
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.broken is None:
            return f"{self.states} states, no violation"
        steps = "".join(f"\n  {n}. {move}" for n, move in enumerate(self.trace, 1))
        return f"{self.broken}, after{steps}"


class Checker(Generic[S]):
    """``moves`` yields what may happen next: its name, and what makes the state after it, or
    raises :class:`Broken`."""

    def __init__(self, start: S, moves: Moves[S]):
        self._start = start
        self._moves = moves

    def run(self, most: int = 50_000_000) -> Found:
        """Breadth first. Raises :class:`RuntimeError` beyond ``most`` states."""
        # States hold no cycles, and the collector would go through all of them again and again.
        collects = gc.isenabled()
        gc.disable()
        try:
            return self._run(most)
        finally:
            if collects:
                gc.enable()

    def _run(self, most: int) -> Found:
        before: dict[S, tuple[S, str] | None] = {self._start: None}
        layer = [self._start]
        while layer:
            following = []
            for state in layer:
                for name, make in self._moves(state):
                    try:
                        after = make()
                    except Broken as broken:
                        trace = (*_way(before, state), name)
                        return Found(len(before), str(broken), trace)
                    if after not in before:
                        before[after] = (state, name)
                        following.append(after)
            if len(before) > most:
                raise RuntimeError(f"more than {most} states")
            layer = following
        return Found(len(before))


def _way(before: dict[S, tuple[S, str] | None], state: S) -> tuple[str, ...]:
    steps = []
    while (step := before[state]) is not None:
        state, name = step
        steps.append(name)
    return tuple(reversed(steps))
