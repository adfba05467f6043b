"""``inorder config``: the configuration, checked, secrets masked."""

from __future__ import annotations

import json
from typing import Any

import click

from ..config import Config, masked, secret_file
from .group import configured, json_option
from .output import print_json


@click.command("config")
@json_option
@configured
def show_config(config: Config, as_json: bool) -> None:
    """Check the configuration from all its sources, and print it as TOML."""
    sections = masked(config)
    kept = secret_file(config)
    hidden = {
        "SESSION_SECRET": "given" if kept is None else f"kept in {kept}",
        "INORDER_METRICS_TOKEN": "given" if config.secrets.metrics_token else "not set",
    }
    file = None if config.file is None else str(config.file)
    if as_json:
        print_json({"file": file, "config": sections, "secrets": hidden})
        return
    click.echo(f"# {file or 'no config.toml: the defaults'}")
    for section, values in sections.items():
        click.echo(f"\n[{section}]")
        for key, value in values.items():
            click.echo(f"{key} = {_toml(value)}")
    click.echo()
    for name, state in hidden.items():
        click.echo(f"# {name}: {state}")


def _toml(value: Any) -> str:
    if isinstance(value, float):
        return f"{int(value)}" if value.is_integer() else f"{value!r}"
    # The strings, lists and booleans of JSON are those of TOML.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
