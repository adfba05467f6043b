"""``inorder call`` and ``inorder token``."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import click

import inorder

from ..config import Config, secret
from ..stores.port import Store
from ..tokens import Tokens
from .group import configured, json_option
from .output import print_json
from .stores import with_store
from .user import password_option, read_password


@click.command()
@click.argument("method")
@click.argument("params", required=False)
@click.option("--url", envvar="INORDER_URL", help="Default: INORDER_URL, or as configured here.")
@click.option("--user", "username", help="Asks for the password. Default: INORDER_TOKEN.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds it may run.")
@password_option
@json_option
@configured
def call(
    config: Config,
    method: str,
    params: str | None,
    url: str | None,
    username: str | None,
    timeout: float | None,
    from_stdin: bool,
    as_json: bool,
) -> None:
    """Send one request, and print its result as JSON.

    PARAMS is JSON; what isn't is taken as a string.
    """
    argument = None if params is None else _params(params)
    token, password = os.environ.get("INORDER_TOKEN"), None
    if username is not None:
        token, password = None, read_password(from_stdin)
    elif not token:
        raise click.UsageError("who are you? Give --user, or set INORDER_TOKEN")

    async def work() -> Any:
        async with inorder.connect(
            url or default_url(config), token=token, username=username, password=password
        ) as session:
            try:
                return await session.submit(method, argument, timeout=timeout)
            except (inorder.Refused, inorder.RequestFailed) as exc:
                failed = exc
        # The session has ended as it should: nobody will come back to it.
        raise failed

    try:
        result = asyncio.run(work())
    except ValueError as exc:  # the URL
        raise click.ClickException(str(exc)) from None
    if as_json:
        print_json(result)
    else:
        click.echo(json.dumps(result, ensure_ascii=False, indent=2))


def default_url(config: Config) -> str:
    """Where the server that is configured here listens, seen from the same machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.server.host, config.server.host)
    return f"ws://{f'[{host}]' if ':' in host else host}:{config.server.port}/ws"


def _params(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        if text.lstrip()[:1] in tuple('[]{}"'):
            raise click.BadParameter(f"not JSON: {exc}.", param_hint="PARAMS") from None
        return text


@click.command()
@click.argument("name")
@json_option
@configured
def token(config: Config, name: str, as_json: bool) -> None:
    """Print a token for the user NAME."""

    async def work(store: Store) -> tuple[str, float] | None:
        user = await store.user(name)
        if user is None:
            return None
        tokens = Tokens(secret(config), config.auth.token_ttl)
        return tokens.issue(name, user.generation), tokens.ttl

    issued = with_store(config, work)
    if issued is None:
        raise click.ClickException(f"{name}: no such user")
    if as_json:
        print_json({"token": issued[0], "expires_in": issued[1]})
    else:
        click.echo(issued[0])
