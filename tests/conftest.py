"""What the run says at its end, beside pytest's own words."""

from __future__ import annotations

import pytest
from hypothesis import settings

# ``--hypothesis-profile=long``: as long as somebody is willing to wait.
settings.register_profile("long", max_examples=20_000, deadline=None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which test each sabotage turned red."""
    reports = terminalreporter.stats.get("passed", [])
    red = [value for r in reports for name, value in r.user_properties if name == "red"]
    if red:
        terminalreporter.section("sabotage that was caught")
        for text in sorted(red):
            terminalreporter.write_line(text)
