"""Wire types: every message of the protocol as a typed structure.

Source: SPEC.md, "Messages". A structure's fields without a default are always sent;
those with one are left out while they hold it. ``params``, ``result``, ``progress`` and
``data`` stay encoded JSON (:class:`msgspec.Raw`) until somebody needs their value.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

SUBPROTOCOL = "inorder.v1"
# JSON numbers are exact in every language up to here (RFC 8259, section 6).
MAX_INT = 2**53 - 1

Seq = Annotated[int, Meta(ge=1, le=MAX_INT)]
Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
RequestId = Annotated[str, Meta(min_length=1, max_length=64)]
MethodName = Annotated[str, Meta(min_length=1, max_length=128)]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]


class _Wire(Struct, tag_field="type", omit_defaults=True, kw_only=True, gc=False):
    """Base of all messages: tagged by ``type``, which comes first."""


# ---- client to server


class Hello(_Wire, tag="hello"):
    """Authenticates, and starts or resumes a session. Answered by ``welcome``."""

    token: str | None = None
    username: str | None = None
    password: str | None = None
    session: str | None = None
    seq: Count | None = None
    accepted: Count | None = None
    client: Annotated[str, Meta(max_length=200)] | None = None


class Register(_Wire, tag="register"):
    """Makes an account and goes on as ``hello`` does. Answered by ``welcome``."""

    username: str
    password: str
    session: str | None = None
    seq: Count | None = None
    accepted: Count | None = None
    client: Annotated[str, Meta(max_length=200)] | None = None


class Request(_Wire, tag="request"):
    """A unit of work. Answered by ``accepted``, ``progress``*, then its outcome."""

    method: MethodName
    params: Raw | UnsetType = UNSET
    id: RequestId | None = None
    seq: Seq | None = None
    timeout: Seconds | None = None
    traceparent: Annotated[str, Meta(max_length=128)] | None = None


class Cancel(_Wire, tag="cancel"):
    """Asks that a request be cancelled. Answered by ``cancelling``."""

    id: RequestId


class Status(_Wire, tag="status", rename={"from_": "from"}):
    """Asks how the session stands. Answered by ``status``."""

    from_: Seq | None = None


class Methods(_Wire, tag="methods"):
    """Asks what can be called. Answered by ``methods``."""


class Ack(_Wire, tag="ack"):
    """Outcomes up to ``seq`` may be forgotten. Not answered."""

    seq: Count


class Ping(_Wire, tag="ping"):
    """Answered by ``pong`` with the same ``data``."""

    data: Raw | UnsetType = UNSET


class Bye(_Wire, tag="bye"):
    """Ends the session. Answered by the outcomes still due, then ``bye``."""

    mode: Literal["finish", "cancel"] = "finish"


ClientMessage = Hello | Register | Request | Cancel | Status | Methods | Ack | Ping | Bye
CLIENT_TYPES = (
    "hello",
    "register",
    "request",
    "cancel",
    "status",
    "methods",
    "ack",
    "ping",
    "bye",
)


# ---- server to client


class Limits(Struct):
    """What ``welcome`` says of the bounds (counts, bytes, requests a second, seconds)."""

    queue: int
    unacked: int
    message_bytes: int
    outcome_bytes: int
    batch: int
    rate: float
    ping: float


class Welcome(_Wire, tag="welcome"):
    """Answers ``hello``: who one is, and where the session stands."""

    session: str
    user: str
    epoch: int
    resumed: bool
    accepted: int
    settled: int
    acked: int
    token: str | None = None
    expires_in: float | None = None
    limits: Limits | None = None


class Accepted(_Wire, tag="accepted"):
    """The request is durable under ``seq``; ``ahead`` are waiting or running before it."""

    id: str
    seq: int
    ahead: int


class Progress(_Wire, tag="progress"):
    """The only lossy message: ``n`` counts from 1 within an attempt."""

    id: str
    seq: int
    attempt: int
    n: int
    progress: Raw


class Result(_Wire, tag="result"):
    """The outcome of a request that was done."""

    id: str
    seq: int
    result: Raw


class Error(_Wire, tag="error"):
    """An outcome (with ``id`` and ``seq``) or the answer to a message that failed.

    ``of`` is the type of the message it answers, ``after`` seconds to wait.
    """

    code: str
    message: str
    retry: bool
    id: str | None = None
    seq: int | None = None
    of: str | None = None
    after: float | None = None
    details: Any = None


class Cancelling(_Wire, tag="cancelling"):
    """The cancel is durable; the outcome follows in its turn."""

    id: str
    seq: int


class Running(Struct, omit_defaults=True):
    """The request at the head: ``for_s`` seconds so far; ``overdue`` past its time."""

    id: str
    seq: int
    method: str
    attempt: int
    for_s: float
    overdue: bool = False


class Blocked(Struct, omit_defaults=True):
    """Why the head does not run: ``next_retry_s`` seconds to the next try, if there is one."""

    id: str
    seq: int
    code: str
    next_retry_s: float | None = None


class RequestLine(Struct):
    """One request in ``status``; ``state`` is waiting, running, cancelling, done, failed
    or cancelled."""

    id: str
    seq: int
    method: str
    state: str


class StatusReport(_Wire, tag="status"):
    """Answers ``status``."""

    session: str
    epoch: int
    accepted: int
    settled: int
    acked: int
    queued: int
    running: Running | None = None
    blocked: Blocked | None = None
    requests: list[RequestLine] | None = None


class MethodLine(Struct, omit_defaults=True):
    """One method: its doc line and the JSON Schema of its params."""

    name: str
    doc: str
    params: dict[str, Any]
    admin: bool = False


class MethodsReport(_Wire, tag="methods"):
    """Answers ``methods``."""

    methods: list[MethodLine]


class Pong(_Wire, tag="pong"):
    """Answers ``ping``."""

    data: Raw | UnsetType = UNSET


class Token(_Wire, tag="token"):
    """A fresh token, sent when a tenth of the old one's life (seconds) is left."""

    token: str
    expires_in: float


class Draining(_Wire, tag="draining"):
    """The node is going down in ``deadline`` seconds; nothing more is accepted."""

    deadline: float


class Receipt(Struct, frozen=True):
    """The proof that a queue ended empty: ``accepted = done + failed + cancelled + pending``.

    ``verified`` is true when two independent countings agreed (SPEC.md, "Receipt").
    """

    session: str
    accepted: int
    done: int
    failed: int
    cancelled: int
    pending: int
    verified: bool


class ByeReceipt(_Wire, tag="bye"):
    """Answers ``bye``, and a ``hello`` to a session that was ended."""

    receipt: Receipt


class Hint(_Wire, tag="hint"):
    """Hand mode only: a line for the person who types."""

    message: str


ServerMessage = (
    Welcome
    | Accepted
    | Progress
    | Result
    | Error
    | Cancelling
    | StatusReport
    | MethodsReport
    | Pong
    | Token
    | Draining
    | ByeReceipt
    | Hint
)
