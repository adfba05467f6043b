"""One session under load: what to send, what came, and what is wrong with it. No sockets.

Times are nanoseconds of one clock, passed in.
"""

from __future__ import annotations

import secrets
from collections import Counter, deque
from typing import Any, Final

import msgspec

from inorder.messages import Limits

from .histogram import Histogram
from .plan import SAMPLES, BenchError, Plan, Report

ACK_EVERY = 100
"""Outcomes after which one acknowledges, as the libraries do; and each second."""
_AFTER_REFUSAL = 32
_FRAMING = 2


class _Message(msgspec.Struct, gc=False):
    """Whatever a server may say, as far as it matters here. What isn't named is skipped."""

    type: str
    id: str = ""
    seq: int = 0
    of: str = ""
    code: str = ""
    message: str = ""
    retry: bool = False
    after: float | None = None
    details: Any = None
    receipt: dict[str, Any] | None = None
    limits: Limits | None = None


_one = msgspec.json.Decoder(_Message)
_many = msgspec.json.Decoder(list[_Message])


class Tally:
    """What all sessions of a process count together.

    The run has a ``start``; what is measured are the outcomes that come from ``begin`` to before
    ``end``, and the latencies of requests that were due in that time. ``last``: when the last
    outcome of all came.
    """

    def __init__(self) -> None:
        self.start = 0
        self.begin = 0
        self.end = 0
        self.last = 0
        self.answered = 0
        self.outcomes = 0
        self.sessions = 0
        self.receipts = 0
        self.latency = Histogram()
        self.errors: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.samples: list[str] = []

    def complain(self, kind: str, words: str) -> None:
        """Something that must not be."""
        self.wrong[kind] += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(f"{kind}: {words}")

    def report(self, seconds: float, cpu: float) -> Report:
        """The counts so far."""
        return Report(
            answered=self.answered,
            outcomes=self.outcomes,
            sessions=self.sessions,
            receipts=self.receipts,
            seconds=seconds,
            elapsed=max(0, self.last - self.start) / 1e9,
            cpu=cpu,
            busiest=cpu / seconds if seconds else 0.0,
            latency=self.latency.dump(),
            errors=dict(self.errors),
            wrong=dict(self.wrong),
            samples=self.samples,
        )


class Session:
    """The requests of one connection, numbered 1, 2, 3 …

    ``issued`` ≥ ``sent`` ≥ ``settled``: a request is issued when it is due, sent when the
    window has room, settled when its outcome came. After a refusal it goes back to the number
    that the server expects, as SPEC.md ("Numbers") says; ``resume_at`` is then the time to go
    on. ``welcomed`` and ``ended`` say where the conversation stands.

    Raises :class:`BenchError` for what makes the load senseless: a login that fails, a method
    that isn't there.
    """

    __slots__ = (
        "_due",
        "_head",
        "_in_flight",
        "_outcome",
        "_per_frame",
        "_prefix",
        "_single",
        "_tail",
        "_tally",
        "_token",
        "_window",
        "acked",
        "ended",
        "failed",
        "is_bare",
        "issued",
        "resume_at",
        "sent",
        "settled",
        "welcomed",
    )

    def __init__(self, plan: Plan, tally: Tally) -> None:
        self.is_bare: Final = plan.bare
        # What the bare peer sends back is the request itself.
        self._outcome = "request" if plan.bare else "result"
        self._prefix = f"{secrets.token_hex(4)}-"
        self._head = b'{"type":"request","id":"%b' % self._prefix.encode()
        self._tail = b',"method":%b,"params":%b}' % (
            msgspec.json.encode(plan.method),
            plan.params.encode(),
        )
        self._single = plan.single_frames
        self._in_flight = self._window = plan.in_flight
        self._per_frame = plan.in_flight if plan.bare else 1
        self._token = plan.token
        self._tally = tally
        self._due: deque[int] = deque()
        self.issued = self.sent = self.settled = self.acked = self.failed = 0
        self.resume_at = 0
        self.welcomed = plan.bare
        self.ended = False

    @property
    def unsettled(self) -> int:
        """Requests that were issued and have no outcome."""
        return self.issued - self.settled

    # ---- sending

    def hello(self) -> bytes:
        """The first frame."""
        return msgspec.json.encode(
            {"type": "hello", "token": self._token, "client": "inorder bench"}
        )

    def issue(self, due: int) -> None:
        """One more request, due at that time."""
        self.issued += 1
        self._due.append(due)

    def refill(self, now: int) -> None:
        """The closed loop: as many as may be under way."""
        count = self._in_flight - self.unsettled
        self.issued += count
        self._due.extend([now] * count)

    def frames(self, now: int) -> list[bytes]:
        """What is to be sent now: requests as far as the window allows, and acknowledgements."""
        if now < self.resume_at:
            return []
        first, last = self.sent + 1, min(self.issued, self.settled + self._window)
        head, tail = self._head, self._tail
        messages = [head + b'%d","seq":%d' % (seq, seq) + tail for seq in range(first, last + 1)]
        self.sent = max(self.sent, last)
        if self.settled - self.acked >= ACK_EVERY:
            messages += self.ack()
        if self._single or len(messages) < 2:
            return messages
        return [
            b"[" + b",".join(messages[at : at + self._per_frame]) + b"]"
            for at in range(0, len(messages), self._per_frame)
        ]

    def ack(self) -> list[bytes]:
        """The acknowledgement of what came since the last; none where nothing did."""
        if self.is_bare or self.acked == self.settled:
            return []
        self.acked = self.settled
        return [b'{"type":"ack","seq":%d}' % self.settled]

    def bye(self) -> list[bytes]:
        """The last frames."""
        return [*self.ack(), b'{"type":"bye"}']

    # ---- receiving

    def receive(self, frame: bytes | bytearray | memoryview, now: int) -> None:
        """Takes a frame and checks what it says."""
        try:
            messages = _many.decode(frame) if frame[:1] == b"[" else (_one.decode(frame),)
        except (msgspec.DecodeError, UnicodeError) as exc:
            self._tally.complain("unreadable", f"{exc}: {bytes(frame[:80])!r}")
            return
        tally, latency = self._tally, self._tally.latency
        begin, end = tally.begin, tally.end
        before = self.settled
        for message in messages:
            kind = message.type
            if kind != self._outcome:
                if kind == "accepted":
                    if message.seq > self.sent:
                        tally.complain("unknown", f"accepted {message.seq}, sent {self.sent}")
                    continue
                if kind != "error" or not message.seq or message.of:
                    self._answer(message, now)
                    continue
                self.failed += 1
                tally.errors[message.code] += 1
            seq = message.seq
            if seq != self.settled + 1 or seq > self.sent:
                if not self._out_of_place(seq):
                    continue
            elif message.id != f"{self._prefix}{seq}":
                tally.complain("id", f"outcome {seq} has the id {message.id!r}")
            self.settled = seq
            due = self._due.popleft()
            if begin <= due < end:
                latency.record((now - due) // 1000)
        came = self.settled - before
        if came:
            tally.outcomes += came
            tally.last = now
        if begin <= now < end:
            tally.answered += came
        if came and self._window < self._in_flight:
            self._window = min(self._in_flight, self._window * 2)

    def _out_of_place(self, seq: int) -> bool:
        """An outcome that isn't the next one; whether to go on from there."""
        complain, expected = self._tally.complain, self.settled + 1
        if seq > self.sent:
            complain("unknown", f"outcome {seq}, sent {self.sent}")
            return False
        if seq < expected:
            complain("again", f"outcome {seq} came after {self.settled}")
            return False
        complain("missing", f"outcome {seq} came, {expected} was next")
        for _ in range(seq - expected):
            self._due.popleft()
        return True

    def _answer(self, message: _Message, now: int) -> None:
        """What is neither an acceptance nor an outcome. Types that are not known are ignored."""
        if message.type == "welcome":
            self._welcome(message)
        elif message.type == "bye":
            self._receipt(message.receipt or {})
        elif message.type == "error":
            self._refused(message, now)

    def _welcome(self, message: _Message) -> None:
        limits = message.limits
        if limits is None:
            raise BenchError("the server's welcome has no limits")
        self.welcomed = True
        if self._in_flight > limits.queue:
            raise BenchError(f"the server takes at most {limits.queue} requests in flight")
        size = len(self._head) + len(self._tail) + 40
        self._per_frame = min(limits.batch, (limits.message_bytes - _FRAMING) // size)
        if not self._per_frame:
            raise BenchError(f"params: the server takes at most {limits.message_bytes} bytes")

    def _refused(self, message: _Message, now: int) -> None:
        self._tally.errors[f"refused {message.code}"] += 1
        details = message.details if isinstance(message.details, dict) else {}
        expected = details.get("expected", details.get("seq"))
        if message.code != "out_of_order" and (not message.retry or message.of == "hello"):
            raise BenchError(f"{message.code}: {message.message}")
        # One that names a number from which it started again already is an echo of the old gap.
        if isinstance(expected, int) and self.settled < expected <= self.sent:
            self.sent = expected - 1
            self._window = min(_AFTER_REFUSAL, self._in_flight)
            self.resume_at = now + int((message.after or 0.0) * 1e9)

    def _receipt(self, receipt: dict[str, Any]) -> None:
        self.ended = True
        told = {name: value for name, value in receipt.items() if name != "session"}
        came = {
            "accepted": self.sent,
            "done": self.settled - self.failed,
            "failed": self.failed,
            "cancelled": 0,
            "pending": 0,
            "verified": True,
        }
        # Whether a failed one counts as cancelled is not for the generator to know by name.
        told["failed"] = told.get("failed", 0) + told.get("cancelled", 0)
        told["cancelled"] = 0
        if told == came:
            self._tally.receipts += 1
        else:
            self._tally.complain("receipt", f"{receipt} for {came}")
