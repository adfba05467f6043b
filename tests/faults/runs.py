"""What ran, and in which order: the pipe that the ``roll`` methods tell it to."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import NamedTuple

_BYTES = 1 << 20


class Run(NamedTuple):
    """One run of a handler: ``seq`` of ``session``, the attempt, what it was to return, and the
    id of the process that it ran in."""

    session: str
    seq: int
    attempt: int
    value: int
    process: int

    @property
    def key(self) -> str:
        return f"{self.session}:{self.seq}"


class Runs:
    """The reading end, in the server's folder; put there before the server starts.

    Both ends are held open, so that the server can be killed and started at will.
    """

    def __init__(self, folder: Path) -> None:
        os.mkfifo(folder / "runs")
        self._pipe = os.open(folder / "runs", os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _BYTES)
        self._rest = b""
        self._told: list[Run] = []
        self._stopped: dict[str, int] = {}
        self._woken: dict[int, int] = {}
        self.late: set[Run] = set()
        """What processes began that had just been woken: others may have had it by then."""

    def close(self) -> None:
        os.close(self._pipe)

    def read(self) -> list[Run]:
        """All that was told so far."""
        while True:
            try:
                self._rest += os.read(self._pipe, _BYTES)
            except BlockingIOError:
                break
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            key, *numbers = line.decode().split()
            session, _, seq = key.rpartition(":")
            self._told.append(Run(session, int(seq), *map(int, numbers)))
        return self._told

    def stopped(self, key: str) -> None:
        """From now on this one must not be begun any more: its cancel was answered."""
        self._stopped.setdefault(key, len(self.read()))

    def woken(self, process: int) -> None:
        """It goes on from now, after it was stopped."""
        self._woken[process] = len(self.read())

    def awake(self, process: int) -> None:
        """It has noticed by now."""
        since = self._woken.pop(process)
        self.late |= {run for run in self.read()[since:] if run.process == process}

    def begun_after_stop(self) -> list[Run]:
        """Those that were all the same."""
        return [run for n, run in enumerate(self.read()) if n >= self._stopped.get(run.key, n + 1)]
