"""SPEC.md and the conversations: well-formed, complete, and of one mind with the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from vector_format import VECTORS, Words, load, patterns_of, problems, row_of, sent_by

from inorder import codec
from inorder.codes import ERROR_CODES, CloseCode, comes_back
from inorder.messages import CLIENT_TYPES, ServerMessage

SPEC = (VECTORS.parent / "SPEC.md").read_text(encoding="utf-8")
CONVERSATIONS = load()

# Codes that no conversation can bring about from outside; each has tests of its own.
NOT_IN_VECTORS = {
    "store_unavailable": "the store has to fail",
    "overloaded": "needs a hundred logins or a full journal at the right moment",
    "internal": "a fault of the server",
    "skipped": "an operator's command",
}
CLOSES_NOT_IN_VECTORS = {
    CloseCode.GOING_AWAY: "sent by browsers and by what stands between",
    CloseCode.PROTOCOL_ERROR: "needs broken WebSocket frames",
    CloseCode.INTERNAL: "a fault of the server",
    CloseCode.OVERLOADED: "needs a crowd",
    CloseCode.FORBIDDEN: "an operator's command",
    CloseCode.STORE_UNAVAILABLE: "the store has to fail",
    CloseCode.MOVED: "needs a second node",
    CloseCode.SLOW_CLIENT: "needs a client that does not read for long",
}


def _examples() -> Iterator[tuple[str, str]]:
    """(client or server, text) of every example in SPEC.md."""
    yield from re.findall(r"```json (client|server)\n(.*?)```", SPEC, re.DOTALL)
    for side, text in re.findall(r"^([CS]): (.*)$", SPEC, re.MULTILINE):
        yield ("client" if side == "C" else "server"), text


def _types_of(text: str) -> list[str]:
    found = json.loads(text)
    return [part["type"] for part in (found if isinstance(found, list) else [found])]


def test_every_json_block_says_whose_it_is() -> None:
    assert SPEC.count("```json") == len(re.findall(r"```json (?:client|server)\n", SPEC))


@pytest.mark.parametrize(("side", "text"), list(_examples()))
def test_examples_decode(side: str, text: str) -> None:
    text = text.strip()
    if side == "server":
        assert len(codec.decode_server(text)) == len(_types_of(text))
        return
    for part in codec.split(text, 256):
        codec.decode_client(part)


def test_every_message_has_an_example() -> None:
    seen: dict[str, set[str]] = {"client": set(), "server": set()}
    for side, text in _examples():
        seen[side].update(_types_of(text))
    assert seen["client"] == set(CLIENT_TYPES)
    assert seen["server"] == _server_types()


def _server_types() -> set[str]:
    return {str(kind.__struct_config__.tag) for kind in ServerMessage.__args__}


def _row(code: str, cells: int) -> list[str]:
    """The row of SPEC.md that begins with the code and has so many further cells."""
    rows = re.findall(rf"^\| {re.escape(code)} \|(.*)\|$", SPEC, re.MULTILINE)
    fitting = [row.split("|") for row in rows if row.count("|") == cells - 1]
    assert len(fitting) == 1, f"{code} has {len(fitting)} rows"
    return [cell.strip() for cell in fitting[0]]


@pytest.mark.parametrize("code", ERROR_CODES)
def test_error_codes_are_specified_with_their_verdict(code: str) -> None:
    retry, cause, advice = _row(f"`{code}`", 3)
    assert retry == ("yes" if ERROR_CODES[code].retry else "no")
    assert cause
    assert advice


@pytest.mark.parametrize("code", CloseCode)
def test_close_codes_are_specified_with_their_verdict(code: CloseCode) -> None:
    reason, cause, verdict, advice = _row(str(int(code)), 4)
    assert verdict == ("yes" if comes_back(code) else "no")
    # The library chooses the words of some; for the others the first word is the usual one.
    word = {CloseCode.RESTART: "draining"}.get(code, code.name.lower())
    assert reason == "–" or reason.split(",")[0] == f"`{word}`"
    assert cause
    assert advice


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", SPEC, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}
    assert {link for link in re.findall(r"\]\(#([^)]*)\)", SPEC) if link not in anchors} == set()


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations_are_well_formed(name: str) -> None:
    conversation = CONVERSATIONS[name]
    assert list(problems(conversation)) == []
    assert re.search(rf"^#+ {re.escape(conversation['spec'])}$", SPEC, re.MULTILINE)


def test_there_are_enough() -> None:
    assert len(CONVERSATIONS) >= 60
    assert sum(1 for c in CONVERSATIONS.values() if any("call" in s for s in c["steps"])) >= 5


def test_every_client_message_is_covered() -> None:
    steps = [step for c in CONVERSATIONS.values() for step in c["steps"]]
    assert {m.get("type") for step in steps for m in sent_by(step)} >= set(CLIENT_TYPES)


def _expected() -> list[dict[str, object]]:
    steps = [step for c in CONVERSATIONS.values() for step in c["steps"]]
    found = [pattern for step in steps for pattern in patterns_of(step)]
    return [pattern for pattern in found if isinstance(pattern["type"], str)]


def test_every_server_message_is_covered() -> None:
    assert {str(pattern["type"]) for pattern in _expected()} == _server_types()


def test_every_error_code_is_covered() -> None:
    covered = {str(pattern["code"]) for pattern in _expected() if "code" in pattern}
    assert set(ERROR_CODES) - covered == NOT_IN_VECTORS.keys()


def test_errors_bear_the_verdict_of_their_code() -> None:
    for pattern in _expected():
        verdict = ERROR_CODES.get(str(pattern.get("code")))
        if verdict is not None and row_of(pattern) == "answer" and "retry" in pattern:
            assert pattern["retry"] is verdict.retry


def test_every_close_code_is_covered() -> None:
    steps = [step for c in CONVERSATIONS.values() for step in c["steps"]]
    covered = {step["closed"] for step in steps if "closed" in step}
    assert set(CloseCode) - covered == CLOSES_NOT_IN_VECTORS.keys()


@pytest.mark.parametrize(
    ("pattern", "value", "good"),
    [
        ({"a": 1}, {"a": 1.0, "b": 2}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": {"$exactly": {"b": 1}}}, {"a": {"b": 1, "c": 2}}, False),
        ({"a": "$absent"}, {}, True),
        ({"a": "$absent"}, {"a": None}, False),
        ({"a": None}, {}, False),
        ([1, "$any"], [1, 2], True),
        ([1], [1, 2], False),
        ("$int", True, False),
        ("$number", 1.5, True),
        ("$has:b", "abc", True),
        ("$lacks:b", "abc", False),
        ({"$one_of": ["a", 2]}, 2, True),
        ({"$contains": [{"n": 1}]}, [{"n": 2}, {"n": 1, "m": 1}], True),
        ({"$lacks": [{"n": 1}]}, [{"n": 2}, {"n": 1}], False),
    ],
)
def test_patterns(pattern: object, value: object, good: bool) -> None:
    assert (Words().mismatch(pattern, value) is None) is good


def test_words_are_filled_in() -> None:
    words = Words("-7")
    assert words.mismatch({"n": "$capture:x"}, {"n": 5}) is None
    assert words.fill(["$ref:x", "n=$ref:x", "$user:ann!", {"k": "$password:ann"}]) == [
        5,
        "n=5",
        "ann-7!",
        {"k": "pw-of-ann-7"},
    ]
    assert words.fill("$basic:ann") == "YW5uLTc6cHctb2YtYW5uLTc="
