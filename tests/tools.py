"""Programs that tests need beside Python."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str) -> str:
    """The path of a program that the tests need.

    Skips the test where it is missing, with the reason; in CI that is a failure.
    """
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed: .ci/run must see to it")
        pytest.skip(f"{name} is not installed (npm or apt has it; .ci/run shows how)")
    return found
