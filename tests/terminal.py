"""A program in a terminal, as a person sees it: what it printed, control codes carried out."""

from __future__ import annotations

import json
import re
import time
from types import TracebackType
from typing import Any, Self

import pexpect

PATIENCE = 30.0
_ROWS, _COLUMNS = 100, 400
# A control sequence, a line of text, or one control character; all that programs here send.
_PIECE = re.compile(r"\x1b\[([\d;?]*)([A-Za-z])|([^\x00-\x1f]+)|(.)", re.DOTALL)
_UNFINISHED = re.compile(r"\x1b(\[[\d;?]*)?$")


class Screen:
    """The lines of a terminal that is wide and high enough for everything."""

    def __init__(self) -> None:
        self._lines = [""]
        self._row = self._column = 0
        self._rest = ""

    @property
    def lines(self) -> list[str]:
        """What stands there, from the top."""
        return [line.rstrip() for line in self._lines]

    def feed(self, data: str) -> None:
        """Takes what the program wrote."""
        data = self._rest + data
        cut = _UNFINISHED.search(data)
        self._rest = data[cut.start() :] if cut else ""
        for number, code, text, control in _PIECE.findall(data[: cut.start()] if cut else data):
            if code:
                self._sequence(code, number)
            elif text:
                line = self._lines[self._row].ljust(self._column)
                self._column += len(text)
                self._put(line[: self._column - len(text)] + text + line[self._column :])
            elif control == "\r":
                self._column = 0
            elif control == "\b":
                self._column = max(0, self._column - 1)
            elif control == "\n":
                self._row += 1
                if self._row == len(self._lines):
                    self._lines.append("")

    def _sequence(self, code: str, number: str) -> None:
        line = self._lines[self._row]
        count = int(number) if number.isdecimal() else 0
        if code == "G":
            self._column = max(count, 1) - 1
        elif code == "C":
            self._column += max(count, 1)
        elif code == "D":
            self._column = max(0, self._column - max(count, 1))
        elif code == "J" and not count:
            self._put(line[: self._column])
            del self._lines[self._row + 1 :]
        elif code == "K":
            self._put("" if count == 2 else line[: self._column])

    def _put(self, line: str) -> None:
        self._lines[self._row] = line


class Terminal:
    """Runs a command in a pty. ``async``-free: it blocks, which no server process minds."""

    def __init__(self, command: str, *arguments: str) -> None:
        self.screen = Screen()
        self._child = pexpect.spawn(
            command,
            list(arguments),
            encoding="utf-8",
            dimensions=(_ROWS, _COLUMNS),
            timeout=PATIENCE,
        )
        self._child.delaybeforesend = None
        self._looked_at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._child.close(force=True)

    def type(self, line: str) -> None:
        """Types a line and Enter."""
        self._child.sendline(line)

    def until(self, pattern: str) -> str:
        """Waits for a line that matches from its start; looks only at later ones from then on."""
        wanted = re.compile(pattern)
        deadline = time.monotonic() + PATIENCE
        while True:
            # The last line may be half there.
            for n in range(self._looked_at, len(self.screen.lines) - 1):
                if wanted.match(self.screen.lines[n]):
                    self._looked_at = n + 1
                    return self.screen.lines[n]
            try:
                self.screen.feed(self._child.read_nonblocking(65536, deadline - time.monotonic()))
            except (pexpect.EOF, pexpect.TIMEOUT) as exc:
                shown = "\n".join(self.screen.lines)
                raise AssertionError(f"{type(exc).__name__} before {pattern!r}:\n{shown}") from None

    def message(self, type: str) -> dict[str, Any]:
        """Waits for a message of this type, as wscat shows those that come in."""
        line = self.until(rf'< {{"type":\s*"{type}"')
        found: dict[str, Any] = json.loads(line.removeprefix("< "))
        return found

    def ended(self) -> int:
        """Waits for the program's end; its exit status."""
        deadline = time.monotonic() + PATIENCE
        try:
            while True:
                self.screen.feed(self._child.read_nonblocking(65536, deadline - time.monotonic()))
        except pexpect.EOF:
            self._child.close()
        return int(self._child.exitstatus)
