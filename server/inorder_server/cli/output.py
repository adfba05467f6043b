"""Tables for people, JSON for machines."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..logs import one_line

# A pipe has no width, and a cut id is worth nothing.
_WIDE = 100_000


def print_json(value: Any) -> None:
    """One line."""
    click.echo(msgspec.json.encode(value))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """As wide as need be where it isn't a terminal; long cells are folded where it is."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column, name in zip(table.columns, columns, strict=True):
        column.overflow = "fold"
        column.no_wrap = name in ("session", "when")
    for row in rows:
        table.add_row(*(Text(one_line("" if cell is None else str(cell))) for cell in row))
    out = sys.stdout
    Console(file=out, width=None if out.isatty() else _WIDE).print(table)


def when(at_ms: int | None) -> str:
    """A time of the store, for people (UTC)."""
    if at_ms is None:
        return ""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
