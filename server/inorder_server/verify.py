"""The audit behind ``inorder verify``: does the whole journal keep what is promised?

It looks at one session after the other through the store's port alone, beside a running
server if need be, and holds each against G3 (one outcome each, in order), G5 (no id twice)
and G6 (what was counted adds up; so do the receipts).
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct, field, structs

from inorder.messages import Receipt

from .stores.port import Damaged, RequestRow, SessionRow, Store, Tally

_MOST_FINDINGS = 1000
# How often a session that is at work is looked at again before it is passed over.
_LOOKS = 5


class Report(Struct):
    """What an audit saw.

    ``accepted = done + failed + cancelled + pending`` wherever there are no ``findings``
    and no ``moving``, that is sessions that kept working while they were looked at: of
    those only each row by itself was checked. ``acknowledged`` are among those with an
    outcome. Findings are one line each and begin with the session's id; there were ``more``
    than are listed.
    """

    sessions: int = 0
    accepted: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    pending: int = 0
    acknowledged: int = 0
    moving: int = 0
    findings: list[str] = field(default_factory=list)
    more: int = 0

    @property
    def clean(self) -> bool:
        return not self.findings


async def audit(store: Store) -> Report:
    """Checks every session. Raises :class:`StoreUnavailable` as the store does."""
    report = Report()
    for id in [s.id for s in await store.sessions()]:
        for _ in range(_LOOKS):
            before = await store.session(id)
            if before is None or before.state == "gone":
                break
            tally = await store.tally(id)
            try:
                rows = await _look(store, before)
            except Damaged as exc:
                rows, still = _Rows(findings=[f"{exc} (G3)"]), False
                break
            # All these numbers only grow: where they are equal, nothing happened between.
            still = (await store.session(id), await store.tally(id)) == (before, tally)
            if still:
                break
        else:
            report.moving += 1
        if before is None or before.state == "gone":
            continue
        _add(report, before, tally)
        findings = [*rows.findings, *(_judge(before, tally, rows) if still else ())]
        for line in findings:
            if len(report.findings) < _MOST_FINDINGS:
                report.findings.append(f"{id}: {line}")
            else:
                report.more += 1
    return report


def _add(report: Report, s: SessionRow, tally: Tally) -> None:
    report.sessions += 1
    report.accepted += s.accepted
    report.done += tally.done
    report.failed += tally.failed
    report.cancelled += tally.cancelled
    report.pending += tally.pending
    report.acknowledged += s.acked
    if s.state == "ended" and s.receipt is not None:
        report.pending += s.receipt.pending


class _Rows(Struct):
    """What was seen of a session's rows, in one pass."""

    acknowledged: int = 0
    waiting: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    findings: list[str] = field(default_factory=list)
    """Of rows by themselves: true whatever else the session does meanwhile."""
    order: list[str] = field(default_factory=list)
    """Of rows against each other: true where nothing happened meanwhile."""


async def _look(store: Store, s: SessionRow) -> _Rows:
    rows = _Rows()
    ids: set[str] = set()
    expected = s.acked + 1
    unsettled = 0
    async for row in store.requests(s.id):
        if not row.id:
            rows.findings.append(f"request {row.seq}: an outcome without a request (G3)")
            continue
        rows.findings.extend(_outcome(row))
        if row.id in ids:
            rows.findings.append(f"request {row.seq}: the id {row.id!r} was accepted twice (G5)")
        ids.add(row.id)
        if row.stripped:
            rows.acknowledged += 1
            if row.seq > s.acked:
                rows.order.append(f"request {row.seq} is stripped but not acknowledged (G3)")
        elif row.seq <= s.acked:
            rows.order.append(f"request {row.seq} is acknowledged but not stripped")
        if row.seq > s.acked:
            if row.seq != expected:
                rows.order.append(f"{_numbers(expected, row.seq - 1)} without a row (G3)")
            expected = row.seq + 1
        if row.ending is not None:
            rows.done += row.ending == "done"
            rows.failed += row.ending == "failed"
            rows.cancelled += row.ending == "cancelled"
            if unsettled:
                rows.order.append(f"request {row.seq} is settled, {unsettled} before it not (G1)")
        elif not row.stripped:
            rows.waiting += 1
            unsettled = unsettled or row.seq
    if s.state == "live" and expected <= s.accepted:
        rows.order.append(f"{_numbers(expected, s.accepted)} without a row (G3)")
    if expected > s.accepted + 1:
        rows.order.append(f"{_numbers(s.accepted + 1, expected - 1)} with a row, not accepted (G6)")
    return rows


def _numbers(first: int, last: int) -> str:
    return f"request {first}" if first == last else f"requests {first} to {last}"


def _outcome(row: RequestRow) -> Iterator[str]:
    if row.stripped:
        return
    parts = (row.ending is not None, row.outcome is not None, row.settled_ms is not None)
    if len(set(parts)) > 1:
        yield f"request {row.seq} has half an outcome (G3)"
    if row.ending not in (None, "done", "failed", "cancelled"):
        yield f"request {row.seq} ended as {row.ending!r} (G3)"


def _judge(s: SessionRow, tally: Tally, rows: _Rows) -> Iterator[str]:
    """Of a session that stood still."""
    yield from rows.order
    acknowledged = s.done + s.failed + s.cancelled
    if acknowledged != s.acked:
        yield f"{s.acked} acknowledged, but {acknowledged} in the tally (G6)"
    if s.acked > s.accepted:
        yield f"{s.acked} acknowledged of {s.accepted} accepted (G6)"
    counted = Tally(
        s.done + rows.done, s.failed + rows.failed, s.cancelled + rows.cancelled, rows.waiting
    )
    if counted != tally:
        yield f"rows and tally say {_words(counted)}, the store's query {_words(tally)} (G6)"
    if s.state == "ended":
        yield from _judge_ended(s, tally, rows)
        return
    if _total(counted) != s.accepted:
        yield f"{s.accepted} accepted, but {_words(counted)} (G6)"
    if s.receipt is not None:
        yield from _adds_up(s.receipt)
        # Given up with nothing in flight, and nobody had it since: nothing may have changed.
        if s.node is None and s.clean:
            yield from _agrees(s.receipt, s, tally)


def _judge_ended(s: SessionRow, tally: Tally, rows: _Rows) -> Iterator[str]:
    if rows.waiting or rows.acknowledged or rows.done or rows.failed or rows.cancelled:
        yield "it ended, but has rows"
    if s.receipt is None:
        yield "it ended without a receipt (G6)"
        return
    yield from _adds_up(s.receipt)
    # What was left undone at the end has no rows any more: only the receipt tells of it.
    left = tally.pending + s.receipt.pending
    yield from _agrees(s.receipt, s, structs.replace(tally, pending=left))
    if _total(tally) + s.receipt.pending != s.accepted:
        yield f"{s.accepted} accepted, but {_words(tally)} at its end (G6)"
    if not s.receipt.verified:
        yield "its receipt says that it could not be verified (G6)"


def _adds_up(r: Receipt) -> Iterator[str]:
    counted = Tally(r.done, r.failed, r.cancelled, r.pending)
    if r.accepted != _total(counted):
        yield f"its receipt says {r.accepted} accepted, but {_words(counted)} (G6)"


def _agrees(r: Receipt, s: SessionRow, tally: Tally) -> Iterator[str]:
    if r.session != s.id:
        yield f"its receipt is that of {r.session} (G6)"
    told = Tally(r.done, r.failed, r.cancelled, r.pending)
    if r.accepted != s.accepted or told != tally:
        yield (
            f"its receipt says {r.accepted} accepted, {_words(told)};"
            f" the journal {s.accepted}, {_words(tally)} (G6)"
        )


def _total(t: Tally) -> int:
    return t.done + t.failed + t.cancelled + t.pending


def _words(t: Tally) -> str:
    return f"{t.done} done, {t.failed} failed, {t.cancelled} cancelled, {t.pending} pending"
