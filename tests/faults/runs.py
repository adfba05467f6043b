"""What ran, and in which order: the pipe that the ``roll`` methods tell it to."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import NamedTuple

_BYTES = 1 << 20


class Run(NamedTuple):
    """One run of a handler: ``seq`` of ``session``, the attempt, and what it was to return."""

    session: str
    seq: int
    attempt: int
    value: int

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
            key, attempt, value = line.decode().split()
            session, _, seq = key.rpartition(":")
            self._told.append(Run(session, int(seq), int(attempt), int(value)))
        return self._told

    def stopped(self, key: str) -> None:
        """From now on this one must not be begun any more: its cancel was answered."""
        self._stopped.setdefault(key, len(self.read()))

    def begun_after_stop(self) -> list[Run]:
        """Those that were all the same."""
        return [run for n, run in enumerate(self.read()) if n >= self._stopped.get(run.key, n + 1)]
