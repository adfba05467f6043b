"""``inorder serve``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from .. import logs
from ..config import load
from .group import config_option, log_level_option


@click.command()
@config_option
@click.option("--host", help="Where to listen.")
@click.option("--port", type=int, help="0: any that is free.")
@click.option("--store", metavar="URI", help="sqlite:///FILE or mongodb://HOST/DATABASE.")
@click.option("--handlers", metavar="MODULE", multiple=True, help="May be given again.")
@log_level_option
@click.option("--log-format", type=click.Choice(["auto", "text", "json"]))
def serve(path: Path | None, **flags: Any) -> int:
    """Run the server."""
    config = load(path, os.environ, flags)
    logs.setup(config.log.level, config.log.format)
    from ..app import run

    return run(config)
