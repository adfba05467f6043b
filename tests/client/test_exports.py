"""What ``import inorder`` gives."""

from __future__ import annotations

import inspect

import inorder
import inorder.aio
import inorder.errors
import inorder.sync


def test_names_are_there_sorted_and_documented():
    assert (
        sorted(inorder.__all__, key=lambda n: (not n.isupper(), n.islower(), n)) == inorder.__all__
    )
    for name in inorder.__all__:
        assert inspect.getdoc(getattr(inorder, name)), name


def test_all_errors_are_exported():
    assert set(inorder.errors.__all__) <= set(inorder.__all__)


def public(cls: type) -> set[str]:
    return {name for name in vars(cls) if not name.startswith("_")}


def test_sync_has_the_same_names():
    assert public(inorder.sync.Session) == public(inorder.Session)
    assert public(inorder.sync.Job) == public(inorder.Job) | {"result"}
    assert set(inorder.sync.__all__) == set(inorder.aio.__all__)
