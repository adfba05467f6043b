"""SPEC.md's rule for going back, section "Numbers", as a client would write it from the text.

Uses raw frames only. It keeps the rule, not the advice: it has more requests on their way
than ``limits.queue`` and lets the server refuse them.
"""

from __future__ import annotations

from collections import deque

from frames import Json, RawClient, is_outcome

_WINDOW = 256
_RESTART = 32
_FRAME = 64


class Pipeline:
    """Sends these requests, each with an ``id``, in order; returns when each has an answer.

    ``outcomes``: by id. ``refused``: the code of each final refusal, by id. ``passing``: how
    often which passing refusal came.
    """

    def __init__(self, client: RawClient, requests: list[Json]) -> None:
        self.outcomes: dict[str, Json] = {}
        self.refused: dict[str, str] = {}
        self.passing: dict[str, int] = {}
        self.went_back = 0
        self._client = client
        self._left = {message["id"] for message in requests}
        self._unsent = deque(requests)
        self._sent: deque[tuple[int, Json]] = deque()
        self._next = 1
        self._known = 0
        self._window = _WINDOW
        self._pause: float | None = None

    async def run(self) -> None:
        """Needs a connection to a new session, logged in."""
        while self._left:
            while self._pause is None and self._unsent and len(self._sent) < self._window:
                await self._send()
            try:
                message = await self._client.next(*([self._pause] if self._pause else []))
            except TimeoutError:
                assert self._pause is not None, "no answer came"
                self._pause = None
                continue
            assert message is not None, f"closed: {self._client.closed}"
            self._heard(message)

    async def _send(self) -> None:
        frame: list[Json] = []
        while self._unsent and len(self._sent) < self._window and len(frame) < _FRAME:
            message = self._unsent.popleft()
            self._sent.append((self._next, message))
            frame.append({**message, "seq": self._next})
            self._next += 1
        await self._client.send(*frame)

    def _heard(self, message: Json) -> None:
        if message["type"] == "accepted":
            self._accepted(message["seq"])
        elif is_outcome(message):
            self._accepted(message["seq"])
            assert message["id"] not in self.outcomes, "one outcome each"
            self.outcomes[message["id"]] = message
            self._left.discard(message["id"])
            self._pause = None
        elif message["type"] == "error":
            self._refusal(message)

    def _accepted(self, seq: int) -> None:
        self._known = max(self._known, seq)
        before = len(self._sent)
        while self._sent and self._sent[0][0] <= seq:
            self._sent.popleft()
        self._window = min(_WINDOW, self._window + before - len(self._sent))

    def _refusal(self, refusal: Json) -> None:
        assert refusal["of"] == "request", refusal
        if refusal["code"] == "out_of_order":
            self._go_back(refusal["details"]["expected"])
        elif refusal["retry"]:
            self.passing[refusal["code"]] = self.passing.get(refusal["code"], 0) + 1
            self._go_back(refusal["details"]["seq"])
            # "Wait for outcomes or `after`".
            self._pause = refusal["after"]
        elif refusal["id"] in self._left:
            self._drop(refusal["id"])
            self.refused[refusal["id"]] = refusal["code"]
            self._left.discard(refusal["id"])

    def _drop(self, id: str) -> None:
        """Those behind it move up."""
        for number, message in self._sent:
            if message["id"] == id:
                self._go_back(number)
                break
        self._unsent = deque(message for message in self._unsent if message["id"] != id)

    def _go_back(self, to: int) -> None:
        """What is not accepted is to be sent again, numbered from ``to`` on."""
        self.went_back += 1
        to = max(to, self._known + 1)
        while self._sent and self._sent[-1][0] >= to:
            self._unsent.appendleft(self._sent.pop()[1])
        self._next = to
        self._window = _RESTART
