"""What the figures were measured on, and what a process of it takes."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

_SYNCS = 200
_PAGE = 4096


class Machine(msgspec.Struct, kw_only=True):
    """``fdatasync_ms``: the median time of such a call on this disk, after a page was written.
    ``pinned``: the server had a processor to itself, and the load the others."""

    cpu: str
    cores: int
    system: str
    python: str
    sqlite: str
    websockets: str
    fdatasync_ms: float
    pinned: bool

    @property
    def words(self) -> str:
        """One sentence."""
        return (
            f"{self.cpu}, {self.cores} cores, {self.system}; Python {self.python}, "
            f"SQLite {self.sqlite}, websockets {self.websockets}; "
            f"fdatasync takes {self.fdatasync_ms:.2f} ms"
        )


def this_machine(folder: Path) -> Machine:
    """Looks around; ``folder`` is on the disk that counts."""
    from importlib.metadata import version

    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        system=f"{platform.system()} {platform.release().split('-')[0]}",
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        websockets=version("websockets"),
        fdatasync_ms=round(fdatasync_ms(folder), 3),
        pinned=processors() is not None,
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def fdatasync_ms(folder: Path, syncs: int = _SYNCS) -> float:
    """Appends a page and syncs it, again and again, as a write-ahead log does."""
    sync = getattr(os, "fdatasync", os.fsync)
    path = folder / "fdatasync"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(syncs):
            file.write(b"\0" * _PAGE)
            begun = time.perf_counter()
            sync(file.fileno())
            times.append(time.perf_counter() - begun)
    path.unlink()
    return statistics.median(times) * 1000


# ---- processors


def processors() -> tuple[set[int], set[int]] | None:
    """(the server's, the load's); None where there is one only, or they can't be told."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    first, *rest = sorted(os.sched_getaffinity(0))
    return ({first}, set(rest)) if rest else None


@contextmanager
def on_servers_processor() -> Iterator[None]:
    """Processes that are started in the block, with all their threads, run there."""
    split = processors()
    if split is None:
        yield
        return
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, split[0])
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


# ---- processes


def cpu_seconds(pid: int) -> float | None:
    """Processor time that a process took so far, its threads' included; None where unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int | None:
    """Bytes of memory that a process has for itself (PSS); None where unknown."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return None
    kib = [int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")]
    return kib[0] * 1024 if kib else None
