"""Whether a request is accepted: the order of the checks, and the refusals.

Source: SPEC.md, "Numbers" and "Error codes". An id is looked up before a seq; a repeat is
answered whatever state the node is in; final refusals are told before passing ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from msgspec import UNSET
from xxhash import xxh3_64_digest

from inorder import codec
from inorder.messages import Request

from .auth import Identity
from .handlers.methods import InvalidParams
from .node import Node
from .session import Entry, Refused, Session, Silent

_BLAKE2_BYTES = 16


class Repeat:
    """The id is known and the request is the same: say again what was said of it."""

    __slots__ = ("entry",)

    def __init__(self, entry: Entry) -> None:
        self.entry = entry


def digest_of(method: str, params: bytes | None) -> bytes:
    """8 bytes that are equal where method and params are equal as JSON values. Against mistakes,
    not malice: a session's digests are compared with each other only."""
    return xxh3_64_digest(method.encode() + b"\0" + _canonical(params))


def is_digest_of(digest: bytes, method: str, params: bytes | None) -> bool:
    """Whether a digest that was kept is that of these."""
    if len(digest) == _BLAKE2_BYTES:
        # Of an earlier server, whose requests are known for a while longer.
        text = method.encode() + b"\0" + _canonical(params)
        return blake2b(text, digest_size=_BLAKE2_BYTES).digest() == digest
    return digest_of(method, params) == digest


def _canonical(params: bytes | None) -> bytes:
    return b"null" if params is None else codec.canonical(params)


def admit_plain(
    node: Node, session: Session, user: Identity, requests: Sequence[Request], *, closing: bool
) -> list[Entry]:
    """Gives these their numbers, up to the first that there is more to say of than yes: that one
    is for :func:`admit`, which looks at all that this does not. Nothing is durable yet."""
    journal = node.journal
    if closing or node.draining or not journal.available or journal.overloaded:
        return []
    known, find, now = session.known, node.methods.get, node.now()
    entries: dict[str, Entry] = {}
    seq = session.last
    spare = session.spare()
    if len(requests) > spare:
        requests = requests[: max(spare, 0)]
    for request in requests:
        id, name = request.id, request.method
        seq += 1
        if id is None or request.seq != seq or id[0] == "#" or known(id) or id in entries:
            break
        method = find(name)
        if method is None or method.admin:
            break
        params = None if request.params is UNSET else bytes(request.params)
        if params == b"null":
            params = None
        try:
            method.check(params)
            digest = digest_of(name, params)
        except (InvalidParams, codec.Malformed):
            break
        entries[id] = Entry(
            seq,
            id,
            digest,
            # Not the one that came with the frame: it would be kept by each of its requests.
            method.name,
            params,
            request.timeout,
            request.traceparent,
            now,
            True,
            method.idempotent,
        )
    if entries:
        session.add(entries)
    return list(entries.values())


def admit(
    node: Node, session: Session, user: Identity, request: Request, *, closing: bool
) -> Entry | Repeat | Refused | Silent:
    """Gives the request its number, or says why not. Nothing is durable yet."""
    decided = _decide(node, session, user, request, closing)
    if isinstance(decided, Refused) and request.seq is not None:
        if request.seq == session.last + 1:
            # What is numbered behind a refused request must not slip past it.
            session.open_gap()
        if decided.details is None:
            decided = decided._replace(details={"seq": request.seq})
    return decided


def _decide(
    node: Node, session: Session, user: Identity, request: Request, closing: bool
) -> Entry | Repeat | Refused | Silent:
    params = None if request.params is UNSET else bytes(request.params)
    if params == b"null":
        params = None
    if request.id is not None:
        if request.id.startswith("#"):
            return Refused("bad_message", "an id that begins with # is the server's")
        entry = session.known(request.id)
        if entry is not None:
            return _repeat(session, entry, request.method, params)
    if request.seq is not None and request.seq != session.last + 1:
        out_of_step = session.out_of_step(request.seq)
        if out_of_step is not None:
            return out_of_step
    if closing:
        return Refused("closing", "the session is ending: bye was said")
    if node.draining:
        return Refused("draining", "the server is going down", 1.0)
    method = node.methods.get(request.method)
    if method is None:
        return Refused("unknown_method", f"no method {request.method[:64]!r}; see `methods`")
    if method.admin and not user.admin:
        return Refused("forbidden", f"{method.name} is for admins")
    try:
        method.check(params)
        digest = digest_of(request.method, params)
    except InvalidParams as exc:
        return Refused("invalid_params", str(exc))
    except codec.Malformed as exc:
        return Refused("invalid_params", exc.message)
    if not node.journal.available:
        return Refused("store_unavailable", "the store is away; nothing is accepted now", 1.0)
    if node.journal.overloaded:
        return Refused("overloaded", "too much waits to be committed", 1.0)
    now = node.now()
    refused = session.room(now)
    if refused is not None:
        return refused
    return session.take(
        request.id,
        digest,
        request.method,
        params,
        request.timeout,
        request.traceparent,
        now,
        numbered=request.seq is not None,
        free=method.idempotent,
    )


def _repeat(session: Session, entry: Entry, method: str, params: bytes | None) -> Repeat | Refused:
    try:
        same = is_digest_of(entry.digest, method, params)
    except codec.Malformed as exc:
        return Refused("invalid_params", exc.message)
    if not same:
        words = f"id {entry.id!r} was accepted with another method or other params"
        return Refused("id_conflict", words, None, {"seq": entry.seq})
    if entry.seq <= session.acked:
        words = f"outcome {entry.seq} was acknowledged"
        return Refused("already_acknowledged", words, None, {"seq": entry.seq})
    return Repeat(entry)
