"""The store, opened beside a server that may be running."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from ..config import Config, sqlite_path
from ..stores.port import Store

_T = TypeVar("_T")


def with_store(config: Config, work: Callable[[Store], Awaitable[_T]], *, make: bool = False) -> _T:
    """What ``work`` returns. A database that isn't there is an error, unless ``make``."""
    from ..app import make_store  # the server is only loaded where it is needed

    if not make and config.store.uri.startswith("sqlite:"):
        database = sqlite_path(config)
        if not database.exists():
            raise click.ClickException(f"{database}: no such database")

    async def opened() -> _T:
        store = make_store(config, serving=False)
        await store.open(f"cli-{secrets.token_hex(8)}")
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(opened())
