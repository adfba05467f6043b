"""Errors: their verdicts, their kinds, and that they survive a copy."""

from __future__ import annotations

import copy
import pickle

import pytest

from inorder import errors
from inorder.messages import Error


def test_the_docstring_names_every_error():
    tree = errors.__doc__ or ""
    for name in errors.__all__:
        assert name in tree
        assert issubclass(getattr(errors, name), errors.InorderError)


@pytest.mark.parametrize("twin", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_errors_can_be_copied_and_pickled(twin):
    error = errors.closed(1012, "draining", True)
    same = twin(error)
    assert type(same) is errors.ConnectionLost
    assert vars(same) == vars(error)
    assert str(same) == str(error) == "draining: the connection closed (1012 draining)"


def test_about_leaves_the_first_alone():
    error = errors.refusal(Error("queue_full", "full", True, after=2.0, details=[1]))
    other = error.about(False)
    assert (error.accepted, other.accepted) == (None, False)
    assert (other.retry, other.after, other.details) == (True, 2.0, [1])


@pytest.mark.parametrize(
    ("code", "reason", "kind", "word", "retry"),
    [
        (1006, "", errors.ConnectionLost, "connection_lost", True),
        (1011, "keepalive ping timeout", errors.ConnectionLost, "connection_lost", True),
        (1012, "draining", errors.ConnectionLost, "draining", True),
        (4403, "forbidden", errors.ConnectionLost, "forbidden", False),
        (4410, "session_gone", errors.SessionGone, "session_gone", False),
    ],
)
def test_close_codes(code, reason, kind, word, retry):
    error = errors.closed(code, reason, False)
    assert type(error) is kind
    assert (error.code, error.retry, error.accepted) == (word, retry, False)
    assert getattr(error, "close_code", code) == code


@pytest.mark.parametrize(
    ("status", "kind", "code", "retry"),
    [
        (401, errors.LoginFailed, "unauthenticated", False),
        (403, errors.LoginFailed, "forbidden", False),
        (503, errors.ConnectionLost, "draining", True),
        (429, errors.LoginFailed, "rate_limited", True),
        (502, errors.ConnectionLost, "unreachable", True),
        (400, errors.ConnectionLost, "unreachable", False),
    ],
)
def test_handshakes(status, kind, code, retry):
    error = errors.handshake(status, "why")
    assert type(error) is kind
    assert (error.code, error.retry, error.message) == (code, retry, f"HTTP {status}: why")
    assert errors.handshake(status, "").message == f"HTTP {status}"
