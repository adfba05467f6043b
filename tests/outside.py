"""What a server process says of itself, and its files show, to somebody who only runs it."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import vector_server
from vector_server import ServerProcess


def metrics_of(server: ServerProcess) -> dict[str, float]:
    """All samples of /metrics."""
    url = server.url.replace("ws://", "http://").replace("/ws", "/metrics")
    with urllib.request.urlopen(url, timeout=10) as response:
        lines = response.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def verify(folder: Path) -> list[str]:
    """The findings of `inorder verify`."""
    command = [sys.executable, "-m", "inorder_server", "verify", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.stdout, done.stderr
    findings: list[str] = json.loads(done.stdout)["findings"]
    assert done.returncode == bool(findings)
    return findings


def last_one_out(server: ServerProcess) -> dict[str, int]:
    """The numbers of the last such line in the log."""
    line = re.findall(r"last one out: (.*?)\"", server.output())[-1]
    return {words.split()[1]: int(words.split()[0]) for words in line.split(", ")}


def look(database: Path, sql: str, *values: Any) -> list[Any]:
    """What the SQLite file says just now."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as db:
        return db.execute(sql, values).fetchall()


@contextmanager
def locked(server: ServerProcess) -> Iterator[None]:
    """Nothing can be committed meanwhile: somebody else holds the lock on writing, or MongoDB
    does not answer."""
    if vector_server.databases is not None:
        with vector_server.databases.still():
            yield
        return
    with closing(sqlite3.connect(server.database, timeout=10, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")
