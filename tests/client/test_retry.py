"""Whether to come back, and when."""

from __future__ import annotations

from itertools import islice

import pytest

from inorder import errors, retry
from inorder.codes import CloseCode
from inorder.messages import Error
from inorder.retry import Verdict


def test_the_bound_doubles_and_the_wait_is_a_part_of_it(monkeypatch):
    monkeypatch.setattr("random.uniform", lambda low, high: (low, high))
    assert list(islice(retry.backoff(), 9)) == [
        (0, bound) for bound in (0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15.0, 15.0)
    ]


def test_waits_differ():
    assert len(set(islice(retry.backoff(), 100))) > 90


STOPPING = {1000, 1002, 1003, 1007, 1009, 4400, 4401, 4403, 4409, 4410}


@pytest.mark.parametrize("code", [*CloseCode, 3000, 4599, 4499])
def test_close_codes(code):
    verdict = retry.judge(errors.closed(code, ""))
    assert verdict is (Verdict.STOP if code in STOPPING | {4499} else Verdict.COME_BACK)


@pytest.mark.parametrize("code", [*CloseCode, 3000, 4599, 4499])
def test_close_codes_where_a_late_hello_of_ones_own_may_be_the_cause(code):
    verdict = retry.judge(errors.closed(code, ""), by_a_late_hello=True)
    assert verdict is (Verdict.STOP if code in STOPPING - {4409} | {4499} else Verdict.COME_BACK)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (400, Verdict.STOP),
        (401, Verdict.LOG_IN_ANEW),
        (403, Verdict.STOP),
        (429, Verdict.COME_BACK),
        (500, Verdict.COME_BACK),
        (503, Verdict.COME_BACK),
    ],
)
def test_statuses_in_place_of_the_upgrade(status, verdict):
    assert retry.judge(errors.handshake(status, "")) is verdict


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("unauthenticated", Verdict.LOG_IN_ANEW),
        ("token_expired", Verdict.LOG_IN_ANEW),
        ("forbidden", Verdict.STOP),
        ("name_taken", Verdict.STOP),
        ("session_gone", Verdict.STOP),
        ("history_lost", Verdict.STOP),
        ("draining", Verdict.COME_BACK),
        ("store_unavailable", Verdict.COME_BACK),
        ("overloaded", Verdict.COME_BACK),
        ("rate_limited", Verdict.COME_BACK),
    ],
)
def test_errors_at_hello(code, verdict):
    again = verdict is Verdict.COME_BACK
    assert retry.judge(errors.login(Error(code, "", again))) is verdict
