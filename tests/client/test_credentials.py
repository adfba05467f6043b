"""Who one is, and what a program keeps."""

from __future__ import annotations

import dataclasses
import json

import pytest

from inorder.credentials import Credentials, Login, State
from inorder.errors import ConnectionLost, LoginFailed
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


# ---- which are tried, one after the other


async def tried(login, token=None):
    return [credentials async for credentials in login.tries(token)]


ANN = Credentials(username="ann", password="pw")


async def test_the_servers_token_first_then_ones_own():
    login = Login(ANN, None, register=False)
    assert await tried(login) == [ANN]
    assert await tried(login, "t1") == [Credentials(token="t1"), ANN]


async def test_a_token_is_not_tried_twice():
    login = Login(Credentials(token="t1"), None, register=False)
    assert await tried(login) == [Credentials(token="t1")]
    assert await tried(login, "t1") == [Credentials(token="t1")]
    assert await tried(login, "t2") == [Credentials(token="t2"), Credentials(token="t1")]


async def test_headers_say_it_each_time():
    assert await tried(Login(Credentials(), None, register=False), "t1") == [Credentials()]


async def test_auth_is_asked_once_again_where_its_answer_was_refused():
    answers = iter(["old", "new", "newer", "same", "same"])
    login = Login(None, lambda: next(answers), register=False)
    assert await tried(login) == [Credentials(token="old"), Credentials(token="new")]
    assert await tried(login, "t1") == [Credentials(token="t1"), Credentials(token="newer")]
    assert await tried(login) == [Credentials(token="same")]


async def test_an_account_is_made_once():
    login = Login(Credentials(None, "ann", "pw", register=True), None, register=True)
    assert (await tried(login))[0].register
    login.succeeded()
    assert await tried(login, "t1") == [Credentials(token="t1"), ANN]
    login = Login(None, lambda: ("ann", "pw"), register=True)
    assert (await tried(login))[0].register
    login.succeeded()
    assert await tried(login) == [ANN]


@pytest.mark.parametrize("passing", [False, True])
@pytest.mark.parametrize("by_auth", [False, True])
async def test_a_name_that_is_taken_since_an_answer_was_lost_is_logged_in_to(by_auth, passing):
    new = Credentials(None, "ann", "pw", register=True)
    taken, busy = LoginFailed("name_taken", "…"), LoginFailed("store_unavailable", "…", retry=True)
    login = Login(None if by_auth else new, (lambda: ("ann", "pw")) if by_auth else None, True)
    tries = login.tries(None)
    assert await anext(tries) == new
    if passing:
        assert not login.goes_on(busy), "the account may be made all the same"
    await tries.aclose()  # the connection is lost
    tries = login.tries(None)
    assert await anext(tries) == new
    assert login.goes_on(taken)
    assert await anext(tries) == ANN
    assert not login.goes_on(LoginFailed("forbidden", "…"))
    await tries.aclose()


async def test_a_name_that_was_taken_before_is_not():
    login = Login(Credentials(None, "ann", "pw", register=True), None, register=True)
    tries = login.tries(None)
    assert (await anext(tries)).register
    assert not login.goes_on(LoginFailed("name_taken", "…"))
    assert [each async for each in tries] == []
    assert len(await tried(login)) == 1, "nor later"


async def test_what_auth_raises():
    def auth():
        raise trouble

    trouble: Exception = OSError("no network")
    login = Login(None, auth, register=False)
    with pytest.raises(OSError, match="no network"):
        await tried(login)
    login.succeeded()
    with pytest.raises(ConnectionLost) as caught:
        await tried(login)
    assert (caught.value.code, caught.value.retry) == ("login_unavailable", True)
    # Its own word on whether to come back counts.
    trouble = LoginFailed("forbidden", "locked out")
    with pytest.raises(LoginFailed):
        await tried(login)
