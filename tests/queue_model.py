"""What registry, queue, execution and journal must do: a list of requests, and numbers.

It knows nothing of the server's objects. It is told what was sent, which handlers began and
ended, which writes were handed over, became durable and were answered; it says what the answer
must be, and writes down as ``faults`` what must not have been: G1 to G6 of design.md.
"""

from __future__ import annotations

from typing import Any

import msgspec
from queue_books import KINDS, MAX_INTERRUPTS, QUEUE, UNACKED, Asked, Ledger, Run

FIRST_BACKOFF = 0.5


class Model:
    """All sessions, and the faults that were seen."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.faults: list[str] = []
        self.ledgers: dict[str, Ledger] = {}
        self.available = True
        self.draining = False
        self.methods = set(KINDS)
        self.totals: dict[str, tuple[int, ...]] = {}

    def expect(self, holds: object, text: str) -> None:
        if not holds:
            self.faults.append(text)

    # ---- what clients send

    def answer(
        self, book: Ledger, id: str | None, method: str, value: int, seq: int | None
    ) -> tuple[Any, ...] | None:
        """What a request is told at once; None: nothing, ``("new",)``: a number."""
        last = len(book.asked)
        said = self._answer(book, id, method, value, seq)
        if said is None or said[0] != "refused":
            return said
        if seq == last + 1:
            book.gap = True
        code, details = said[1:]
        if details is None and seq is not None:
            details = {"seq": seq}
        return "refused", "request", code, id, details

    def _answer(
        self, book: Ledger, id: str | None, method: str, value: int, seq: int | None
    ) -> tuple[Any, ...] | None:
        last = len(book.asked)
        if id is not None and id.startswith("#"):
            return "refused", "bad_message", None
        there = book.remembered(id) if id is not None else None
        if there is not None:
            if (there.method, there.value) != (method, value):
                return "refused", "id_conflict", {"seq": there.seq}
            if there.seq <= book.acked:
                return "refused", "already_acknowledged", {"seq": there.seq}
            if there.seq <= book.settled:
                return "repeat", there.seq
            if there.seq <= book.accepted:
                return "accepted", there.id, there.seq, there.seq - book.settled - 1
            return None
        if seq is not None and seq != last + 1:
            if seq <= book.acked:
                return "refused", "already_acknowledged", {"seq": seq}
            silent, book.gap = book.gap, True
            return None if silent else ("refused", "out_of_order", {"expected": last + 1})
        if book.closing:
            return "refused", "closing", None
        if self.draining:
            return "refused", "draining", None
        if method not in self.methods:
            return "refused", "unknown_method", None
        if not self.available:
            return "refused", "store_unavailable", None
        if last - book.settled >= QUEUE or last - book.acked >= UNACKED:
            return "refused", "queue_full", None
        return ("new",)

    def take(self, book: Ledger, id: str, method: str, value: int) -> None:
        """It was given a number."""
        book.asked.append(Asked(len(book.asked) + 1, id, method, value))
        book.gap = False

    # ---- what handlers do

    def begin(self, id: str, seq: int, number: int, method: str, value: int, now: float) -> Run:
        """A handler was started."""
        book = self.ledgers[id]
        one = book.asked[seq - 1]
        where = f"start of {seq} ({method})"
        self.expect((one.method, one.value) == (method, value), f"{where}: of something else")
        self.expect(book.active is None, f"{where}: another runs")
        self.expect(book.kept_accepted >= seq, f"{where}: not durable")
        ahead = [one, *book.asked[book.settled : seq - 1]] if seq > book.settled + 1 else []
        self.expect(
            all(other.kind.free and (other is one or other.returned) for other in ahead),
            f"{where}: {book.settled} are settled",
        )
        self.expect(one.handed is None, f"{where}: it has an outcome")
        self.expect(not one.cancel, f"{where}: it was cancelled")
        if one.kind.fails:
            self.expect(one.mark, f"{where}: without its mark")
            self.expect(not one.never, f"{where}: it had been interrupted")
        else:
            self._may_run_again(book, one, number, where)
        self._same_process(book, one, where, now)
        if self.policy == "hold" and not (one.mark or self.draining):
            self.expect(book.attached or book.finishing, f"{where}: it is held")
        one.tries += 1
        book.active = run = Run(one, now)
        one.runs.append(run)
        self.expect(1 <= number <= len(one.runs) + one.mark, f"{where}: attempt {number}")
        return run

    def _may_run_again(self, book: Ledger, one: Asked, number: int, where: str) -> None:
        crashes = sum(run.how == "crash" for run in one.runs)
        self.expect(crashes <= MAX_INTERRUPTS, f"{where}: interrupted {crashes} times")
        self.expect(number > bool(crashes), f"{where}: attempt {number} after an interruption")
        self.expect(one.mark or not crashes, f"{where}: no mark after an interruption")
        if one.mark > 1:
            others = [other.active for other in self.ledgers.values() if other is not book]
            beside = [run for run in others if run and run.asked.mark > 1]
            beside = [run for run in beside if not run.asked.kind.fails]
            self.expect(not beside, f"{where}: two that were interrupted twice run at once")

    def _same_process(self, book: Ledger, one: Asked, where: str, now: float) -> None:
        """Within a process only a failed attempt is followed by another."""
        if one.last is None or one.last.how in ("crash", "stopped", "before"):
            return
        self.expect(one.last.how in ("raise", "retry", "timeout"), f"{where}: ran before")
        if one.loose:
            return
        if (one.final or now < one.due - 1e-6) and book.retries:
            book.retries -= 1
            one.loose = True
            return
        self.expect(not one.final, f"{where}: it has had its attempts")
        self.expect(now >= one.due - 1e-6, f"{where}: {one.due - now} s too early")

    def end(self, run: Run, how: str, now: float, body: bytes = b"", after: float = -1) -> None:
        """A handler has ended."""
        one = run.asked
        run.how, run.body = how, body
        for book in self.ledgers.values():
            if book.active is run:
                book.active = None
        if how in ("raise", "retry", "timeout"):
            one.final = one.tries >= one.kind.attempts
            wait = FIRST_BACKOFF * 2 ** (one.tries - 1) / 2
            one.due = now + (after if after >= 0 else wait)

    # ---- what is handed to the journal, and comes back

    def handed(self, write: Any) -> None:
        """A write is on its way."""
        book = self.ledgers[write.session]
        kind = type(write).__name__
        if kind == "Insert":
            row = write.row
            one = book.asked[row.seq - 1] if row.seq == len(book.asked) else None
            if one is None or (one.id, one.method) != (row.id, row.method):
                self.faults.append(f"insert of {row.seq} {row.id}: never taken")
        elif kind == "Settle":
            self._settling(book, write)
        elif kind == "Acknowledge":
            self.expect(
                book.acked < write.seq <= min(book.settled, book.claimed_seq),
                f"acknowledged {write.seq}, of {book.settled}, client {book.claimed_seq}",
            )
            book.acked = write.seq

    def _settling(self, book: Ledger, write: Any) -> None:
        ending, body = write.outcome.ending, write.outcome.body
        where = f"outcome of {write.seq}: {ending} {body!r}"
        if write.seq > len(book.asked):
            self.faults.append(f"{where}: never accepted")
            return
        one = book.asked[write.seq - 1]
        self.expect(one.handed is None, f"{where}: the second")
        self.expect(write.seq <= book.accepted, f"{where}: not accepted yet")
        before = book.asked[book.settled : write.seq - 1]
        # What was cancelled does not run: it may follow what ran ahead.
        may_run_ahead = one.kind.free or ending == "cancelled"
        self.expect(all(other.handed for other in before), f"{where}: out of order")
        self.expect(
            all(
                other.handed
                and (other.handed[0] == "cancelled" or (other.kind.free and may_run_ahead))
                for other in before
            ),
            f"{where}: before the one ahead is durable",
        )
        # Those that end at once are handed over together, when the next one may wait already.
        ahead = book.active is not None and one.kind.free and book.active.asked.seq > one.seq
        self.expect(book.active is None or ahead, f"{where}: while a handler runs")
        one.handed = (ending, body)
        code = "" if ending == "done" else msgspec.json.decode(body)["code"]
        self.expect((code == "cancelled") == (ending == "cancelled"), f"{where}: what?")
        self.expect(one.cancel == (code == "cancelled"), f"{where}: cancel was {one.cancel}")
        if code != "cancelled":
            self.expect(self._deserved(book, one, code, body), f"{where}: {one.last}")

    def _deserved(self, book: Ledger, one: Asked, code: str, body: bytes) -> bool:
        how = one.last.how if one.last else None
        exhausted = one.loose or (one.final and not one.kind.blocks)
        if code == "":
            return how == "ret" and one.last is not None and one.last.body == body
        if code == "skipped":
            book.skips -= 1
            return book.skips >= 0
        if code == "interrupted":
            often = one.suspect and one.mark >= MAX_INTERRUPTS
            return one.never if one.kind.fails else often
        if code == "handler_failed":
            return how in ("raise", "retry") and exhausted
        if code == "timed_out":
            return how == "timeout" and exhausted
        return code == "no_luck" and how == "error"

    def durable(self, writes: list[Any], fenced: set[str]) -> None:
        """A group took effect; perhaps not for the first time."""
        for write in writes:
            book = self.ledgers[write.session]
            kind = type(write).__name__
            if write.session in fenced:
                # Its release had taken effect, and it expired before that could be asked again.
                self.expect(book.state == "gone", f"{kind} was fenced")
                continue
            if kind == "Create":
                book.exists = True
            elif kind == "Insert":
                book.kept_accepted = max(book.kept_accepted, write.row.seq)
            elif kind == "Settle":
                self._kept(book, write)
            elif kind == "MarkCancel":
                book.asked[write.seq - 1].cancel_durable = True
            elif kind == "MarkStart":
                one = book.asked[write.seq - 1]
                one.mark, one.suspect = write.attempt, False
            elif kind == "Acknowledge":
                book.kept_acked = max(book.kept_acked, write.seq)
            elif kind in ("Release", "End"):
                self._given_up(book, write, kind)

    def _kept(self, book: Ledger, write: Any) -> None:
        one = book.asked[write.seq - 1]
        outcome = (write.outcome.ending, write.outcome.body)
        where = f"outcome of {write.seq}"
        self.expect(one.outcome in (None, outcome), f"{where} changes from {one.outcome}")
        self.expect(write.seq <= book.kept_settled + 1, f"{where} leaves a gap")
        one.outcome = outcome
        book.kept_settled = max(book.kept_settled, write.seq)

    def _given_up(self, book: Ledger, write: Any, kind: str) -> None:
        book.owned = False
        receipt = book.receipt = write.receipt
        told = (
            receipt.accepted,
            receipt.done,
            receipt.failed,
            receipt.cancelled,
            receipt.pending,
        )
        if book.state == "live":
            self.expect(told == book.counts(), f"{receipt} of {book.counts()}")
        self.expect(receipt.verified, f"{receipt}")
        self.expect(book.active is None, f"{kind} while a handler runs")
        if kind == "End":
            self.expect(not receipt.pending, f"ended with work: {receipt}")
            book.state = "ended"
        else:
            book.clean = write.clean
            pending = receipt.pending > 0
            self._left_behind(book, write)
            self.expect(pending or not (write.open or write.held), f"open without work: {write}")
            self.expect(not (write.open and write.held), f"open and held: {write}")

    def _left_behind(self, book: Ledger, write: Any) -> None:
        """Why its work stays, who takes it up again, and what they must know."""
        if book.kept_settled == book.kept_accepted:
            self.expect(write.clean, "released as if it had crashed")
            return
        head = book.asked[book.kept_settled]
        # What is not run twice anyway has only its mark to tell of an interruption.
        unclean = head.suspect or head.kind.fails or (self.draining and head.mark)
        self.expect(write.clean or unclean, "released as if it had crashed")
        tried = head.runs or head.method not in self.methods
        held = self.policy == "hold"
        self.expect(tried or held or self.draining, f"not finished: {book.id[:4]}")
        if write.open and head.due and not head.final and not self.draining:
            book.back = head.due

    def answered(self, book: Ledger, write: Any) -> tuple[Any, ...] | None:
        """The journal reports a write. What the attached connection must hear of it."""
        kind = type(write).__name__
        if kind == "Insert":
            book.accepted = write.row.seq
            one = book.asked[write.row.seq - 1]
            return "accepted", one.id, one.seq, one.seq - book.settled - 1
        if kind == "Settle":
            book.settled = write.seq
            return "outcome", write.seq, write.outcome.ending, write.outcome.body
        if kind == "MarkCancel":
            book.asked[write.seq - 1].cancel_told = True
            return "cancelling", book.asked[write.seq - 1].id
        if kind in ("Release", "End"):
            self.left(book, write.receipt, True)
        return None

    def left(self, book: Ledger, receipt: Any, sure: bool) -> None:
        """Its queue is gone, and its receipt counts; ``sure``: it was still this node's."""
        counts = (receipt.accepted, receipt.done, receipt.failed, receipt.cancelled)
        if receipt.accepted:
            self.totals[book.id] = (*counts, receipt.pending, receipt.verified and sure)

    # ---- what befalls sessions

    def claimed(self, book: Ledger) -> None:
        """Taken up from the store: what was not durable is gone."""
        self.expect(not book.owned, f"claimed from a living owner: {book.id[:4]}")
        self.totals.pop(book.id, None)
        book.owned, book.back = True, None
        was_clean, book.clean = book.clean, False
        del book.asked[book.kept_accepted :]
        book.accepted, book.settled = book.kept_accepted, book.kept_settled
        book.acked = book.kept_acked
        book.gap = book.closing = book.expiring = False
        for one in book.asked[book.settled :]:
            one.cancel = one.by_id = one.cancel_durable
            one.handed = None
        if book.settled < book.accepted:
            head = book.asked[book.settled]
            head.suspect = not was_clean
            if head.kind.fails and head.mark:
                head.never = True

    def died(self) -> None:
        """The process is gone, cleanly or not."""
        self.totals.clear()
        self.available, self.draining = True, False
        for book in self.ledgers.values():
            book.active = book.back = None
            book.attached, book.finishing = 0, False
            # A session that was released is as its owner left it.
            for n, one in enumerate(book.asked[book.kept_settled :]):
                # Behind the head only what is idempotent can have run.
                how = "crash" if book.owned and not n else "before"
                one.tries, one.due, one.final, one.loose = 0, 0.0, False, False
                last = one.last
                if last is not None and last.how != "crash":
                    last.how = how
            book.owned = False
