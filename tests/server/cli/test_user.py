"""``inorder user``: accounts beside a server that may be running."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import bcrypt
import click
import pytest

from inorder_server.cli.user import read_password
from inorder_server.stores.port import Store, User
from inorder_server.stores.sqlite import SqliteStore

T = TypeVar("T")


@pytest.fixture
def ask(folder: Path) -> Callable[[Callable[[Store], Awaitable[T]]], T]:
    """Asks the database itself."""

    def run(question: Callable[[Store], Awaitable[T]]) -> T:
        async def opened() -> T:
            store = SqliteStore(folder / "inorder.db", serving=False)
            await store.open("test")
            try:
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(opened())

    return run


@pytest.fixture
def eve(cli: Any, ask: Any) -> User:
    assert cli("user add eve --password-stdin", stdin="first\n").exit_code == 0
    user: User = ask(lambda store: store.user("eve"))
    return user


def test_add(eve: User, cli: Any, ask: Any) -> None:
    assert (eve.name, eve.admin) == ("eve", False)
    assert eve.generation == eve.created_ms > 1_700_000_000_000
    assert eve.password_hash.startswith(b"$2b$04$")
    assert bcrypt.checkpw(b"first", eve.password_hash)
    result = cli("user add root --admin --password-stdin", stdin="pä ss \r\nsecond line\n")
    assert result.stdout == "root added\n"
    root = ask(lambda store: store.user("root"))
    assert root.admin
    assert bcrypt.checkpw("pä ss ".encode(), root.password_hash)


def test_what_can_not_be_added(eve: User, failed: Any) -> None:
    assert failed("user add eve --password-stdin", stdin="x\n") == "eve: the name is taken"
    assert failed("user add a/b --password-stdin", stdin="x\n", status=2).startswith(
        "user add: Invalid value: a name has 1 to 64 of"
    )
    assert failed("user add bob --password-stdin", stdin="") == (
        "a password has 1 to 72 bytes of UTF-8 and no NUL"
    )
    assert "1 to 72 bytes" in failed("user passwd eve --password-stdin", stdin="x" * 73)
    assert failed("user add bob", status=2).startswith(
        "user add: there is no terminal to ask on: use --password-stdin."
    )


def test_list(eve: User, cli: Any, answer: Any) -> None:
    cli("user add root --admin --password-stdin", stdin="x\n")
    header, *rows = [line.split() for line in cli("user list").stdout.splitlines()]
    assert header == ["name", "admin", "created"]
    assert sorted(row[0] for row in rows) == ["eve", "root"]
    assert next(row for row in rows if row[0] == "root")[1] == "yes"
    found = {user["name"]: user for user in answer("user list")}
    assert found["eve"] == {"name": "eve", "admin": False, "created_ms": eve.created_ms}
    assert found["root"]["admin"] is True


async def _commands(store: Store) -> list[tuple[str, str, str]]:
    return [(one.verb, one.target, one.argument) for one in await store.commands(0)]


def test_passwd(eve: User, cli: Any, ask: Any) -> None:
    result = cli("user passwd eve --password-stdin", stdin="second\n")
    assert result.stdout == "eve: password changed\n"
    user = ask(lambda store: store.user("eve"))
    assert bcrypt.checkpw(b"second", user.password_hash)
    assert user.generation > eve.generation
    assert ask(_commands) == [("revoke", "eve", "password changed")]


def test_revoke(eve: User, cli: Any, ask: Any) -> None:
    assert cli("user revoke eve").stdout == "eve: revoked\n"
    assert ask(lambda store: store.user("eve")).generation > eve.generation
    assert ask(_commands) == [("revoke", "eve", "revoked")]


def test_delete(eve: User, cli: Any, ask: Any, answer: Any) -> None:
    assert cli("user delete eve").stdout == "eve: deleted\n"
    assert ask(lambda store: store.user("eve")) is None
    assert ask(_commands) == [("revoke", "eve", "deleted")]
    assert answer("user list") == []


@pytest.mark.parametrize("line", ["revoke bob", "delete bob", "passwd bob --password-stdin"])
def test_a_user_who_is_not_there(line: str, eve: User, failed: Any, ask: Any) -> None:
    assert failed(f"user {line}", stdin="x\n") == "bob: no such user"
    assert ask(_commands) == []


def test_only_add_makes_a_database(folder: Path, failed: Any) -> None:
    for line in ("list", "revoke eve", "delete eve", "passwd eve --password-stdin"):
        assert failed(f"user {line}", stdin="x\n") == f"{folder / 'inorder.db'}: no such database"
    assert not (folder / "inorder.db").exists()


def test_another_store(folder: Path, cli: Any, answer: Any) -> None:
    line = "user add eve --password-stdin --store sqlite:///other.db"
    assert cli(line, stdin="x\n").exit_code == 0
    assert (folder / "other.db").exists()
    assert len(answer("user list --store sqlite:///other.db")) == 1


def test_beside_a_server(folder: Path, eve: User, cli: Any, answer: Any) -> None:
    server = SqliteStore(folder / "inorder.db")
    asyncio.run(server.open("node"))
    try:
        assert cli("user revoke eve").exit_code == 0
        assert len(answer("user list")) == 1
    finally:
        asyncio.run(server.close())


def test_asked_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def prompt(text: str, **options: Any) -> str:
        asked.append(options)
        return "answer"

    monkeypatch.setattr(click, "prompt", prompt)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert read_password(False, confirm=True) == "answer"
    assert asked == [{"hide_input": True, "confirmation_prompt": True, "err": True}]
