"""Errors as one line and an exit status, and the options that all commands have."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import click

from inorder.errors import InorderError

from .. import logs
from ..config import Config, ConfigError, load
from ..handlers.api import HandlerError
from ..refusal import Refusal
from ..stores.port import StoreError, StoreUnavailable

_P = ParamSpec("_P")
_T = TypeVar("_T")

LEVELS = click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False)
_EXPECTED = (
    ConfigError,
    HandlerError,
    InorderError,
    OSError,
    Refusal,
    StoreError,
    StoreUnavailable,
)
_DEBUG = "inorder.debug"


class OneLineGroup(click.Group):
    """The top: whatever goes wrong below ends here. A command may return its exit status."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        # Shared with the contexts below, which are gone when an error arrives here.
        state: dict[str, bool] = {}
        try:
            status = super().main(*args, **kwargs | {"standalone_mode": False, "obj": state})
        except click.exceptions.NoArgsIsHelpError as exc:
            exc.show()
            sys.exit(2)
        except click.ClickException as exc:
            _complain(_click_text(exc), exc.exit_code)
        except click.Abort:
            _complain("stopped", 130)
        except _EXPECTED as exc:
            _trace_if(state)
            _complain(str(exc) or type(exc).__name__, 1)
        except Exception as exc:
            _trace_if(state)
            _complain(f"internal error (--log-level DEBUG says more): {exc!r}", 1)
        sys.exit(status if isinstance(status, int) else 0)


def _click_text(exc: click.ClickException) -> str:
    text = exc.format_message()
    context = exc.ctx if isinstance(exc, click.UsageError) else None
    if context is None:
        return text
    path = context.command_path.removeprefix("inorder").strip()
    stop = "" if text.endswith((".", "?", ")")) else "."
    return f"{path + ': ' if path else ''}{text}{stop} Try '{context.command_path} --help'."


def _trace_if(state: dict[str, bool]) -> None:
    if state.get(_DEBUG):
        traceback.print_exc()


def _complain(text: str, status: int) -> NoReturn:
    line = logs.one_line(" ".join(text.split()))
    click.echo(f"inorder: {line}", err=True)
    sys.exit(status)


# ---- options


def config_option(command: Callable[_P, _T]) -> Callable[_P, _T]:
    """``--config``, as ``path``."""
    return click.option(
        "--config",
        "path",
        type=click.Path(path_type=Path),
        help="The configuration (default: ./config.toml where there is one).",
    )(command)


def log_level_option(command: Callable[_P, _T]) -> Callable[_P, _T]:
    """``--log-level``; DEBUG also shows the traceback of an error."""

    def note(ctx: click.Context, _: click.Parameter, value: str | None) -> str | None:
        ctx.ensure_object(dict)[_DEBUG] = value == "DEBUG"
        return value

    return click.option("--log-level", type=LEVELS, callback=note, help="What is logged.")(command)


def configured(command: Callable[Concatenate[Config, _P], _T]) -> Callable[..., _T]:
    """The options of a command that reads the configuration; it gets it as its first argument."""

    @config_option
    @log_level_option
    @click.option("--store", metavar="URI", help="The store, instead of the configuration's.")
    @functools.wraps(command)
    def run(
        path: Path | None,
        log_level: str | None,
        store: str | None,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        logs.setup(log_level or "WARNING")
        return command(load(path, os.environ, {"store": store}), *args, **kwargs)

    return run


json_option = click.option("--json", "as_json", is_flag=True, help="JSON, for machines.")
