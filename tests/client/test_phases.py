"""The session's phases and their moves."""

from __future__ import annotations

import pytest

from inorder.credentials import Credentials
from inorder.phases import PHASES, Phase


def test_every_phase_has_its_moves():
    assert set(PHASES) == set(Phase)
    assert PHASES[Phase.ENDED] == ()


def test_an_illegal_move_changes_nothing(bench):
    with pytest.raises(AssertionError, match="OPEN to GREETING"):
        bench.core.hello(Credentials(token="x"))
    assert bench.core.phase is Phase.OPEN
