"""Proofs that can fail: each patch here breaks one promise, and a test must go red for it.

A patch begins with what it breaks (``Promise:``), the one test that is meant to see it
(``Caught-by:``) and, where that test needs one, a program (``Needs:``). It is applied to a copy
of the tree, and the test is run on that copy. A patch that survives, or fits no longer, fails.

``python -m pytest -m sabotage`` does it all, and says at its end which test each one turned
red, and in what words.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tools import tool

pytestmark = [pytest.mark.sabotage, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
COPIED = ("protocol", "server", "tests", "pyproject.toml")


@dataclass(frozen=True)
class Sabotage:
    """A patch file, as its header has it."""

    file: Path
    promise: str
    caught_by: str
    needs: str | None

    @classmethod
    def read(cls, file: Path) -> Sabotage:
        header = file.read_text(encoding="utf-8").split("\ndiff --git ", 1)[0]
        fields = dict(re.findall(r"^([A-Z][\w-]+): (.+)$", header, re.MULTILINE))
        return cls(file, fields["Promise"], fields["Caught-by"], fields.get("Needs"))


PATCHES = {file.stem: Sabotage.read(file) for file in sorted(Path(__file__).parent.glob("*.patch"))}


class Tree:
    """A copy of the project, whose own packages are the ones that its tests import."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tree"
        self.report = folder / "report.xml"
        self.folder.mkdir()
        for name in COPIED:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "sabotage")
                shutil.copytree(ROOT / name, self.folder / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, self.folder)
        # Nothing of the run that this is a part of: its options, its coverage, its workers.
        self._env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST", "COV"))
        }
        # Comes before what an editable install adds.
        self._env["PYTHONPATH"] = os.pathsep.join(
            str(self.folder / name) for name in ("protocol", "server")
        )
        self._env["PYTHONDONTWRITEBYTECODE"] = "1"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """In the copy; output and errors together."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def pytest(self, *tests: str) -> subprocess.CompletedProcess[str]:
        """Stops at the first that fails."""
        options = ("-x", "-q", "-p", "no:cacheprovider", f"--junitxml={self.report}")
        return self.run(sys.executable, "-m", "pytest", *options, *tests)

    def apply(self, patch: Path) -> None:
        """git finds the place by the lines around it, whatever their numbers are now."""
        # Where the copy lies in somebody's working tree, that is none of git's business.
        self._env["GIT_CEILING_DIRECTORIES"] = str(self.folder.parent)
        done = self.run(tool("git"), "apply", "--verbose", str(patch))
        assert done.returncode == 0, f"it fits no longer:\n{done.stdout}"


def test_as_it_is_the_copy_passes_every_test_that_is_meant_to_fail(tmp_path: Path) -> None:
    """Or else it would not be the patch that turns them red."""
    tree = Tree(tmp_path)
    where = "import inorder, inorder_server; print(inorder.__file__, inorder_server.__file__)"
    for file in tree.run(sys.executable, "-c", where).stdout.split():
        assert Path(file).is_relative_to(tree.folder)
    present = (s for s in PATCHES.values() if s.needs is None or shutil.which(s.needs))
    done = tree.pytest(*sorted({s.caught_by for s in present}))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", PATCHES)
def test_it_is_caught(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    sabotage = PATCHES[name]
    if sabotage.needs is not None:
        tool(sabotage.needs)
    tree = Tree(tmp_path)
    tree.apply(sabotage.file)
    done = tree.pytest(sabotage.caught_by)
    assert done.returncode != 0, f"SURVIVED: {sabotage.promise}\n{done.stdout}"
    # 1: that a test failed; not that there is no such test, or that nothing runs at all.
    assert done.returncode == 1, done.stdout
    (failure,) = ElementTree.parse(tree.report).iterfind(".//testcase[failure]/failure")
    reason = failure.get("message", "").splitlines()[0]
    assert reason.startswith(("assert ", "AssertionError", "Failed: DID NOT RAISE")), done.stdout
    record_property("red", f"{name}: {sabotage.promise}\n    {sabotage.caught_by}\n    {reason}")


def test_there_are_enough_of_them() -> None:
    assert len(PATCHES) >= 40
