"""A refusal carries what the gateway needs for an ``error``."""

from __future__ import annotations

from inorder_server.refusal import Refusal


def test_refusal() -> None:
    refusal = Refusal("rate_limited", "wait", after=2, details={"a": 1})
    assert str(refusal) == "rate_limited: wait"
    assert (refusal.code, refusal.message) == ("rate_limited", "wait")
    assert (refusal.after, refusal.details) == (2, {"a": 1})
    assert (Refusal("x", "y").after, Refusal("x", "y").details) == (None, None)
