"""The format of protocol/vectors: loading it, its patterns, and what is well-formed.

Source: protocol/vectors/README.md. Imports neither the server nor the client.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent.parent / "protocol" / "vectors"
SUBPROTOCOL = "inorder.v1"
_WORD = re.compile(r"\$(user|password|basic|ref):([A-Za-z0-9_.+@-]+)")
_KINDS: dict[str, tuple[type, ...]] = {
    "$string": (str,),
    "$int": (int,),
    "$number": (int, float),
    "$bool": (bool,),
    "$object": (dict,),
    "$array": (list,),
}
OPTIONAL = ("progress", "token", "draining")

_STEPS: dict[str, set[str]] = {
    "connect": {"headers", "subprotocols", "path", "http"},
    "login": {"user"},
    "resume": {"session", "seq", "accepted", "welcome"},
    "send": {"on", "times", "copies", "pad", "bytes"},
    "send_binary": {"on"},
    "send_text_bytes": {"on"},
    "expect": {"on", "within", "strict", "times"},
    "expect_any_order": {"on"},
    "some": {"on", "among"},
    "poll": {"on", "until"},
    "quiet": {"on"},
    "closed": {"on", "reason", "may", "within"},
    "drop": set(),
    "leave": set(),
    "pause": set(),
    "server": set(),
    "call": {
        "id",
        "method",
        "params",
        "timeout",
        "mode",
        "seconds",
        "result",
        "code",
        "accepted",
        "held",
        "done",
        "failed",
        "cancelled",
        "pending",
        "verified",
    },
}
_FIELDS = {"name", "about", "spec", "mode", "config", "users", "alone", "steps"}
_CALLS = {"submit", "cancel", "close", "wait", "accepted", "result", "error", "receipt", "state"}

Conversation = dict[str, Any]


def load() -> dict[str, Conversation]:
    """All conversations by name, in the files' order; ``file`` is added to each."""
    found: dict[str, Conversation] = {}
    for path in sorted(VECTORS.glob("*.json")):
        for conversation in json.loads(path.read_text(encoding="utf-8"))["conversations"]:
            if conversation["name"] in found:
                raise ValueError(f"{path.name}: {conversation['name']} is there twice")
            found[conversation["name"]] = {**conversation, "file": path.name}
    return found


def kind_of(step: dict[str, Any]) -> str:
    """Which step it is. Raises :class:`ValueError` for none or several."""
    # `accepted` and the like are words of a call's own, so the first key decides.
    kind = next(iter(step))
    if kind not in _STEPS:
        raise ValueError(f"no such step: {kind}")
    return kind


def problems(conversation: Conversation) -> Iterator[str]:
    """What is not as the format says."""
    if unknown := conversation.keys() - _FIELDS - {"file"}:
        yield f"unknown fields {sorted(unknown)}"
    for field in ("name", "about", "spec", "mode", "steps"):
        if not conversation.get(field):
            yield f"{field} is missing"
    if conversation["mode"] not in ("program", "hand"):
        yield "mode is program or hand"
    opened: set[str] = set()
    for number, step in enumerate(conversation["steps"], 1):
        for problem in _step_problems(step, opened):
            yield f"step {number}: {problem}"


def _step_problems(step: dict[str, Any], opened: set[str]) -> Iterator[str]:
    try:
        kind = kind_of(step)
    except ValueError as exc:
        yield str(exc)
        return
    if unknown := step.keys() - {kind} - _STEPS[kind]:
        yield f"{kind}: unknown fields {sorted(unknown)}"
    if kind in ("connect", "login", "resume"):
        opened.add(step[kind])
    elif kind in ("drop", "leave"):
        if step[kind] not in opened:
            yield f"{step[kind]} was never opened"
    elif kind == "server":
        if step["server"] not in ("stop", "kill", "start"):
            yield "server is stop, kill or start"
    elif kind == "call":
        if step["call"] not in _CALLS:
            yield f"no such call: {step['call']}"
    elif kind != "pause" and step.get("on", "a") not in opened:
        yield f"{step.get('on', 'a')} was never opened"
    if ("pad" in step) != ("bytes" in step):
        yield "pad goes with bytes"
    if kind == "poll" and "until" not in step:
        yield "poll needs until"
    for pattern in patterns_of(step):
        if not isinstance(pattern, dict) or "type" not in pattern:
            yield "a pattern of a message needs its type"


def patterns_of(step: dict[str, Any]) -> list[Any]:
    """The patterns of server messages in this step."""
    singles = [step[key] for key in ("expect", "until", "some") if key in step]
    lists = [step[key] for key in ("expect_any_order", "among", "may") if key in step]
    return singles + [pattern for patterns in lists for pattern in patterns]


def sent_by(step: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages that a step sends, where they are whole."""
    sent = step.get("send", step.get("poll"))
    if "login" in step or "resume" in step:
        return [{"type": "hello"}]
    parts = sent if isinstance(sent, list) else [sent]
    return [part for part in parts if isinstance(part, dict)]


def row_of(message: dict[str, Any]) -> str:
    """The row in which order is promised (SPEC.md, "Order of answers"); of a pattern, too."""
    kind = message.get("type")
    if isinstance(kind, dict):
        return "outcome" if "result" in kind["$one_of"] else "answer"
    if kind == "accepted" or kind in OPTIONAL:
        return str(kind)
    if kind in ("result", "cancelling"):
        return "outcome"
    if kind == "error" and "seq" in message and message["seq"] != "$absent":
        return "outcome" if message.get("of", "$absent") == "$absent" else "answer"
    return "answer"


class Words:
    """What placeholders stand for in one run of a conversation.

    ``suffix`` makes users' names unique.
    """

    def __init__(self, suffix: str = "") -> None:
        self._suffix = suffix
        self.kept: dict[str, Any] = {}

    def user(self, name: str) -> str:
        """The real name."""
        return name + self._suffix

    def password(self, name: str) -> str:
        """The password of a user of the conversation."""
        return f"pw-of-{name}{self._suffix}"

    def fill(self, value: Any) -> Any:
        """The value with all words replaced; ``$ref:name`` alone becomes what was kept."""
        if isinstance(value, str):
            whole = _WORD.fullmatch(value)
            if whole and whole[1] == "ref":
                return self.kept[whole[2]]
            return _WORD.sub(self._replace, value)
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if isinstance(value, dict):
            return {key: self.fill(item) for key, item in value.items()}
        return value

    def _replace(self, word: re.Match[str]) -> str:
        kind, name = word.groups()
        if kind == "user":
            return self.user(name)
        if kind == "password":
            return self.password(name)
        if kind == "basic":
            pair = f"{self.user(name)}:{self.password(name)}"
            return base64.b64encode(pair.encode()).decode()
        return str(self.kept[name])

    def mismatch(self, pattern: Any, value: Any, where: str = "") -> str | None:
        """Why the value does not match, or None. Keeps what ``$capture`` names."""
        if isinstance(pattern, dict):
            return self._object_mismatch(pattern, value, where)
        if isinstance(pattern, list):
            if not isinstance(value, list) or len(value) != len(pattern):
                return f"{where}: {len(pattern)} elements expected, got {value!r}"
            pairs = enumerate(zip(pattern, value, strict=True))
            found = (self.mismatch(p, v, f"{where}[{i}]") for i, (p, v) in pairs)
            return next((trouble for trouble in found if trouble), None)
        if isinstance(pattern, str) and pattern.startswith("$"):
            return self._word_mismatch(pattern, value, where)
        wanted = self.fill(pattern)
        return None if same(wanted, value) else f"{where}: expected {wanted!r}, got {value!r}"

    def _object_mismatch(self, pattern: dict[str, Any], value: Any, where: str) -> str | None:
        if len(pattern) == 1 and (special := next(iter(pattern))).startswith("$"):
            return self._special_mismatch(special, pattern[special], value, where)
        if not isinstance(value, dict):
            return f"{where}: an object expected, got {value!r}"
        for key, inner in pattern.items():
            path = f"{where}.{key}"
            if inner == "$absent":
                if key in value:
                    return f"{path}: not expected, got {value[key]!r}"
            elif key not in value:
                return f"{path}: missing"
            elif trouble := self.mismatch(inner, value[key], path):
                return trouble
        return None

    def _special_mismatch(self, special: str, inner: Any, value: Any, where: str) -> str | None:
        if special == "$exactly":
            wanted = self.fill(inner)
            return None if same(wanted, value) else f"{where}: exactly {wanted!r}, got {value!r}"
        if special == "$one_of":
            return (
                None
                if any(self.mismatch(p, value) is None for p in inner)
                else f"{where}: one of {inner!r}, got {value!r}"
            )
        if special not in ("$contains", "$lacks"):
            raise ValueError(f"no such pattern: {special}")
        if not isinstance(value, list):
            return f"{where}: an array expected, got {value!r}"
        for p in inner:
            there = any(self.mismatch(p, element) is None for element in value)
            if there != (special == "$contains"):
                return f"{where}: {special} {p!r}, got {value!r}"
        return None

    def _word_mismatch(self, pattern: str, value: Any, where: str) -> str | None:
        if pattern == "$any":
            return None
        if pattern.startswith("$capture:"):
            self.kept[pattern.removeprefix("$capture:")] = value
            return None
        if pattern in _KINDS:
            good = isinstance(value, _KINDS[pattern])
            if isinstance(value, bool) and pattern != "$bool":
                good = False
        elif pattern.startswith(("$has:", "$lacks:")):
            has, _, words = pattern.partition(":")
            good = isinstance(value, str) and ((words in value) == (has == "$has"))
        else:
            good = same(self.fill(pattern), value)
        return None if good else f"{where}: expected {pattern}, got {value!r}"


def same(a: Any, b: Any) -> bool:
    """Equal as JSON: 1 is 1.0 and is not true."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
