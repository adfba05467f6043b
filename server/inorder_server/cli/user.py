"""``inorder user``: accounts, beside a server that may be running.

Who was revoked, deleted or given another password is cut off by the nodes when they read the
command that is left for them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable

import click

from ..auth import new_user
from ..config import Config
from ..passwords import Passwords, broken_name_rule, broken_password_rule
from ..stores.port import Store, User
from .group import configured, json_option
from .output import print_json, print_table, when
from .stores import with_store

password_option = click.option(
    "--password-stdin", "from_stdin", is_flag=True, help="Read the password's line from stdin."
)


@click.group()
def user() -> None:
    """Accounts: add, passwd, list, revoke, delete."""


@user.command()
@click.argument("name")
@click.option("--admin", is_flag=True, help="May call methods that are for admins.")
@password_option
@configured
def add(config: Config, name: str, admin: bool, from_stdin: bool) -> None:
    """Make an account."""
    if broken := broken_name_rule(name):
        raise click.BadParameter(broken)
    password = _new_password(from_stdin)

    async def work(store: Store) -> bool:
        hashed = await _hash(config, password)
        return await store.add_user(new_user(name, hashed, admin=admin, at=time.time()))

    if not with_store(config, work, make=True):
        raise click.ClickException(f"{name}: the name is taken")
    click.echo(f"{name} added")


@user.command()
@click.argument("name")
@password_option
@configured
def passwd(config: Config, name: str, from_stdin: bool) -> None:
    """Give another password; tokens and connections end."""
    password = _new_password(from_stdin)

    async def change(store: Store) -> bool:
        return await store.set_password(name, await _hash(config, password))

    _change(config, name, change, "password changed")


@user.command("list")
@json_option
@configured
def list_(config: Config, as_json: bool) -> None:
    """Who has an account."""

    async def work(store: Store) -> list[User]:
        return await store.users()

    users = with_store(config, work)
    if as_json:
        print_json([{"name": u.name, "admin": u.admin, "created_ms": u.created_ms} for u in users])
    else:
        rows = ((u.name, "yes" if u.admin else "", when(u.created_ms)) for u in users)
        print_table(("name", "admin", "created"), rows)


@user.command()
@click.argument("name")
@configured
def revoke(config: Config, name: str) -> None:
    """End a user's tokens and connections; the password stays."""

    async def change(store: Store) -> bool:
        return await store.revoke(name)

    _change(config, name, change, "revoked")


@user.command()
@click.argument("name")
@configured
def delete(config: Config, name: str) -> None:
    """Delete an account; tokens and connections end."""

    async def change(store: Store) -> bool:
        return await store.delete_user(name)

    _change(config, name, change, "deleted")


def _change(
    config: Config, name: str, change: Callable[[Store], Awaitable[bool]], done: str
) -> None:
    async def work(store: Store) -> bool:
        if not await change(store):
            return False
        await store.post("revoke", name, done, int(time.time() * 1000))
        return True

    if not with_store(config, work):
        raise click.ClickException(f"{name}: no such user")
    click.echo(f"{name}: {done}")


async def _hash(config: Config, password: str) -> bytes:
    passwords = Passwords(config.auth.bcrypt_cost)
    try:
        return await passwords.hash(password)
    finally:
        passwords.close()


def _new_password(from_stdin: bool) -> str:
    password = read_password(from_stdin, confirm=True)
    if broken := broken_password_rule(password):
        raise click.ClickException(broken)
    return password


def read_password(from_stdin: bool, *, confirm: bool = False) -> str:
    """The first line of stdin, or asked for on a terminal."""
    if from_stdin:
        return sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: use --password-stdin")
    answer: str = click.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True)
    return answer
