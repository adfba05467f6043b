"""``inorder sessions``, ``requests list`` and ``verify``."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlite_file import spread
from sqlite_makers import ended

from inorder.messages import Receipt
from inorder_server.stores.port import (
    Acknowledge,
    Create,
    End,
    Insert,
    MarkCancel,
    RequestRow,
    Write,
)
from inorder_server.stores.sqlite import SqliteStore


def row(seq: int, params: bytes | None = b"[1]") -> Insert:
    return Insert("s1", 1, [RequestRow(seq, f"r\x1b{seq}", b"d", "echo", params, 1000 * seq)])


def journal(writes: Sequence[Write]) -> None:
    async def write() -> None:
        store = SqliteStore(Path("inorder.db"))
        await store.open("node")
        assert await store.commit(writes) == set()
        await store.close()

    asyncio.run(write())


@pytest.fixture(autouse=True)
def _journal(folder: Path) -> None:
    """s1 has one request acknowledged, one done, one failed, one cancelling, one waiting; s2
    has ended with one done."""
    receipt = Receipt("s2", 1, 1, 0, 0, 0, True)
    second = RequestRow(1, "a", b"d", "echo", None, 1)
    journal(
        [
            Create("s1", "eve", 1, 1, "node", 1),
            *(row(seq) for seq in range(1, 5)),
            row(5, None),
            MarkCancel("s1", 1, 4),
            ended("s1", 1, 1, "done", b"1", 5000),
            Acknowledge("s1", 1, 1, 100),
            ended("s1", 1, 2, "done", b'{"x":1}', 6000),
            ended("s1", 1, 3, "failed", b'{"code":"c","message":"m"}', 7000),
            Create("s2", "bob", 1, 1, "node", 2),
            Insert("s2", 1, [second]),
            ended("s2", 1, 1, "done", b"1", 3),
            End("s2", 1, 1, receipt, 4),
        ]
    )


def test_sessions(cli: Any) -> None:
    header, *rows = [line.split() for line in cli("sessions").stdout.splitlines()]
    assert header[:4] == ["session", "user", "state", "accepted"]
    assert {row[0]: row[1:8] for row in rows} == {
        "s1": ["eve", "live", "5", "2", "1", "0", "2"],
        "s2": ["bob", "ended", "1", "1", "0", "0", "0"],
    }


def test_sessions_for_machines(answer: Any) -> None:
    found = {one["id"]: one for one in answer("sessions")}
    assert (found["s1"]["accepted"], found["s1"]["done"], found["s1"]["pending"]) == (5, 2, 2)
    assert found["s2"]["receipt"]["verified"] is True
    assert [one["id"] for one in answer("sessions --user bob")] == ["s2"]
    assert answer("sessions --user nobody") == []


def test_requests(cli: Any) -> None:
    header, *rows = [line.split() for line in cli("requests list s1").stdout.splitlines()]
    assert header == ["seq", "id", "method", "state", "attempt", "when"]
    assert [(row[0], row[1]) for row in rows] == [(str(n), f"r\\x1b{n}") for n in range(1, 6)]
    states = [row[3] if row[2] == "echo" else row[2] for row in rows]
    assert states == ["acknowledged", "done", "failed", "cancelling", "waiting"]
    assert rows[1][-1] == "00:00:06"
    assert rows[4][-1] == "00:00:05"


def test_requests_for_machines(answer: Any) -> None:
    first, done, failed, cancelling, waiting = answer("requests list s1")
    assert first == {"seq": 1, "id": "r\x1b1", "state": "acknowledged"}
    assert (done["params"], done["result"], done["settled_ms"]) == ([1], {"x": 1}, 6000)
    assert failed["error"] == {"code": "c", "message": "m"}
    assert cancelling["state"] == "cancelling"
    assert "params" not in waiting
    assert "result" not in waiting
    assert [one["seq"] for one in answer("requests list s1 --after 3")] == [4, 5]


def test_a_session_that_never_was(failed: Any) -> None:
    assert failed("requests list nope") == "nope: no such session"


def test_verify(cli: Any, answer: Any) -> None:
    result = cli("verify")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert {"sessions: 2", "accepted: 6", "done: 3", "failed: 1", "pending: 2"} <= set(lines)
    assert lines[-1] == "the journal is as promised"
    report = answer("verify")
    assert (report["accepted"], report["findings"]) == (6, [])


def test_verify_finds_a_row_that_is_gone(folder: Path, cli: Any) -> None:
    db = sqlite3.connect(folder / "inorder.db")
    with db:
        spread(db)
        db.execute(
            "DELETE FROM runs WHERE NOT key & 1 AND instr(head, CAST(? AS BLOB))", ["r\x1b3"]
        )
    db.close()
    result = cli("verify")
    assert result.exit_code == 1
    assert any(line.startswith("FOUND s1: ") for line in result.stdout.splitlines())
    assert result.stdout.endswith("the journal is not as promised\n")
    result = cli("verify --json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["findings"]


def test_without_a_database(folder: Path, failed: Any) -> None:
    for line in ("sessions", "requests list x", "verify"):
        assert failed(f"{line} --store sqlite:///none.db") == (
            f"{folder / 'none.db'}: no such database"
        )


# ---- an operator's word


def commands() -> list[tuple[str, str, str]]:
    with sqlite3.connect("inorder.db") as db:
        return list(db.execute("SELECT verb, target, argument FROM commands"))


@pytest.mark.parametrize("verb", ["retry", "skip"])
def test_a_word_is_left_for_the_node(cli: Any, verb: str) -> None:
    ended = cli("requests", verb, "s1")
    assert ended.exit_code == 0
    assert ended.stdout.startswith(f"{verb} of r")
    assert "(seq 4, echo)" in ended.stdout
    assert cli("requests", verb, "s1", "r\x1b4").exit_code == 0
    assert commands() == [(verb, "s1", "r\x1b4")] * 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["retry", "nobody"], "nobody: no such session"),
        (["skip", "s2"], "s2: nothing is unfinished"),
        (["skip", "s1", "r5"], "s1: at the head is r\\x1b4, not r5"),
    ],
)
def test_a_word_that_makes_no_sense(cli: Any, arguments: list[str], says: str) -> None:
    ended = cli("requests", *arguments)
    assert (ended.exit_code, ended.stderr) == (1, f"inorder: {says}\n")
    assert commands() == []
