"""inorder's client: ``async with inorder.connect(url, token=…) as session``.

The synchronous one is :mod:`inorder.sync`, with the same names.
"""

from . import codes, errors, sync
from .aio import Session, connect
from .codes import ERROR_CODES, CloseCode
from .credentials import State
from .errors import (
    Cancelled,
    ConnectionLost,
    HandlerFailed,
    HistoryLost,
    InorderError,
    Interrupted,
    LoginFailed,
    MessageTooLarge,
    Refused,
    RequestFailed,
    ResultTooLarge,
    SessionGone,
    Skipped,
    TimedOut,
)
from .events import Outcome
from .job import Job
from .messages import MethodLine, Receipt, StatusReport

__all__ = [
    "ERROR_CODES",
    "Cancelled",
    "CloseCode",
    "ConnectionLost",
    "HandlerFailed",
    "HistoryLost",
    "InorderError",
    "Interrupted",
    "Job",
    "LoginFailed",
    "MessageTooLarge",
    "MethodLine",
    "Outcome",
    "Receipt",
    "Refused",
    "RequestFailed",
    "ResultTooLarge",
    "Session",
    "SessionGone",
    "Skipped",
    "State",
    "StatusReport",
    "TimedOut",
    "codes",
    "connect",
    "errors",
    "sync",
]
