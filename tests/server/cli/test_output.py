"""Tables and JSON."""

from __future__ import annotations

import io
import sys

import pytest

from inorder_server.cli.output import print_json, print_table, when


def test_a_pipe_cuts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("session", "id"), [("s" * 200, "[bold]x[/]"), (None, "a\x1b[2J\nb")])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["session", "id"]
    assert first.split() == ["s" * 200, "[bold]x[/]"]
    assert second.strip() == "a\\x1b[2J\\nb"


def test_a_terminal_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("TERM", "dumb")
    print_table(("id",), [("x" * 100,)])
    assert out.getvalue().count("x") == 100
    assert len(out.getvalue().splitlines()) > 2


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": "x\ny", "b": [1]})
    assert capsys.readouterr().out == '{"a":"x\\ny","b":[1]}\n'


def test_when() -> None:
    assert when(0) == "1970-01-01 00:00:00"
    assert when(None) == ""
