"""Who comes in: the same answer for every wrong login, limits that hold, tokens that end."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable

import pytest
from msgspec.structs import replace

from inorder_server.auth import (
    MOST_WAITING,
    PER_ADDRESS,
    PER_NAME,
    Auth,
    Identity,
    network,
    new_user,
)
from inorder_server.refusal import Refusal
from inorder_server.stores.port import StoreUnavailable, User

HERE = "127.0.0.1"


class Users:
    """The store's users, in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, User] = {}
        self.asked: list[str] = []
        self.away = False

    def put(self, name: str, password: str = "right", *, admin: bool = False) -> User:
        user = User(name, password.encode(), 1, admin, 0)
        self.rows[name] = user
        return user

    async def user(self, name: str) -> User | None:
        self.asked.append(name)
        if self.away:
            raise StoreUnavailable
        return self.rows.get(name)

    async def add_user(self, user: User) -> bool:
        if self.away:
            raise StoreUnavailable
        return self.rows.setdefault(user.name, user) is user


class Pool:
    """Passwords whose hash is the password. ``checked`` is what bcrypt would have been asked;
    while ``gate`` is closed nothing is answered."""

    def __init__(self) -> None:
        self.checked: list[tuple[str, bytes | None]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.overloaded = False

    async def hash(self, password: str) -> bytes:
        await self.gate.wait()
        return password.encode()

    async def check(self, password: str, hashed: bytes | None) -> bool:
        if self.overloaded:
            raise Refusal("overloaded", "full", after=1)
        self.checked.append((password, hashed))
        await self.gate.wait()
        return hashed is not None and password.encode() == hashed


class Clock:
    def __init__(self) -> None:
        self.at = 1_700_000_000.0

    def __call__(self) -> float:
        return self.at


class World:
    def __init__(self, registration: str = "auto") -> None:
        self.users = Users()
        self.pool = Pool()
        self.clock = Clock()
        self.auth = Auth(
            self.users,
            secret=b"a secret for tests",
            token_ttl=60,
            registration=registration,  # type: ignore[arg-type]
            passwords=self.pool,
            clock=self.clock,
            now=self.clock,
        )

    async def fail(self, name: str, address: str = HERE, password: str = "wrong") -> Refusal:
        return await refusal(self.auth.by_password(name, password, address))

    async def register(
        self, name: str, password: str = "pw", address: str = HERE, *, forwarded: bool = False
    ) -> Identity:
        return await self.auth.register(name, password, address=address, forwarded=forwarded)


@pytest.fixture
def world() -> World:
    return World()


async def refusal(attempt: Awaitable[object]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await attempt
    return caught.value


async def turns() -> None:
    """Lets everything that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


# ---- passwords


async def test_the_right_password(world: World) -> None:
    world.users.put("eve", admin=True)
    assert await world.auth.by_password("eve", "right", HERE) == Identity("eve", True, 1)


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("eve", "wrong"),
        ("nobody", "right"),
        ("eve", ""),
        ("eve", "x" * 73),
        ("eve", "a\0"),
        ("", ""),
        ("no name", "right"),
        ("x" * 3000, "right"),
    ],
)
async def test_every_wrong_login_is_the_same_answer_after_the_same_work(
    name: str, password: str, world: World
) -> None:
    world.users.put("eve")
    refused = await world.fail(name, password=password)
    assert (refused.code, refused.message, refused.after, refused.details) == (
        "unauthenticated",
        "the name or the password is wrong",
        None,
        None,
    )
    hashed = b"right" if name == "eve" else None
    assert world.pool.checked == [(password, hashed)]


@pytest.mark.parametrize("change", ["deleted", "changed"])
async def test_a_user_who_changes_while_bcrypt_works(change: str, world: World) -> None:
    user = world.users.put("eve")
    world.pool.gate.clear()
    task = asyncio.create_task(world.auth.by_password("eve", "right", HERE))
    await turns()
    if change == "deleted":
        del world.users.rows["eve"]
    else:
        world.users.rows["eve"] = replace(user, password_hash=b"new", generation=2)
    world.pool.gate.set()
    assert (await refusal(task)).code == "unauthenticated"


async def test_a_revocation_while_bcrypt_works_gives_the_new_generation(world: World) -> None:
    user = world.users.put("eve")
    world.pool.gate.clear()
    task = asyncio.create_task(world.auth.by_password("eve", "right", HERE))
    await turns()
    world.users.rows["eve"] = replace(user, generation=2)
    world.pool.gate.set()
    assert (await task).generation == 2


async def test_the_store_is_away(world: World) -> None:
    world.users.put("eve")
    token, _ = world.auth.issue(Identity("eve", False, 1))
    world.users.away = True
    for attempt in (
        world.auth.by_password("eve", "right", HERE),
        world.auth.by_token(token),
        world.register("bob"),
    ):
        refused = await refusal(attempt)
        assert (refused.code, refused.after) == ("store_unavailable", 1)


async def test_the_store_goes_away_in_the_middle_of_a_registration(world: World) -> None:
    world.pool.gate.clear()
    task = asyncio.create_task(world.register("bob"))
    await turns()
    world.users.away = True
    world.pool.gate.set()
    assert (await refusal(task)).code == "store_unavailable"


# ---- limits on failures


async def test_a_name_is_limited_from_all_addresses(world: World) -> None:
    world.users.put("eve")
    for i in range(PER_NAME):
        assert (await world.fail("eve", f"10.0.0.{i}")).code == "unauthenticated"
        world.clock.at += 1
    checks = len(world.pool.checked)
    refused = await world.fail("eve", "10.0.1.1", "right")
    assert (refused.code, refused.after) == ("rate_limited", 50)
    assert len(world.pool.checked) == checks  # the password was not looked at
    assert await world.auth.by_password(world.users.put("bob").name, "right", "10.0.0.1")
    world.clock.at += 50
    assert await world.auth.by_password("eve", "right", "10.0.1.1")


async def test_an_address_is_limited_over_all_names(world: World) -> None:
    for i in range(PER_ADDRESS):
        assert (await world.fail(f"user{i}")).code == "unauthenticated"
    world.users.put("eve")
    assert (await world.fail("eve", HERE, "right")).code == "rate_limited"
    assert await world.auth.by_password("eve", "right", "10.0.0.1")


async def test_names_that_can_not_be_count_for_the_address_only(world: World) -> None:
    for i in range(PER_ADDRESS):
        assert (await world.fail("no name", f"10.0.0.{i}")).code == "unauthenticated"
    assert (await world.fail("no name", HERE)).code == "unauthenticated"
    assert len(world.auth._by_name) == 0


async def test_an_ipv6_network_is_one_address(world: World) -> None:
    for i in range(PER_ADDRESS):
        assert (await world.fail(f"user{i}", f"2001:db8::{i:x}")).code == "unauthenticated"
    assert (await world.fail("more", "2001:db8::ffff")).code == "rate_limited"
    assert (await world.fail("more", "2001:db8:0:1::1")).code == "unauthenticated"


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("a socket", "a socket"),
    ],
)
def test_network(address: str, counted: str) -> None:
    assert network(address) == counted


async def test_a_success_clears_the_name_but_not_the_address(world: World) -> None:
    world.users.put("eve")
    for _ in range(PER_NAME - 1):
        await world.fail("eve")
    assert await world.auth.by_password("eve", "right", HERE)
    for _ in range(PER_NAME - 1):
        await world.fail("eve")
    assert await world.auth.by_password("eve", "right", HERE)
    for code in ("unauthenticated", "unauthenticated", "rate_limited"):
        assert (await world.fail("eve")).code == code


async def test_a_hundred_guesses_at_once_are_ten_guesses(world: World) -> None:
    world.users.put("eve")
    world.pool.gate.clear()
    tasks = [asyncio.create_task(world.fail("eve", f"10.0.0.{i}")) for i in range(100)]
    await turns()
    assert len(world.pool.checked) == PER_NAME
    world.pool.gate.set()
    codes = [refused.code for refused in await asyncio.gather(*tasks)]
    assert codes.count("unauthenticated") == PER_NAME
    assert codes.count("rate_limited") == 100 - PER_NAME
    assert len(world.pool.checked) == PER_NAME


async def test_a_hundred_good_logins_at_once_are_all_good(world: World) -> None:
    world.users.put("eve")
    world.pool.gate.clear()
    tasks = [asyncio.create_task(world.auth.by_password("eve", "right", HERE)) for _ in range(100)]
    await turns()
    assert len(world.pool.checked) == PER_NAME
    world.pool.gate.set()
    assert len(await asyncio.gather(*tasks)) == 100
    assert len(world.auth._by_name) == len(world.auth._by_address) == 0


async def test_only_so_many_wait_for_their_turn(world: World) -> None:
    world.users.put("eve")
    world.pool.gate.clear()
    login = world.auth.by_password
    tasks = [
        asyncio.create_task(login("eve", "right", HERE)) for _ in range(PER_NAME + MOST_WAITING)
    ]
    await turns()
    assert (await world.fail("eve", HERE, "right")).code == "overloaded"
    world.pool.gate.set()
    await asyncio.gather(*tasks)


async def test_what_says_nothing_of_the_password_counts_for_nothing(world: World) -> None:
    world.users.put("eve")
    world.pool.overloaded = True
    for _ in range(PER_ADDRESS + 1):
        assert (await world.fail("eve")).code == "overloaded"
    world.pool.overloaded = False
    world.users.away = True
    for _ in range(PER_ADDRESS + 1):
        assert (await world.fail("eve")).code == "store_unavailable"
    world.users.away = False
    world.pool.gate.clear()
    for _ in range(PER_ADDRESS + 1):
        task = asyncio.create_task(world.auth.by_password("eve", "wrong", HERE))
        await turns()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    world.pool.gate.set()
    assert await world.auth.by_password("eve", "right", HERE)


async def test_one_that_waits_and_goes_leaves_its_place(world: World) -> None:
    world.users.put("eve")
    world.pool.gate.clear()
    login = world.auth.by_password
    tasks = [asyncio.create_task(login("eve", "right", HERE)) for _ in range(PER_NAME + 1)]
    await turns()
    tasks[-1].cancel()
    await asyncio.gather(tasks[-1], return_exceptions=True)
    assert world.auth._waiting == 0
    world.pool.gate.set()
    await asyncio.gather(*tasks[:-1])


# ---- tokens


async def test_a_token_and_its_end(world: World) -> None:
    world.users.put("eve", admin=True)
    token, expires_in = world.auth.issue(await world.auth.by_password("eve", "right", HERE))
    assert expires_in == 60
    assert await world.auth.by_token(token) == Identity("eve", True, 1)
    world.clock.at += 61
    assert (await refusal(world.auth.by_token(token))).code == "token_expired"


@pytest.mark.parametrize("change", ["deleted", "revoked", "made again"])
async def test_a_token_of_one_who_is_not_that_user_any_more(change: str, world: World) -> None:
    await world.register("eve")
    token, _ = world.auth.issue(await world.auth.by_password("eve", "pw", HERE))
    user = world.users.rows.pop("eve")
    if change == "revoked":
        world.users.rows["eve"] = replace(user, generation=user.generation + 1)
    elif change == "made again":
        world.clock.at += 1
        await world.register("eve")
    refused = await refusal(world.auth.by_token(token))
    assert (refused.code, refused.message) == (
        "unauthenticated",
        "the token is not valid: log in again",
    )


async def test_confirm_says_how_the_user_stands_now(world: World) -> None:
    user = world.users.put("eve")
    identity = Identity("eve", False, 1)
    world.users.rows["eve"] = replace(user, admin=True)
    assert await world.auth.confirm(identity) == Identity("eve", True, 1)
    del world.users.rows["eve"]
    assert (await refusal(world.auth.confirm(identity))).code == "unauthenticated"


# ---- the Authorization header


def basic(text: bytes) -> str:
    return "Basic " + base64.b64encode(text).decode()


async def test_headers(world: World) -> None:
    world.users.put("eve", "pä:ss")
    eve = Identity("eve", False, 1)
    token, _ = world.auth.issue(eve)
    for header in (f"Bearer {token}", f"bearer  {token} ", basic("eve:pä:ss".encode())):
        assert await world.auth.by_header(header, HERE) == eve


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic !!!",
        "Basic é",
        basic(b"\xff:x"),
        basic(b"eve"),
        basic(b"eve:wrong"),
        "Bearer",
        "Bearer x",
        "Digest x",
    ],
)
async def test_headers_that_do_not_do(header: str, world: World) -> None:
    world.users.put("eve")
    assert (await refusal(world.auth.by_header(header, HERE))).code == "unauthenticated"


async def test_failed_basic_logins_count(world: World) -> None:
    for _ in range(PER_NAME):
        await refusal(world.auth.by_header(basic(b"eve:wrong"), HERE))
    refused = await refusal(world.auth.by_header(basic(b"eve:right"), HERE))
    assert refused.code == "rate_limited"


# ---- registration


async def test_register(world: World) -> None:
    identity = await world.register("bob", "secret")
    user = world.users.rows["bob"]
    assert identity == Identity("bob", False, user.generation)
    assert (user.admin, user.created_ms) == (False, 1_700_000_000_000)
    assert await world.auth.by_password("bob", "secret", HERE) == identity


@pytest.mark.parametrize(
    ("registration", "address", "forwarded", "is_open"),
    [
        ("open", "10.0.0.1", True, True),
        ("closed", HERE, False, False),
        ("auto", HERE, False, True),
        ("auto", "127.9.9.9", False, True),
        ("auto", "::1", False, True),
        ("auto", "::ffff:127.0.0.1", False, True),
        ("auto", HERE, True, False),
        ("auto", "10.0.0.1", False, False),
        ("auto", "::ffff:10.0.0.1", False, False),
        ("auto", "", False, False),
    ],
)
async def test_where_registration_is_open(
    registration: str, address: str, forwarded: bool, is_open: bool
) -> None:
    world = World(registration)
    assert world.auth.registration_open(address, forwarded) is is_open
    if not is_open:
        refused = await refusal(world.register("bob", "pw", address, forwarded=forwarded))
        assert refused.code == "forbidden"
        assert not world.users.rows
        assert not world.users.asked


@pytest.mark.parametrize(
    ("name", "password", "field"), [("no name", "pw", "username"), ("bob", "x" * 73, "password")]
)
async def test_rules(name: str, password: str, field: str, world: World) -> None:
    refused = await refusal(world.register(name, password))
    assert (refused.code, refused.details) == ("invalid_params", {"field": field})


async def test_a_name_that_is_taken(world: World) -> None:
    world.users.put("eve")
    assert (await refusal(world.register("eve"))).code == "name_taken"


async def test_two_that_want_the_same_name_at_once(world: World) -> None:
    world.pool.gate.clear()
    tasks = [asyncio.create_task(world.register("bob")) for _ in range(2)]
    await turns()
    world.pool.gate.set()
    first, second = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, Identity)
    assert isinstance(second, Refusal)
    assert second.code == "name_taken"


async def test_asking_for_names_is_limited_and_registering_is_not(world: World) -> None:
    for i in range(PER_ADDRESS * 2):
        await world.register(f"user{i}")
    for i in range(PER_ADDRESS):
        assert (await refusal(world.register(f"user{i}"))).code == "name_taken"
    assert (await refusal(world.register("another"))).code == "rate_limited"


def test_generations_begin_at_the_time() -> None:
    assert new_user("eve", b"h", admin=True, at=1.5) == User("eve", b"h", 1500, True, 1500)
