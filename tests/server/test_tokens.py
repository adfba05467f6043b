"""Tokens: signed, aged, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from itsdangerous import URLSafeTimedSerializer

from inorder_server.refusal import Refusal
from inorder_server.tokens import SALT, Tokens

SECRET = b"a secret for tests"


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def code(tokens: Tokens, token: str) -> str:
    with pytest.raises(Refusal) as caught:
        tokens.read(token)
    return caught.value.code


def test_there_and_back() -> None:
    tokens = Tokens(SECRET, 60)
    token = tokens.issue("eve@example.org", 17)
    assert tokens.read(token) == ("eve@example.org", 17)
    assert set(token) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def test_age() -> None:
    clock = Clock()
    tokens = Tokens(SECRET, 60, clock)
    token = tokens.issue("eve", 1)
    clock.now += 60
    assert tokens.read(token) == ("eve", 1)
    clock.now += 1
    assert code(tokens, token) == "token_expired"


@pytest.mark.parametrize("token", ["", ".", "a.b.c", "x" * 5000, "é.é.é", "\ud800", "a\0b"])
def test_what_is_no_token(token: str) -> None:
    assert code(Tokens(SECRET, 60), token) == "unauthenticated"


def test_another_secret_salt_digest_or_payload() -> None:
    tokens = Tokens(SECRET, 60)
    token = tokens.issue("eve", 1)
    assert code(Tokens(b"another secret here", 60), token) == "unauthenticated"
    assert code(tokens, token.replace(".", "x.", 1)) == "unauthenticated"
    foreign = URLSafeTimedSerializer(SECRET, salt="another").dumps(["eve", 1])
    assert code(tokens, str(foreign)) == "unauthenticated"
    sha1 = URLSafeTimedSerializer(SECRET, salt=SALT).dumps(["eve", 1])
    assert code(tokens, str(sha1)) == "unauthenticated"
    odd = tokens._serializer.dumps({"name": "eve"})
    assert code(tokens, str(odd)) == "unauthenticated"
