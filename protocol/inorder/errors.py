"""What can go wrong, as exceptions.

    InorderError                 everything below; never raised itself
    ├── LoginFailed              ``hello`` or ``register`` was refused, or the handshake was
    ├── Refused                  the request (or ``cancel``, ``status`` …) was not taken
    │   └── MessageTooLarge      … by this library: it would not fit into a frame
    ├── RequestFailed            the outcome of a request; also any code of a handler's own
    │   ├── HandlerFailed
    │   ├── TimedOut
    │   ├── Cancelled
    │   ├── Interrupted
    │   ├── Skipped
    │   └── ResultTooLarge
    ├── SessionGone              the session ended, expired, or belongs to somebody else
    ├── HistoryLost              the server has forgotten what it had promised
    └── ConnectionLost           the socket broke or could not be opened

Each has a verdict (SPEC.md, "Error codes") and, where it ends a request, says whether the
server had accepted that request.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from .codes import CloseCode, comes_back, status_comes_back
from .messages import Error, Receipt


class InorderError(Exception):
    """The base of all errors.

    ``code`` is a word of SPEC.md's list, of a handler's own, or of this library
    (``connection_lost``, ``protocol_error``, ``detached``, ``unreachable``,
    ``login_unavailable``, ``message_too_large``). ``retry`` says whether the same may succeed
    later, ``after`` how many seconds to wait where the server said it. ``accepted`` says of a
    request whether it was accepted: True, False, or None where that is not known or where it
    is no request.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        details: Any = None,
        retry: bool = False,
        accepted: bool | None = None,
        after: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.details = details
        self.retry = retry
        self.accepted = accepted
        self.after = after

    def __reduce__(self) -> Any:
        return _restore, (type(self), self.code, self.message, self.__dict__)

    def about(self, accepted: bool | None) -> InorderError:
        """The same error, said of a request that was accepted or not."""
        twin = copy(self)
        twin.accepted = accepted
        return twin


def _restore(kind: type[InorderError], code: str, message: str, rest: Any) -> InorderError:
    error = kind(code, message)
    error.__dict__.update(rest)
    return error


class LoginFailed(InorderError):
    """The credentials were not taken, or the server takes none at the moment (``retry``)."""


class Refused(InorderError):
    """Not taken, and not run. A refused request has ``accepted`` False; but for
    ``already_acknowledged``: it was accepted and has run, and its outcome is forgotten."""


class MessageTooLarge(Refused):
    """A request over ``limits.message_bytes``; it was never sent."""


class RequestFailed(InorderError):
    """The outcome of a request that did not succeed."""


class HandlerFailed(RequestFailed):
    """The handler raised, in every attempt that it had."""


class TimedOut(RequestFailed):
    """The handler ran longer than it may."""


class Cancelled(RequestFailed):
    """The request was cancelled. ``accepted`` is False where it had not even been sent."""


class Interrupted(RequestFailed):
    """The server stopped while the request ran, and it must not run again."""


class Skipped(RequestFailed):
    """An operator skipped the request."""


class ResultTooLarge(RequestFailed):
    """The result was over ``limits.outcome_bytes``."""


class SessionGone(InorderError):
    """There is no such session. ``receipt`` is set where it was ended in an orderly way."""

    receipt: Receipt | None = None


class HistoryLost(InorderError):
    """Client and server disagree about what was promised: the store was rolled back."""


class ConnectionLost(InorderError):
    """The connection is gone. ``close_code`` is the WebSocket's, where there was one."""

    close_code: int | None = None


_OUTCOMES: dict[str, type[RequestFailed]] = {
    "handler_failed": HandlerFailed,
    "timed_out": TimedOut,
    "cancelled": Cancelled,
    "interrupted": Interrupted,
    "skipped": Skipped,
    "result_too_large": ResultTooLarge,
}
_CLOSES = {
    int(CloseCode.REPLACED): "another connection has taken the session over",
    int(CloseCode.FORBIDDEN): "the user was revoked, deleted or given another password",
}
_STATUSES: dict[int, tuple[type[InorderError], str]] = {
    401: (LoginFailed, "unauthenticated"),
    403: (LoginFailed, "forbidden"),
    429: (LoginFailed, "rate_limited"),
    503: (ConnectionLost, "draining"),
}
_SESSION: dict[str, type[InorderError]] = {
    "session_gone": SessionGone,
    "history_lost": HistoryLost,
}


def outcome(error: Error) -> RequestFailed:
    """The exception for an outcome (SPEC.md, "error")."""
    kind = _OUTCOMES.get(error.code, RequestFailed)
    return kind(error.code, error.message, details=error.details, retry=error.retry, accepted=True)


def refusal(error: Error, accepted: bool | None = None) -> InorderError:
    """The exception for a refused message; for a request pass ``accepted=False``."""
    return _answer(_SESSION.get(error.code, Refused), error, accepted)


def login(error: Error) -> InorderError:
    """The exception for a refused ``hello`` or ``register``."""
    return _answer(_SESSION.get(error.code, LoginFailed), error, None)


def _answer(kind: type[InorderError], error: Error, accepted: bool | None) -> InorderError:
    return kind(
        error.code,
        error.message,
        details=error.details,
        retry=error.retry,
        accepted=accepted,
        after=error.after,
    )


def ended(receipt: Receipt | None, accepted: bool | None = None) -> SessionGone:
    """The exception for what was still open when the session ended."""
    gone = SessionGone("session_gone", "the session has ended", accepted=accepted)
    gone.receipt = receipt
    return gone


def closed(close_code: int, reason: str, accepted: bool | None = None) -> InorderError:
    """The exception for a socket that closed (SPEC.md, "Close codes").

    The reason is the error code's word.
    """
    if close_code == CloseCode.SESSION_GONE:
        return SessionGone("session_gone", "the session is gone", accepted=accepted)
    said = f"the connection closed ({close_code} {reason})".replace(" )", ")")
    lost = ConnectionLost(
        reason if reason.isidentifier() else "connection_lost",
        f"{_CLOSES[close_code]} ({close_code})" if close_code in _CLOSES else said,
        retry=comes_back(close_code),
        accepted=accepted,
    )
    lost.close_code = close_code
    return lost


def handshake(status: int, said: str, after: float | None = None) -> InorderError:
    """The exception for an HTTP answer where a WebSocket was asked for."""
    message = f"HTTP {status}: {said}" if said else f"HTTP {status}"
    kind, code = _STATUSES.get(status, (ConnectionLost, "unreachable"))
    return kind(code, message, retry=status_comes_back(status), after=after)


def gave_up(last: InorderError, seconds: float) -> ConnectionLost:
    """The exception for a session that could not be resumed in time."""
    message = f"no connection for {seconds:g} s; {last.message}"
    lost = ConnectionLost(last.code, message, retry=True)
    lost.close_code = getattr(last, "close_code", None)
    return lost


def unsent() -> Cancelled:
    """The exception for a request that was cancelled before the server had it."""
    return Cancelled("cancelled", "cancelled unsent", accepted=False)


def forgotten() -> Refused:
    """The exception for a request whose outcome was acknowledged before it came here."""
    message = "its outcome was acknowledged before, and is forgotten"
    return Refused("already_acknowledged", message, accepted=True)


__all__ = [
    "Cancelled",
    "ConnectionLost",
    "HandlerFailed",
    "HistoryLost",
    "InorderError",
    "Interrupted",
    "LoginFailed",
    "MessageTooLarge",
    "Refused",
    "RequestFailed",
    "ResultTooLarge",
    "SessionGone",
    "Skipped",
    "TimedOut",
]
