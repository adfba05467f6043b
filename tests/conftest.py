"""What the run says at its end, beside pytest's own words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import vector_server
from hypothesis import settings
from mongo_server import Databases, MongoServer, mongo_server

# ``--hypothesis-profile=long``: as long as somebody is willing to wait.
settings.register_profile("long", max_examples=20_000, deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--store",
        choices=("sqlite", "mongodb"),
        default="sqlite",
        help="where servers that run as processes keep everything",
    )


@pytest.fixture(scope="session", autouse=True)
def databases(request: pytest.FixtureRequest) -> Iterator[Databases | None]:
    """``--store mongodb``: a database for each folder that servers run in."""
    if request.config.getoption("--store") == "sqlite":
        yield None
        return
    made = Databases(request.getfixturevalue("mongodb"))
    vector_server.databases = made
    yield made
    vector_server.databases = None
    made.drop()


@pytest.fixture
def on_mongodb(databases: Databases | None) -> bool:
    """Where fewer are as good as many: a stand-in for MongoDB is slow."""
    return databases is not None


@pytest.fixture(autouse=True)
def database_of_the_test(
    request: pytest.FixtureRequest, databases: Databases | None
) -> Iterator[None]:
    """What its servers kept goes with the test; what several share stays for the others."""
    if databases is None:
        yield
        return
    if of_sqlite := request.node.get_closest_marker("sqlite"):
        pytest.skip(of_sqlite.args[0])
    request.node.user_properties.append(("mongodb", databases.server.name))
    folder: Path = request.getfixturevalue("tmp_path")
    yield
    databases.drop(folder)


@pytest.fixture(scope="session")
def mongodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    """The MongoDB of this run; started when the first test asks for it."""
    server = mongo_server(tmp_path_factory.mktemp("mongodb"))
    yield server
    server.stop()


@pytest.fixture
def mongo_uri(mongodb: MongoServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URI of an empty database on it."""
    request.node.user_properties.append(("mongodb", mongodb.name))
    with mongodb.database() as uri:
        yield uri


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which MongoDB it was, what the model explored, and which test each sabotage turned red."""
    reports = terminalreporter.stats.get("passed", [])
    for used in sorted(
        {str(v) for r in reports for name, v in r.user_properties if name == "mongodb"}
    ):
        terminalreporter.write_line(f"MongoDB: {used}")
    explored = [value for r in reports for name, value in r.user_properties if name == "explored"]
    if explored:
        terminalreporter.section("what the model of ownership explored")
        for text in explored:
            terminalreporter.write_line(str(text))
    red = [value for r in reports for name, value in r.user_properties if name == "red"]
    if red:
        terminalreporter.section("sabotage that was caught")
        for text in sorted(red):
            terminalreporter.write_line(text)
