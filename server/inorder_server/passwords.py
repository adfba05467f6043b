"""Passwords: the rules for them, and bcrypt in a bounded pool off the event loop.

The rules are those of SPEC.md, "Names and passwords". bcrypt looks at 72 bytes and stops at
NUL, so neither may be exceeded or contained: a longer password would be a shorter one in secret.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import bcrypt

from .refusal import Refusal

_T = TypeVar("_T")

MOST_BYTES = 72
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)
_ROUNDS = re.compile(rb"\$2[abxy]\$(\d\d)\$")


def broken_name_rule(name: str) -> str | None:
    """What is wrong with a user's name, or None."""
    if _NAME.fullmatch(name):
        return None
    return "a name has 1 to 64 of A-Z a-z 0-9 . _ @ + -, and begins with a letter or a digit"


def broken_password_rule(password: str) -> str | None:
    """What is wrong with a password, or None."""
    if _usable(password) is not None:
        return None
    return f"a password has 1 to {MOST_BYTES} bytes of UTF-8 and no NUL"


class Passwords:
    """bcrypt with ``cost`` in ``threads`` threads; at most ``waiting`` more wait for one."""

    def __init__(self, cost: int, *, threads: int = 2, waiting: int = 1000) -> None:
        self._cost = cost
        self._room = threads + waiting
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="inorder-bcrypt")

    async def hash(self, password: str) -> bytes:
        """The hash to keep. Raises ValueError for a password that breaks the rules, and
        :class:`Refusal` ``overloaded``."""
        usable = _usable(password)
        if usable is None:
            raise ValueError("the password breaks the rules")
        return await self._run(lambda: bcrypt.hashpw(usable, bcrypt.gensalt(self._cost)))

    async def check(self, password: str, hashed: bytes | None) -> bool:
        """Whether it is the password. No hash, or a password that can't be one: False after
        the same time. Raises :class:`Refusal` ``overloaded``."""
        return await self._run(lambda: self._check(_usable(password), hashed))

    def close(self) -> None:
        """Lets the threads go; what waits is cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _check(self, password: bytes | None, hashed: bytes | None) -> bool:
        if password is None or hashed is None:
            bcrypt.checkpw(b"-", _dummy(self._cost))
            return False
        if bcrypt.checkpw(password, hashed):
            return True
        # A hash made with a lower cost is checked faster, and would tell that the user exists.
        # 2^k + (2^k + ... + 2^(cost-1)) = 2^cost makes up for it.
        found = _ROUNDS.match(hashed)
        for cost in range(int(found[1]) if found else self._cost, self._cost):
            bcrypt.checkpw(b"-", _dummy(cost))
        return False

    async def _run(self, work: Callable[[], _T]) -> _T:
        with self._lock:
            if self._room == 0:
                raise Refusal("overloaded", "too many logins at once", after=1)
            self._room -= 1
        try:
            future = self._pool.submit(work)
        except RuntimeError:  # closed
            self._leave()
            raise Refusal("draining", "the server is going down", after=1) from None
        # The place is free when the work has ended, which may be after its client has gone.
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def _leave(self, _: Future[_T] | None = None) -> None:
        with self._lock:
            self._room += 1


def _usable(password: str) -> bytes | None:
    try:
        encoded = password.encode()
    except UnicodeEncodeError:  # lone surrogates
        return None
    return encoded if 1 <= len(encoded) <= MOST_BYTES and 0 not in encoded else None


def _dummy(cost: int) -> bytes:
    """A well-formed hash of no password, made without computing one."""
    return bcrypt.gensalt(cost) + b"." * 31
