"""Whether a receipt holds, and what a node's sessions came to."""

from __future__ import annotations

from typing import Any

import pytest

from inorder.messages import Receipt
from inorder_server.receipts import Totals, verify
from inorder_server.session import Counts
from inorder_server.stores.port import Tally


def check(
    counts: Counts, tally: Tally, *, ended: bool = True, left: int = 0
) -> tuple[Receipt, list[str]]:
    return verify("s", counts, tally, consumer_ended=ended, left_in_memory=left)


def test_two_countings_that_agree() -> None:
    receipt, findings = check(Counts(10, 5, 2, 1, 2), Tally(5, 2, 1, 2))
    assert findings == []
    assert receipt == Receipt("s", 10, 5, 2, 1, 2, True)


def test_nothing_accepted_is_nothing_to_hold_against_it() -> None:
    receipt, _ = check(Counts(0, 0, 0, 0, 0), Tally(0, 0, 0, 0))
    assert receipt == Receipt("s", 0, 0, 0, 0, 0, True)


@pytest.mark.parametrize(
    ("tally", "word"),
    [
        (Tally(4, 2, 1, 2), "done: the queue counted 5, the journal 4"),
        (Tally(5, 3, 1, 2), "failed: the queue counted 2, the journal 3"),
        (Tally(5, 2, 0, 2), "cancelled: the queue counted 1, the journal 0"),
        (Tally(5, 2, 1, 3), "pending: the queue counted 2, the journal 3"),
    ],
)
def test_a_journal_that_counts_otherwise(tally: Tally, word: str) -> None:
    receipt, findings = check(Counts(10, 5, 2, 1, 2), tally)
    assert not receipt.verified
    assert findings == [word]


def test_numbers_that_do_not_add_up() -> None:
    receipt, findings = check(Counts(11, 5, 2, 1, 2), Tally(5, 2, 1, 2))
    assert not receipt.verified
    assert "do not add up" in findings[0]


def test_a_queue_that_is_not_empty_and_a_consumer_that_lives() -> None:
    receipt, findings = check(Counts(1, 0, 0, 0, 1), Tally(0, 0, 0, 1), ended=False, left=1)
    assert not receipt.verified
    assert findings == ["the consumer has not ended", "1 requests are still in the queue"]


def test_every_finding_is_named() -> None:
    _, findings = check(Counts(9, 5, 2, 1, 2), Tally(0, 0, 0, 0), ended=False, left=3)
    assert len(findings) == 7


def receipt(accepted: int, verified: bool = True, **counts: Any) -> Receipt:
    numbers = {"done": 0, "failed": 0, "cancelled": 0, "pending": 0} | counts
    return Receipt("s", accepted, **numbers, verified=verified)


def test_totals_add_up() -> None:
    totals = Totals()
    totals.add(receipt(3, done=2, failed=1))
    totals.add(receipt(2, cancelled=1, pending=1, verified=False))
    assert str(totals) == (
        "2 sessions, 5 accepted, 2 done, 1 failed, 1 cancelled, 1 pending, 1 verified"
    )


def test_a_session_that_comes_back_is_taken_back() -> None:
    totals, first = Totals(), receipt(3, done=1, pending=2)
    totals.add(first)
    totals.add(first, -1)
    assert totals == Totals()
    totals.add(receipt(4, done=4))
    assert (totals.sessions, totals.accepted, totals.pending, totals.verified) == (1, 4, 0, 1)
