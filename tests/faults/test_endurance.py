"""A short form of ``tests/faults/endurance.py``: the server does not grow with what is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from endurance import endure, grown


@pytest.mark.slow
@pytest.mark.sqlite("it looks at the size of SQLite's file")
async def test_what_is_acknowledged_is_forgotten(tmp_path: Path) -> None:
    # The log has its whole length after the first part.
    before, after = await endure(tmp_path, sessions=75, first=1000, each=4000)
    assert grown(before, after) == []
