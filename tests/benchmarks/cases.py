"""What is measured: loads, and who is put under them."""

from __future__ import annotations

import msgspec
from subjects import params

SIZES = {"100 B": 100, "10 KiB": 10 * 1024, "200 KiB": 200 * 1024}
INORDER, BARE = "inorder", "bare echo"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """``rate``: a part of the throughput that the same load reaches without one. ``longer``: so
    many times the usual seconds. ``whole``: the
    throughput is that from the first request to the last outcome, for outcomes of many thousand
    requests in flight come in bursts of seconds."""

    connections: int
    in_flight: int
    single_frames: bool = True
    size: str = "100 B"
    idle: int = 0
    rate: float | None = None
    longer: float = 1
    whole: bool = False

    @property
    def params(self) -> str:
        """JSON."""
        return params(SIZES[self.size])


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """``bars``: what is measured by turns, by name: (who, load). The first bar over the one
    called ``over`` is the case's ratio."""

    name: str
    bars: dict[str, tuple[str, Load]]
    over: str | None = None


def _beside(connections: int, in_flight: int) -> Case:
    single = Load(connections=connections, in_flight=in_flight)
    if in_flight == 1:
        bars = {"inorder": (INORDER, single), "bare echo": (BARE, single)}
        return Case(name=f"{connections:,} × {in_flight}", bars=bars, over="bare echo")
    arrays = msgspec.structs.replace(single, single_frames=False)
    bars = {
        "inorder, arrays": (INORDER, arrays),
        "inorder, single frames": (INORDER, single),
        "bare echo": (BARE, single),
        "bare echo of arrays": (BARE, arrays),
    }
    return Case(name=f"{connections:,} × {in_flight}", bars=bars, over="bare echo")


def _size(size: str) -> Case:
    load = Load(connections=50, in_flight=4, size=size)
    bars = {"inorder": (INORDER, load), "bare echo": (BARE, load)}
    return Case(name=f"50 × 4 of {size}", bars=bars, over="bare echo")


def _growth(in_flight: int) -> Case:
    def load(connections: int) -> tuple[str, Load]:
        single = in_flight == 1
        return INORDER, Load(
            connections=connections,
            in_flight=in_flight,
            single_frames=single,
            longer=2,
            whole=True,
        )

    bars = {f"{count:,} connections": load(count) for count in (5000, 500, 50)}
    return Case(name=f"connections × {in_flight}", bars=bars, over="50 connections")


def _idle() -> Case:
    busy = Load(connections=50, in_flight=16, single_frames=False)
    beside = msgspec.structs.replace(busy, idle=5000)
    bars = {"5,000 idle beside": (INORDER, beside), "alone": (INORDER, busy)}
    return Case(name="50 × 16 busy", bars=bars, over="alone")


BESIDE = [_beside(1, 1), _beside(50, 1), _beside(50, 16), _beside(50, 64)]
BY_SIZE = [_size(size) for size in SIZES]
GROWTH = [_growth(1), _growth(16), _idle()]
OPEN_LOOP = Case(
    name="1,000 × 1, open loop",
    bars={"inorder": (INORDER, Load(connections=1000, in_flight=1, rate=0.5, longer=15))},
)
CASES = [*BESIDE, *BY_SIZE, *GROWTH, OPEN_LOOP]


def shortened(load: Load) -> Load:
    """The same with few connections, for a run that only shows that it works."""
    return msgspec.structs.replace(
        load,
        connections=max(1, load.connections // 25),
        idle=load.idle // 100,
        longer=1,
    )
