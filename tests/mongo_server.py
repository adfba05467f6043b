"""A MongoDB wire server for the tests: somebody's own, a ``mongod``, or a stand-in.

In this order: ``INORDER_TEST_MONGODB_URI`` (a server, replica set or cluster that runs already);
a ``mongod`` on the PATH, as a replica set of one; ``secantusd-py`` (a wire server on WiredTiger,
in the ``[test]`` extra), always as a process of its own. Each test has a database of its own.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pymongo
import pytest
from pymongo.errors import OperationFailure, PyMongoError

_STARTS_WITHIN = 30.0
# The stand-in takes its time to close its files.
_STOPS_WITHIN = 10.0
_LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")


class MongoServer:
    """``uri`` names no database: :meth:`database` makes one up, and drops it.

    ``owned``: it is this object's process, which a test may kill and start again.
    """

    name: str
    uri: str
    owned = True

    def start(self) -> None:
        """Starts it, or starts it again where it listened before."""
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL, and its end."""
        raise NotImplementedError

    def stop(self) -> None:
        """A gentle end."""
        raise NotImplementedError

    def signal(self, number: int) -> None:
        """SIGSTOP, SIGCONT."""
        raise NotImplementedError

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URI of an empty database."""
        name = f"inorder_test_{secrets.token_hex(6)}"
        yield with_database(self.uri, name)
        with pymongo.MongoClient(self.uri, serverSelectionTimeoutMS=10_000) as client:
            client.drop_database(name)


class Databases:
    """A database for each folder that servers run in.

    Satisfies :class:`vector_server.Databases`.
    """

    def __init__(self, server: MongoServer) -> None:
        self.server = server
        self.owned = server.owned
        self._made: dict[Path, ExitStack] = {}
        self._uris: dict[Path, str] = {}

    def of(self, folder: Path) -> str:
        """The URI of this folder's."""
        if folder not in self._uris:
            self._made[folder] = ExitStack()
            self._uris[folder] = self._made[folder].enter_context(self.server.database())
        return self._uris[folder]

    def drop(self, under: Path | None = None) -> None:
        """Those of the folders in this one; or all."""
        for folder in list(self._uris):
            if under is None or folder.is_relative_to(under):
                del self._uris[folder]
                self._made.pop(folder).close()

    @contextmanager
    def still(self) -> Iterator[None]:
        """The server answers nobody meanwhile; skips the test where it is somebody else's."""
        if not self.owned:
            pytest.skip("it stops the database, and this one is not the tests'")
        self.server.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.server.signal(signal.SIGCONT)


class _Running(MongoServer):
    """Somebody else's, which no test may stop."""

    owned = False

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.name = f"{urlsplit(uri).netloc.rpartition('@')[2]} (INORDER_TEST_MONGODB_URI)"

    def start(self) -> None:
        return None

    def stop(self) -> None:
        return None


class _Process(MongoServer):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._output = folder / "output"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _launch(self) -> None:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            self.kill()

    def _check_alive(self, until: float) -> None:
        if self.process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{self.name} did not start: {self._output.read_text()[-2000:]}")
        time.sleep(0.02)


class _Mongod(_Process):
    def __init__(self, folder: Path, program: str) -> None:
        super().__init__(folder)
        self._program = program
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        self.name = f"mongod {version.stdout.split()[2]}, a replica set of one"
        self.port = _free_port()
        self.uri = f"mongodb://127.0.0.1:{self.port}/?replicaSet=inorder"
        (folder / "data").mkdir()

    def _command(self) -> list[str]:
        where = ["--dbpath", "data", "--bind_ip", "127.0.0.1", "--port", str(self.port)]
        return [self._program, "--replSet", "inorder", *where]

    def start(self) -> None:
        self._launch()
        until = time.monotonic() + _STARTS_WITHIN
        direct = f"mongodb://127.0.0.1:{self.port}/?directConnection=true"
        with pymongo.MongoClient(direct, serverSelectionTimeoutMS=500) as client:
            while True:
                try:
                    if client.admin.command("hello")["isWritablePrimary"]:
                        return
                    member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
                    client.admin.command("replSetInitiate", {"_id": "inorder", "members": [member]})
                except OperationFailure:
                    pass  # it was initiated before, and elects itself
                except PyMongoError:
                    pass
                self._check_alive(until)


class _StandIn(_Process):
    def __init__(self, folder: Path, program: str) -> None:
        super().__init__(folder)
        self._program = program
        self.name = "secantusdb, a stand-in for MongoDB"

    def _command(self) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--storage-path", "data"]
        return [self._program, *where]

    def start(self) -> None:
        before = self._output.stat().st_size if self._output.exists() else 0
        self._launch()
        until = time.monotonic() + _STARTS_WITHIN
        while (found := _LISTENING.search(self._output.read_text()[before:])) is None:
            self._check_alive(until)
        self.port = int(found[1])
        self.uri = f"mongodb://127.0.0.1:{self.port}/"


def mongo_server(folder: Path) -> MongoServer:
    """The server to test against, started. Skips where there is none; in CI that is a failure."""
    if uri := os.environ.get("INORDER_TEST_MONGODB_URI"):
        return _Running(uri)
    return own_mongo_server(folder)


def own_mongo_server(folder: Path) -> MongoServer:
    """One that the test may kill, started; skips where none can be started."""
    beside = Path(sys.executable).with_name("secantusd-py")
    server: MongoServer
    if (program := shutil.which("mongod")) is not None:
        server = _Mongod(folder, program)
    elif (program := shutil.which(beside) or shutil.which("secantusd-py")) is not None:
        server = _StandIn(folder, program)
    elif os.environ.get("CI"):
        pytest.fail("there is no mongod and no secantusd-py: the [test] extra has the latter")
    else:
        pytest.skip("no MongoDB: set INORDER_TEST_MONGODB_URI, or install mongod or secantusdb")
    server.start()
    return server


def with_database(uri: str, name: str) -> str:
    """The URI with this database instead of its own, which stays what a user is looked up in."""
    head, question, options = uri.partition("?")
    scheme, _, rest = head.partition("://")
    hosts, _, database = rest.partition("/")
    if database and "@" in hosts and "authsource" not in options.lower():
        options = "&".join(filter(None, (options, f"authSource={database}")))
        question = "?"
    return f"{scheme}://{hosts}/{name}{question}{options}"


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
