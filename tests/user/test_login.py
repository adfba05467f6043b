"""Nobody in: what a login must not let through, and must not tell."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from frames import RawClient, request
from gates import CONFIG, Gates, Step, gated
from kept import kept

ANN = {"username": "ann", "password": "correct horse"}


async def test_what_came_before_the_login_never_runs(serve, tmp_path: Path) -> None:
    """Neither then nor after it, whether in a frame of its own or in the login's."""
    gates = Gates(tmp_path)
    gates.open("g")
    server = await serve(CONFIG)
    server.add_user("ann", ANN["password"], admin=False)
    async with RawClient(server.url) as client:
        await client.send(gated("g", 1, id="early"))
        wrong = {"type": "hello", "username": "ann", "password": "wrong"}
        await client.send(gated("g", 1, id="earlier"), wrong, gated("g", 1, id="early"))
        codes = [(await client.next()).get("code") for _ in range(4)]
        assert codes == ["unauthenticated"] * 4
        welcome = await client.hello(**ANN)
        assert welcome["accepted"] == 0
        # Whatever went to the journal before is committed before this.
        await client.send(gated("g", 1))
        await client.until_outcome(1)
    sessions = [(s.id, s.user, s.accepted) for s in kept(server).sessions()]
    assert sessions == [(welcome["session"], "ann", 1)]
    assert [row.id for row in kept(server).requests()] == ["r1"]
    assert gates.steps == [Step("begin", 1, 1), Step("end", 1, 1)]


async def test_a_wrong_password(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        await client.register(**ANN)
    async with RawClient(server.url) as client:
        for password in ("correct hors", "correct horse ", "Correct horse", "", "\0", "x" * 73):
            await client.send({"type": "hello", "username": "ann", "password": password})
            answer = await client.next()
            assert (answer["type"], answer.get("code")) == ("error", "unauthenticated")
        assert (await client.hello(**ANN))["user"] == "ann"


async def test_whether_there_is_such_a_user_is_not_told(serve) -> None:
    """The same answer, after the same time."""
    server = await serve({"auth": {"bcrypt_cost": 11}})
    took: dict[str, list[float]] = {"ann": [], "nobody": [], "no such name!": []}
    async with RawClient(server.url) as client:
        await client.register(**ANN)
    for _ in range(3):
        for name, times in took.items():
            async with RawClient(server.url) as client:
                begun = time.perf_counter()
                await client.send({"type": "hello", "username": name, "password": "wrong"})
                answer = await client.next()
                times.append(time.perf_counter() - begun)
                assert answer == {
                    "type": "error",
                    "code": "unauthenticated",
                    "message": "the name or the password is wrong",
                    "retry": False,
                    "of": "hello",
                }
    # Far from it where no hash is computed.
    assert min(map(median, took.values())) > max(map(median, took.values())) / 4, took


async def test_more_than_a_hello_needs(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        await client.send({"type": "register", **ANN, "padding": "x" * 5 * 1024})
        assert await client.next() is None
        assert client.closed[0] == 1009
    assert kept(server).passwords() == {}


async def test_a_token_of_somebody_who_was_revoked(serve) -> None:
    server = await serve()
    async with RawClient(server.url) as client:
        token = (await client.register(**ANN))["token"]
        await client.send(request("echo", 1, seq=1))
        await client.until_outcome(1)
    async with RawClient(server.url) as client:
        assert (await client.hello(token=token))["user"] == "ann"
        revoke = [sys.executable, "-m", "inorder_server", "user", "revoke", "ann"]
        subprocess.run(revoke, cwd=server.folder, check=True, capture_output=True, timeout=30)
        assert await client.until_closed() == (4403, "forbidden")
    async with RawClient(server.url) as client:
        await client.send({"type": "hello", "token": token})
        answer = await client.next()
        assert (answer["type"], answer.get("code")) == ("error", "unauthenticated")
        assert (await client.hello(**ANN))["user"] == "ann", "the password is as good as before"
