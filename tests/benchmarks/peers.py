"""Others that one might take instead, where they are installed."""

from __future__ import annotations

from collections.abc import Callable

from cases import Case
from subjects import Subject

MAKERS: dict[str, Callable[[], Subject]] = {}


def cases() -> list[Case]:
    """Those that can be measured here."""
    return []
