"""One node on MongoDB: everything that it and the command line do, with no SQLite file in use."""

from __future__ import annotations

import asyncio
import json

import pytest
from frames import RawClient, request
from node_processes import coming_back

import inorder

pytestmark = pytest.mark.slow


async def test_a_client_and_the_command_line(nodes) -> None:
    node = await nodes.start()
    nodes.command("user", "add", "eve", "--password-stdin", typed="a password\n")
    token = nodes.command("token", "eve").strip()
    async with inorder.connect(node.url, token=token) as session:
        results = await asyncio.gather(*(session.request("record", n=n) for n in range(100)))
        assert results == list(range(100))
        id = session.state.session
        await session.submit("echo", {"n": 1})
    listed = json.loads(nodes.command("sessions", "--json"))
    assert [(s["id"], s["state"], s["done"]) for s in listed] == [(id, "ended", 101)]
    assert json.loads(nodes.command("verify", "--json"))["findings"] == []
    assert "eve" in nodes.command("user", "list")
    runs = [line.split() for line in (nodes.folder / "runs").read_text().splitlines()]
    assert [int(seq) for _, seq, _, _ in runs] == list(range(1, 101))
    assert not list(nodes.folder.glob("*.db*"))


async def test_what_was_accepted_survives_a_kill(nodes) -> None:
    node = await nodes.start()
    async with RawClient(node.url) as client:
        welcome = await client.register("ann", "a password")
        await client.send(*(request("record", {"n": n}, seq=n, id=f"r{n}") for n in range(1, 201)))
        await client.until_outcome(20)
        await node.kill()
    accepted = max(m["seq"] for m in client.seen if m["type"] in ("accepted", "result"))
    await node.start()
    listed = json.loads(nodes.command("requests", "list", welcome["session"], "--json"))
    assert [r["seq"] for r in listed][:accepted] == list(range(1, accepted + 1))
    again = {"token": welcome["token"], "session": welcome["session"], "seq": 20}
    async with coming_back(node.url, **again, accepted=accepted) as (client, back):
        assert back["resumed"]
        assert back["accepted"] >= accepted
        await client.until_outcome(back["accepted"])
        assert [o["seq"] for o in client.outcomes] == list(range(21, back["accepted"] + 1))
        receipt = await client.bye()
    assert (receipt["accepted"], receipt["verified"]) == (back["accepted"], True)


async def test_a_revoked_user_is_cut_off(nodes) -> None:
    first, second = await nodes.start(), await nodes.start()
    nodes.command("user", "add", "eve", "--password-stdin", typed="a password\n")
    token = nodes.command("token", "eve").strip()
    async with RawClient(first.url) as one, RawClient(second.url) as other:
        await one.hello(token=token)
        await other.hello(token=token)
        nodes.command("user", "revoke", "eve")
        async with asyncio.timeout(2):
            assert await one.until_closed() == (4403, "forbidden")
            assert await other.until_closed() == (4403, "forbidden")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("mongodb://127.0.0.1:99999999/x", "[store] uri"),
        ("mongodb://127.0.0.1/x?w=oops&tls=perhaps", "[store] uri"),
    ],
)
def test_what_can_not_be_used_is_one_line(nodes, uri: str, words: str) -> None:
    nodes.env["MONGODB_URI"] = uri
    (nodes.folder / "config.toml").write_text("[store]\nlease = 1\n")
    complaint = nodes.command("serve", "--port", "0", status=1)
    assert complaint.startswith(f"inorder: {words}")
    assert complaint.count("\n") == 1


async def test_without_a_secret_there_is_no_start(nodes) -> None:
    nodes.env["SESSION_SECRET"] = ""
    with pytest.raises(RuntimeError, match="SESSION_SECRET: expected in the environment"):
        await nodes.start()
