"""``PYTHONPATH=tests python -m model``: the configurations that take minutes, and those of every
run; prints what was explored, and ends with 1 where a promise is broken."""

from __future__ import annotations

import sys
import time

from .configurations import LONG, QUICK, explored


def main() -> int:
    broken = 0
    for name, bounds in {**QUICK, **LONG}.items():
        began = time.perf_counter()
        found = explored(bounds)
        print(f"{name}: {found} ({time.perf_counter() - began:.1f} s)", flush=True)
        broken += found.broken is not None
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
