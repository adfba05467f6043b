"""What any part of the server raises to refuse a message."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """A message is refused; the gateway answers it with ``error``.

    ``code`` is one of ``inorder.codes.ERROR_CODES``; ``after`` seconds to wait where waiting
    helps (SPEC.md, "Error codes").
    """

    def __init__(
        self, code: str, message: str, after: float | None = None, details: Any = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.after = after
        self.details = details
