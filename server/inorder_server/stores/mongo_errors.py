"""The driver's errors end here: what may pass, and what an operator must change."""

from __future__ import annotations

from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)

from .port import StoreError, StoreUnavailable

_DUPLICATE = 11000
_UNAUTHORIZED = 13
_AUTHENTICATION_FAILED = 18
# What other programs say to a MongoDB driver: Atlas, and the compatible servers.
_NOT_LET_IN = frozenset({_UNAUTHORIZED, _AUTHENTICATION_FAILED, 8000})


def plain(exc: PyMongoError) -> str:
    """One line: the driver's own text goes on for many, topology and all."""
    text = " ".join(str(exc).split())
    for cut in (", full error:", ", Timeout:", " (configured timeouts:"):
        text = text.split(cut)[0]
    return text[:300] or type(exc).__name__


def translated(name: str, exc: PyMongoError, *, opening: bool = False) -> Exception:
    """The port's error for the driver's.

    While ``opening``, what can't pass is told to the operator. Later everything may pass: a
    password is set back, a rule of the network is undone, and no write is given up for it.
    """
    why = plain(exc)
    if isinstance(exc, BulkWriteError):
        problems = [*exc.details.get("writeErrors", ()), *exc.details["writeConcernErrors"]]
        why = next((str(p.get("errmsg", p)) for p in problems), why)
    if opening:
        if isinstance(exc, InvalidURI | ConfigurationError):
            return StoreError(f"{name} can't be used: {why}")
        if isinstance(exc, OperationFailure) and exc.code in _NOT_LET_IN:
            return StoreError(f"{name} does not let this user in: {why}")
    return StoreUnavailable(f"{name}: {why}")


def duplicates(exc: BulkWriteError) -> list[int] | None:
    """The positions whose ``_id`` was there already; None where more than that went wrong.

    A write concern error says nothing of what is durable.
    """
    if exc.details["writeConcernErrors"]:
        return None
    errors = exc.details["writeErrors"]
    if any(error["code"] != _DUPLICATE for error in errors):
        return None
    return [error["index"] for error in errors]
