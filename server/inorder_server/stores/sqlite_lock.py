"""One serving process a database file, seen to by the kernel.

The lock is on a file beside the database and is gone with the process, however it ends.
The file itself stays: removing it would let two processes hold locks on two files of one
name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path

from .port import StoreError

if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def _lock(fd: int) -> None:
        # Far behind the text, which others must be able to read.
        os.lseek(fd, 1 << 30, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        os.lseek(fd, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class ServingLock:
    """Held from :meth:`take` to :meth:`release`, or to the end of the process."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + ".lock")
        self._fd: int | None = None

    def take(self) -> None:
        """Raises :class:`StoreError` where another process serves the database."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise StoreError(f"{self._path} can't be made: {exc.strerror}") from exc
        try:
            _lock(fd)
        except OSError as exc:
            pid = _read(fd)
            os.close(fd)
            if exc.errno not in (errno.EAGAIN, errno.EACCES):
                raise StoreError(f"{self._path} can't be locked: {exc.strerror}") from exc
            database = self._path.name.removesuffix(".lock")
            raise StoreError(
                f"another inorder process (pid {pid or 'unknown'}) is serving {database}"
            ) from exc
        # The number is for people: a full disk must not stop the start for it.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.write(fd, str(os.getpid()).encode())
        self._fd = fd

    def release(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _read(fd: int) -> str:
    os.lseek(fd, 0, os.SEEK_SET)
    return os.read(fd, 20).decode(errors="replace").strip()
