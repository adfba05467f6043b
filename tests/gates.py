"""The gated handlers of user_handlers.py, held and watched from outside through files."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from frames import Json, RawClient, request

CONFIG: dict[str, dict[str, Any]] = {
    "handlers": {"modules": ["user_handlers"]},
    # A gate that stays shut holds up nobody.
    "server": {"drain_timeout": 1},
}


class Step(NamedTuple):
    """``word`` is ``begin`` or ``end`` of a run."""

    word: str
    seq: int
    attempt: int


class Gates:
    """The gates in a server's folder. Put there before the server starts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.copy(Path(__file__).with_name("user_handlers.py"), folder)

    def open(self, gate: str) -> None:
        """Lets everybody through who waits at it, or will."""
        (self._folder / gate).touch()

    @property
    def steps(self) -> list[Step]:
        """All that ran, in order, of all sessions."""
        file = self._folder / "steps"
        lines = file.read_text().splitlines() if file.exists() else []
        return [Step(word, int(seq), int(n)) for word, _, seq, n in map(str.split, lines)]

    async def reached(self, count: int) -> list[Step]:
        """Waits for so many steps."""
        async with asyncio.timeout(10):
            while len(self.steps) < count:
                await asyncio.sleep(0.005)
        return self.steps


def gated(gate: str, seq: int, *, how: str = "gated", **fields: Any) -> Json:
    """A request that runs until the gate is open; its id is ``r`` and its number."""
    return request(how, {"gate": gate}, **{"id": f"r{seq}", "seq": seq, **fields})


async def nothing_but_pongs(client: RawClient) -> None:
    """The server is awake, was all around its loop many times, and says nothing else."""
    for n in range(20):
        await client.send({"type": "ping", "data": n})
        assert await client.next() == {"type": "pong", "data": n}, client.seen[-1]
