"""The servers of the fault tests: forked, with ``fault_handlers`` and the pipe they tell."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import LEASE
from nursery import Nursery, NurseryServer
from runs import Runs

MODULES = ["fault_handlers", "inorder_server.examples.ledger"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="the one random run to do, in place of the usual")
    parser.addoption("--away", type=float, help="seconds that the store of several nodes is away")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Unknown where this folder was not named on the command line.
    one = metafunc.config.getoption("--seed", default=None)
    for name, usual in (("seed", range(1, 9)), ("fleet_seed", range(1, 5))):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, usual if one is None else [one])


@pytest.fixture
def away(request: pytest.FixtureRequest) -> float:
    """Seconds; without the option some leases."""
    given = request.config.getoption("--away", default=None)
    return 5 * LEASE if given is None else float(given)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


class Place:
    """A server in its folder, and what its handlers told."""

    def __init__(self, server: NurseryServer, runs: Runs) -> None:
        self.server = server
        self.runs = runs


@pytest.fixture
async def place(nursery: Nursery, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Place]]]:
    """``await place({"session": {…}})``: a started server in ``tmp_path``."""
    shutil.copy(Path(__file__).with_name("fault_handlers.py"), tmp_path)
    runs = Runs(tmp_path)
    servers: list[NurseryServer] = []

    async def begin(config: dict[str, dict[str, Any]] | None = None) -> Place:
        config = {"handlers": {"modules": MODULES}, **(config or {})}
        server = NurseryServer(nursery, tmp_path, config)
        servers.append(server)
        await server.start()
        return Place(server, runs)

    yield begin
    for server in servers:
        await server.kill()
    runs.close()
