"""All the commands under one name."""

from __future__ import annotations

from importlib.metadata import version

import click

from .bench import bench
from .call import call, token
from .config import show_config
from .group import OneLineGroup
from .serve import serve
from .sessions import requests, sessions, verify
from .user import user


@click.group(cls=OneLineGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("inorder"), message="%(prog)s %(version)s")
def inorder() -> None:
    """Every client's requests run one at a time, in order, and none that was accepted is lost."""


for _command in (serve, user, sessions, requests, verify, call, token, bench, show_config):
    inorder.add_command(_command)
