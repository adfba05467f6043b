"""Error codes and close codes of the wire protocol, with their verdicts.

Source: SPEC.md, "Error codes" and "Close codes". The server, the clients and the
tests of SPEC.md read the same tables.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal, NamedTuple

Kind = Literal["refusal", "outcome"]


class Verdict(NamedTuple):
    """What an error code means for the one who gets it.

    ``kind`` says whether it refuses a message or is the outcome of an accepted request;
    ``retry`` whether the same message may succeed later.
    """

    kind: Kind
    retry: bool


_FINAL_REFUSALS = (
    "bad_json",
    "bad_message",
    "unknown_type",
    "unknown_method",
    "invalid_params",
    "id_conflict",
    "already_acknowledged",
    "not_found",
    "unauthenticated",
    "token_expired",
    "forbidden",
    "name_taken",
    "closing",
    "session_gone",
    "history_lost",
)
_PASSING_REFUSALS = (
    "out_of_order",
    "queue_full",
    "rate_limited",
    "draining",
    "store_unavailable",
    "overloaded",
    "internal",
)
_OUTCOMES = (
    "handler_failed",
    "timed_out",
    "cancelled",
    "interrupted",
    "skipped",
    "result_too_large",
)

ERROR_CODES: dict[str, Verdict] = {
    **{code: Verdict("refusal", False) for code in _FINAL_REFUSALS},
    **{code: Verdict("refusal", True) for code in _PASSING_REFUSALS},
    **{code: Verdict("outcome", False) for code in _OUTCOMES},
}


class CloseCode(IntEnum):
    """Why a connection was closed. The close reason is the matching word."""

    DONE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    BINARY = 1003
    ABNORMAL = 1006
    INVALID_UTF8 = 1007
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    OVERLOADED = 1013
    BAD_MESSAGE = 4400
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    REPLACED = 4409
    SESSION_GONE = 4410
    STORE_UNAVAILABLE = 4503
    HELLO_TIMEOUT = 4508
    MOVED = 4509
    SLOW_CLIENT = 4510
    TOO_MANY_CONNECTIONS = 4529


_STOP = frozenset({1000, 1002, 1003, 1007, 1009})


def comes_back(close_code: int) -> bool:
    """Whether a client should reconnect and resume after this close code.

    44xx, 1002, 1003, 1007 and 1009 mean stop: a human or the program must change
    something; 1000 ends a session on purpose. Everything else is worth another try
    (SPEC.md, "Close codes").
    """
    return close_code not in _STOP and not 4400 <= close_code <= 4499


def status_comes_back(status: int) -> bool:
    """Whether a client should try again after this HTTP status in place of the upgrade
    (SPEC.md, "Connecting")."""
    return status not in (400, 401, 403)
