"""Who one is, and what a program keeps."""

from __future__ import annotations

import dataclasses
import json

import pytest

from inorder import State
from inorder.credentials import Credentials
from inorder.messages import Hello, Register


def test_from_what_auth_returns():
    assert Credentials.of("tok") == Credentials(token="tok")
    assert Credentials.of(("ann", "pw"), True) == Credentials(None, "ann", "pw", True)


@pytest.mark.parametrize(
    "bad",
    [
        {"username": "ann"},
        {"password": "pw"},
        {"token": "t", "username": "ann", "password": "pw"},
        {"register": True},
        {"register": True, "token": "t"},
    ],
)
def test_what_does_not_go_together(bad):
    with pytest.raises(ValueError, match="password"):
        Credentials(**bad)


def test_secrets_do_not_show():
    shown = repr(Credentials("tok")) + repr(Credentials(None, "ann", "pw"))
    assert "tok'" not in shown
    assert "pw" not in shown


def test_greetings():
    state = State("s", 2, 3)
    assert Credentials("t").greeting(state, "me") == Hello(
        token="t", session="s", seq=2, accepted=3, client="me"
    )
    assert Credentials(None, "a", "b", True).greeting(state, None) == Register(
        username="a", password="b", session="s", seq=2, accepted=3
    )


def test_state_is_json():
    state = State("s", 2, 3)
    assert State(**json.loads(json.dumps(dataclasses.asdict(state)))) == state
