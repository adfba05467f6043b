"""``PYTHONPATH=tests python -m model``: the configurations that take minutes, and those of every
run; prints what was explored, and ends with 1 where a promise is broken of which that is not
known."""

from __future__ import annotations

import sys
import time

from .configurations import KNOWN, LONG, QUICK, explored


def main() -> int:
    broken = 0
    wanted = {name: (bounds, None) for name, bounds in {**QUICK, **LONG}.items()}
    for name, (bounds, known) in {**wanted, **KNOWN}.items():
        began = time.perf_counter()
        found = explored(bounds)
        print(f"{name}: {found} ({time.perf_counter() - began:.1f} s)", flush=True)
        broken += found.broken != known
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
