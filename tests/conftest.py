"""What the run says at its end, beside pytest's own words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from mongo_server import MongoServer, mongo_server

# ``--hypothesis-profile=long``: as long as somebody is willing to wait.
settings.register_profile("long", max_examples=20_000, deadline=None)


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
    """Which MongoDB it was, and which test each sabotage turned red."""
    reports = terminalreporter.stats.get("passed", [])
    for used in sorted(
        {str(v) for r in reports for name, v in r.user_properties if name == "mongodb"}
    ):
        terminalreporter.write_line(f"MongoDB: {used}")
    red = [value for r in reports for name, value in r.user_properties if name == "red"]
    if red:
        terminalreporter.section("sabotage that was caught")
        for text in sorted(red):
            terminalreporter.write_line(text)
