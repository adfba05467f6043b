"""Passwords: the rules, the same work for every wrong login, a pool with an end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import bcrypt
import pytest

from inorder_server.passwords import Passwords, broken_name_rule, broken_password_rule
from inorder_server.refusal import Refusal

COST = 4


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    pool = Passwords(COST)
    yield pool
    pool.close()


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The cost of every check that bcrypt makes."""
    made: list[int] = []
    check = bcrypt.checkpw

    def counted(password: bytes, hashed: bytes) -> bool:
        made.append(int(hashed[4:6]))
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    return made


@pytest.mark.parametrize("name", ["a", "A9", "eve@example.org", "a._@+-", "x" * 64])
def test_names(name: str) -> None:
    assert broken_name_rule(name) is None


@pytest.mark.parametrize(
    "name", ["", ".a", "-a", "a b", "a\n", "é", "٣", "x" * 65, "a/b", "a\0", "\ud800"]
)
def test_names_that_are_none(name: str) -> None:
    assert "begins with a letter or a digit" in (broken_name_rule(name) or "")


@pytest.mark.parametrize("password", ["x", " ", "é" * 36, "x" * 72, "\n"])
def test_password_rules(password: str) -> None:
    assert broken_password_rule(password) is None


@pytest.mark.parametrize("password", ["", "x" * 73, "é" * 37, "a\0b", "\ud800"])
async def test_passwords_that_are_none(password: str, passwords: Passwords) -> None:
    assert "1 to 72 bytes" in (broken_password_rule(password) or "")
    with pytest.raises(ValueError, match="breaks the rules"):
        await passwords.hash(password)


async def test_hash_and_check(passwords: Passwords) -> None:
    hashed = await passwords.hash("pässword")
    assert hashed.startswith(b"$2b$04$")
    assert await passwords.check("pässword", hashed)
    assert not await passwords.check("password", hashed)


@pytest.mark.parametrize("password", ["right", "wrong", "", "x" * 73, "right\0", "\ud800"])
@pytest.mark.parametrize("known", [True, False])
async def test_every_login_costs_one_check_of_the_same_cost(
    password: str, known: bool, passwords: Passwords, costs: list[int]
) -> None:
    hashed = await passwords.hash("right") if known else None
    right = await passwords.check(password, hashed)
    assert right == (known and password == "right")
    assert costs == [COST]


async def test_a_hash_of_a_lower_cost_costs_as_much_when_it_is_wrong(costs: list[int]) -> None:
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(4))
    passwords = Passwords(7)
    assert not await passwords.check("wrong", hashed)
    assert sum(2**cost for cost in costs) == 2**7
    costs.clear()
    assert await passwords.check("right", hashed)
    passwords.close()


async def test_a_hash_that_is_none_is_an_error_not_a_login(passwords: Passwords) -> None:
    with pytest.raises(ValueError, match="salt"):
        await passwords.check("x", b"nonsense")


class Gate:
    """Holds bcrypt until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.running = 0

        def held(password: bytes, hashed: bytes) -> bool:
            self.running += 1
            assert self.open.wait(20)
            return True

        monkeypatch.setattr(bcrypt, "checkpw", held)


async def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    passwords = Passwords(COST, threads=1, waiting=2)
    tasks = [asyncio.create_task(passwords.check("x", b"h")) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Refusal) as caught:
        await passwords.check("x", b"h")
    assert (caught.value.code, caught.value.after) == ("overloaded", 1)
    # One that waits and whose client goes makes room at once.
    tasks[2].cancel()
    await asyncio.gather(tasks[2], return_exceptions=True)
    tasks[2] = asyncio.create_task(passwords.check("x", b"h"))
    await asyncio.sleep(0)
    gate.open.set()
    assert await asyncio.gather(*tasks) == [True] * 3
    assert await passwords.check("x", b"h")
    passwords.close()


async def test_the_loop_goes_on_while_bcrypt_works(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    passwords = Passwords(COST, threads=1)
    task = asyncio.create_task(passwords.check("x", b"h"))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not task.done()
    gate.open.set()
    assert await task
    passwords.close()


async def test_closed() -> None:
    passwords = Passwords(COST, threads=1, waiting=0)
    passwords.close()
    for _ in range(2):
        with pytest.raises(Refusal) as caught:
            await passwords.check("x", None)
        assert caught.value.code == "draining"
