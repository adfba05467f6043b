"""Tokens: a user's name and generation, signed, with the time they were made.

Source: SPEC.md, "Authentication". Whether the generation is still the user's is for ``auth``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

from itsdangerous import BadData, SignatureExpired, TimestampSigner, URLSafeTimedSerializer

from .refusal import Refusal

SALT = "inorder.token.v1"


class _Signer(TimestampSigner):
    def __init__(self, *args: Any, clock: Callable[[], float], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock = clock

    def get_timestamp(self) -> int:
        return int(self._clock())


class Tokens:
    """Makes and reads tokens that live ``ttl`` seconds. ``clock``: seconds since 1970."""

    def __init__(self, secret: bytes, ttl: float, clock: Callable[[], float] = time.time) -> None:
        self.ttl = ttl
        self._serializer = URLSafeTimedSerializer(
            secret,
            salt=SALT,
            signer=_Signer,
            signer_kwargs={"digest_method": hashlib.sha256, "clock": clock},
        )

    def issue(self, name: str, generation: int) -> str:
        """A fresh token."""
        token = self._serializer.dumps([name, generation])
        return token if isinstance(token, str) else token.decode()

    def read(self, token: str) -> tuple[str, int]:
        """Name and generation. Raises :class:`Refusal` ``token_expired`` and
        ``unauthenticated``."""
        try:
            payload = self._serializer.loads(token, max_age=self.ttl)  # type: ignore[arg-type]
        except SignatureExpired:
            raise Refusal("token_expired", "the token has expired: log in again") from None
        except (BadData, UnicodeError):
            raise bad_token() from None
        match payload:
            case [str(name), int(generation)]:
                return name, generation
        raise bad_token()


def bad_token() -> Refusal:
    """Said of a token that was never one, and of one that was revoked."""
    return Refusal("unauthenticated", "the token is not valid: log in again")
