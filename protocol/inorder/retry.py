"""Whether to come back after a failure, and when.

Source: SPEC.md, "Close codes" and "Error codes". Every failure is an exception of
:mod:`inorder.errors` by the time it gets here; its ``retry`` is the verdict of the tables in
:mod:`inorder.codes`, or the server's word.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from enum import Enum

from .codes import CloseCode
from .errors import InorderError, LoginFailed

FIRST = 0.2
"""Seconds: the most that the first attempt waits."""
MOST = 15.0
"""Seconds: the most that any attempt waits, the server's ``after`` aside."""

Backoff = Callable[[], Iterator[float]]
"""Called at the begin of an outage; yields the seconds before each attempt."""


class Verdict(Enum):
    """What to do about a failure."""

    STOP = "stop"
    COME_BACK = "come back"
    LOG_IN_ANEW = "log in anew"
    """Other credentials may do; where there are none: stop."""


def judge(error: InorderError, *, by_a_late_hello: bool = False) -> Verdict:
    """The one place where it is decided whether a client stops or comes back.

    ``by_a_late_hello``: an attempt of this client's own that it gave up without an answer may
    be what has replaced its connection (SPEC.md, "Resume").
    """
    if by_a_late_hello and getattr(error, "close_code", None) == CloseCode.REPLACED:
        return Verdict.COME_BACK
    if isinstance(error, LoginFailed) and error.code in ("unauthenticated", "token_expired"):
        return Verdict.LOG_IN_ANEW
    return Verdict.COME_BACK if error.retry else Verdict.STOP


def backoff() -> Iterator[float]:
    """Seconds before each attempt: a random part of a bound that doubles, so that the clients
    of a server that was restarted do not all come at once."""
    bound = FIRST
    while True:
        yield random.uniform(0, bound)
        bound = min(2 * bound, MOST)
