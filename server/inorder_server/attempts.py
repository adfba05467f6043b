"""Failed attempts in a sliding window, by key. Synchronous; takes ``now``.

An attempt is counted before its result is known: as long as it is under way it holds one of
the places that are left, so that a hundred guesses at once are no better than one by one.
"""

from __future__ import annotations

from collections import OrderedDict, deque


class _Key:
    __slots__ = ("failed", "under_way")

    def __init__(self) -> None:
        self.failed: deque[float] = deque()
        self.under_way = 0


class Attempts:
    """At most ``limit`` failures a ``window`` (seconds) for each key.

    At most ``entries`` keys are remembered; the one without an attempt for longest goes
    first. Keys with an attempt under way stay.
    """

    def __init__(self, limit: int, window: float, entries: int = 10_000) -> None:
        self._limit = limit
        self._window = window
        self._entries = entries
        self._keys: OrderedDict[str, _Key] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def wait(self, key: str, now: float) -> float | None:
        """Seconds until another attempt may begin: 0 at once; None when that depends on
        those under way, so ask again when one has ended."""
        entry = self._keys.get(key)
        if entry is None:
            return 0.0
        self._drop_old(entry, now)
        if len(entry.failed) >= self._limit:
            return max(entry.failed[-self._limit] + self._window - now, 0.001)
        if len(entry.failed) + entry.under_way >= self._limit:
            return None
        return 0.0

    def begin(self, key: str) -> None:
        """An attempt is under way; it is to ``end``."""
        self._keys.setdefault(key, _Key()).under_way += 1
        self._keys.move_to_end(key)
        self._shrink()

    def end(self, key: str, now: float, *, failed: bool) -> None:
        """An attempt is over. One that says nothing of the password has not failed."""
        entry = self._keys[key]
        entry.under_way -= 1
        if failed:
            entry.failed.append(now)
        self._drop_old(entry, now)
        if not entry.failed and not entry.under_way:
            del self._keys[key]

    def clear(self, key: str) -> None:
        """Forgets the failures."""
        if (entry := self._keys.get(key)) is not None:
            entry.failed.clear()

    def _drop_old(self, entry: _Key, now: float) -> None:
        while entry.failed and entry.failed[0] + self._window <= now:
            entry.failed.popleft()

    def _shrink(self) -> None:
        if len(self._keys) > self._entries:
            for key, entry in self._keys.items():
                if not entry.under_way:
                    del self._keys[key]
                    return
