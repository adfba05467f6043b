"""Servers without the wait for their imports: a process that has made them forks each server.

A fault run starts a server three or four times, and importing takes most of a start. What is
forked is a process like any other: it has its own id, files and sockets, and dies alone.

Run as a program this file is the process that forks; it reads a line of JSON for each one
to start, and writes a line for each that started or ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from vector_server import ServerProcess


class Nursery:
    """The process that forks, seen from the tests. ``with`` ends it."""

    def __init__(self) -> None:
        paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # What was read of it must not wait where select can't see it.
            bufsize=0,
        )
        self._statuses: dict[int, int] = {}

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def fork(self, folder: Path, output: Path, *arguments: str) -> Child:
        """``inorder`` with these arguments, in this folder; its output is appended."""
        assert self._process.stdin is not None
        order = {"folder": str(folder), "output": str(output), "arguments": arguments}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        while "started" not in (told := self._listen()):
            pass
        return Child(self, told["started"])

    def status(self, pid: int) -> int | None:
        """How it ended, as subprocess has it; None while it runs."""
        assert self._process.stdout is not None
        while pid not in self._statuses and _readable(self._process.stdout):
            self._listen()
        return self._statuses.pop(pid, None)

    def _listen(self) -> dict[str, int]:
        assert self._process.stdout is not None
        told: dict[str, int] = json.loads(self._process.stdout.readline())
        if "ended" in told:
            self._statuses[told["ended"]] = told["status"]
        return told


class Child:
    """One that was forked; as much of subprocess.Popen as is used."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.status(self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class NurseryServer(ServerProcess):
    """A server that is forked, not begun from nothing."""

    def __init__(self, nursery: Nursery, folder: Path, config: dict[str, dict[str, Any]]) -> None:
        super().__init__(folder, config)
        self._nursery = nursery

    def _launch(self, *arguments: str) -> Any:
        self._output.touch()
        return self._nursery.fork(self.folder, self._output, *arguments)

    async def verify(self) -> list[str]:
        """The findings of `inorder verify`."""
        output = self.folder / "verify.json"
        audit = self._nursery.fork(self.folder, output, "verify", "--json")
        while audit.poll() is None:
            await asyncio.sleep(0.01)
        findings: list[str] = json.loads(output.read_text())["findings"]
        if audit.returncode != bool(findings):
            findings.append(f"verify ended with {audit.returncode}")
        return findings


def _readable(pipe: Any) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return bool(selector.select(0))


# ---- the process that forks


def _main() -> None:
    import inorder_server.app
    import inorder_server.cli.commands  # noqa: F401

    children: dict[int, int] = {}
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin.buffer.raw, selectors.EVENT_READ)  # type: ignore[attr-defined]
    rest = b""
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                pid, status = os.waitpid(key.data, 0)
                selector.unregister(key.fileobj)
                os.close(key.fd)
                del children[pid]
                _tell({"ended": pid, "status": os.waitstatus_to_exitcode(status)})
                continue
            came = os.read(0, 65536)
            if not came:
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                return
            *lines, rest = (rest + came).split(b"\n")
            for line in lines:
                pid = os.fork()
                if not pid:
                    selector.close()
                    for descriptor in children.values():
                        os.close(descriptor)
                    _be(json.loads(line))
                    return
                children[pid] = os.pidfd_open(pid)
                selector.register(children[pid], selectors.EVENT_READ, pid)
                _tell({"started": pid})


def _tell(message: dict[str, int]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def _be(order: dict[str, Any]) -> None:
    """The child: from here on as if the command had been typed."""
    os.chdir(order["folder"])
    output = os.open(order["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, theirs in ((output, 1), (output, 2), (nothing, 0)):
        os.dup2(ours, theirs)
    random.seed()
    sys.argv = ["inorder", *order["arguments"]]
    from inorder_server.cli import main

    main()


if __name__ == "__main__":
    _main()
