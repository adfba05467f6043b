"""A server that can be made to misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from puppet import Puppet, started, url_of


@pytest.fixture
async def puppet() -> AsyncIterator[Puppet]:
    """A started one."""
    puppet = Puppet()
    async with started(puppet.serve) as server:
        puppet.url = url_of(server)
        yield puppet
