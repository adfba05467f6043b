"""Programs that tests need beside Python."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def tool(name: str) -> str:
    """The path of a program that the tests need.

    Skips the test where it is missing, with the reason; in CI that is a failure.
    """
    found = shutil.which(name)
    if found is None:
        _missing(f"{name} is not installed (npm or apt has it; .ci/run shows how)")
    return found


def npm_packages(*specs: str) -> Path:
    """A folder whose ``node_modules`` has these packages (``ws@8``), and nothing of this
    project's: installed once into a folder for temporary files, and found there afterwards.

    Skips the test where they can't be had, with npm's words; in CI that is a failure.
    """
    npm = tool("npm")
    digest = hashlib.sha256(" ".join(specs).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"inorder-npm-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            command = [npm, "install", "--no-fund", "--no-audit", "--prefix", str(folder), *specs]
            done = subprocess.run(command, capture_output=True, text=True, timeout=110)
            if done.returncode:
                _missing(f"npm can't install {', '.join(specs)}: {done.stderr[-500:]}")
            (folder / "done").touch()
    return folder


def _missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)
