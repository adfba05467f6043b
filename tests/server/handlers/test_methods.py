"""Collecting methods from modules."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inorder_server.handlers.methods import HandlerError, InvalidParams, Methods, load

Write = Callable[..., list[str]]
_number = itertools.count()


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes modules under names that no other test has; returns those names. ``{0}`` in a
    text stands for the first one's name."""
    before = list(sys.path)
    made: list[str] = []

    def write(*texts: str) -> list[str]:
        names = [f"handlers_under_test_{next(_number)}" for _ in texts]
        for name, text in zip(names, texts, strict=True):
            head = "from inorder_server import *\nfrom inorder_server import Request, Params\n"
            body = text.replace("{0}", names[0])
            (tmp_path / f"{name}.py").write_text(head + body)
        made.extend(names)
        return names

    yield write
    sys.path[:] = before
    for name in made:
        sys.modules.pop(name, None)


GOOD = '''
@handler
def add(request: Request, a: int, b: int = 1) -> int:
    """Adds.

    And more.
    """
    return a + b

@handler("secret", timeout=3, attempts=2, retry_on=KeyError, concurrency=4, admin=True,
         on_interrupt="fail", on_exhausted="block")
async def hidden(request: Request) -> None: ...

def unmarked(request): ...
'''


def test_what_is_marked_is_collected(write: Write, tmp_path: Path) -> None:
    methods = load(write(GOOD), tmp_path, builtin=True)
    assert [method.name for method in methods] == ["echo", "sleep", "add", "secret"]
    assert len(methods) == 4
    add, secret = methods.get("add"), methods.get("secret")
    assert add is not None
    assert secret is not None
    assert methods.get("unmarked") is methods.get("hidden") is None
    assert add.doc == "Adds."
    assert add.schema["required"] == ["a"]
    assert add.bind(b"[1]") == {"a": 1}
    with pytest.raises(InvalidParams, match="missing `a`"):
        add.bind(None)
    assert not add.is_async
    assert (add.timeout, add.attempts, add.retry_on, add.concurrency) == (60, 1, (Exception,), None)
    assert (add.admin, add.on_interrupt, add.on_exhausted) == (False, "retry", "fail")
    assert not add.idempotent
    assert secret.doc == ""
    assert secret.is_async
    assert (secret.timeout, secret.attempts, secret.concurrency) == (3, 2, 4)
    assert (secret.retry_on, secret.admin) == ((KeyError,), True)
    assert (secret.on_interrupt, secret.on_exhausted) == ("fail", "block")


def test_lines_by_name_and_those_for_administrators_apart(write: Write, tmp_path: Path) -> None:
    methods = load(write(GOOD), tmp_path, builtin=True)
    assert [line.name for line in methods.lines(admin=False)] == ["add", "echo", "sleep"]
    lines = methods.lines(admin=True)
    assert [line.name for line in lines] == ["add", "echo", "secret", "sleep"]
    assert lines[0].params == methods.get("add").schema  # type: ignore[union-attr]
    assert [line.admin for line in lines] == [False, False, True, False]


def test_nothing_at_all(tmp_path: Path) -> None:
    before = list(sys.path)
    assert len(load([], tmp_path, builtin=False)) == 0
    assert sys.path == before
    assert len(Methods([], [])) == 0


def test_the_folder_comes_first(write: Write, tmp_path: Path) -> None:
    (name,) = write(GOOD)
    assert load([name], tmp_path, builtin=False).get("add")
    assert sys.path[0] == str(tmp_path)
    load([name, name], tmp_path, builtin=False)
    assert sys.path[1] != str(tmp_path)


def test_a_function_that_was_imported_counts_once(write: Write, tmp_path: Path) -> None:
    names = write(GOOD, "from {0} import add, add as plus\n")
    assert len(load(names, tmp_path, builtin=False)) == 2
    assert len(load(names[1:], tmp_path, builtin=False)) == 1


def test_an_async_function_behind_a_plain_decorator_is_async(write: Write, tmp_path: Path) -> None:
    names = write("""
import functools
def decorate(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

@handler
@decorate
async def wrapped(request: Request, a: int) -> int:
    return a
""")
    method = load(names, tmp_path, builtin=False).get("wrapped")
    assert method is not None
    assert method.is_async
    assert method.bind(b"1") == {"a": 1}


LIFE = """
@lifespan
async def life():
    yield 1
@handler
def {}(request: Request): ...
"""


def test_a_lifespan_is_its_modules(write: Write, tmp_path: Path) -> None:
    other = "@handler\ndef other(request: Request): ...\n"
    names = write(LIFE.replace("{}", "a"), LIFE.replace("{}", "b"), other)
    methods = load(names, tmp_path, builtin=False)
    first, second = methods.lifespans
    assert first is not second
    assert [method.lifespan for method in methods] == [first, second, None]


def test_the_only_lifespan_is_everybodys(write: Write, tmp_path: Path) -> None:
    names = write(LIFE.replace("{}", "a"), "from {0} import life\n", GOOD)
    methods = load(names, tmp_path, builtin=False)
    (life,) = methods.lifespans
    assert [method.lifespan for method in methods] == [life] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def unmarked(request): ...\n", "no function is marked with @handler"),
        ("x = 1\n", "no function is marked"),
        ("1 / 0\n", "can't be imported: ZeroDivisionError: division by zero"),
        ("def (\n", "can't be imported: SyntaxError: "),
        ("raise SystemExit(3)\n", "can't be imported: SystemExit: 3"),
        ("import there_is_no_such\n", "can't be imported: ModuleNotFoundError: No module named"),
        ("@handler\ndef f(request: Request, a): ...\n", r"\.f: `a` needs an annotation"),
        ("@handler\ndef f(request: Request, *a: int): ...\n", r"\.f: `\*a: "),
        ("@handler(timeout=0)\ndef f(request: Request): ...\n", r"\.f: timeout is"),
        (
            "@handler\ndef f(request: Request): ...\n"
            "@handler(name='f')\ndef g(request: Request): ...\n",
            r"\.g: the name 'f' is taken by handlers_under_test_\d+\.f$",
        ),
        (
            "@handler\ndef echo(request: Request): ...\n",
            r"\.echo: the name 'echo' is taken by inorder_server\.handlers\.builtin\.echo "
            r"\(builtin = false leaves it out\)",
        ),
        (
            "@lifespan\nasync def a():\n    yield\n@lifespan\nasync def b():\n    yield\n",
            "one lifespan a module, not a and b",
        ),
    ],
)
def test_what_stops_the_start(write: Write, tmp_path: Path, text: str, message: str) -> None:
    names = write(text)
    with pytest.raises(HandlerError, match=message) as caught:
        load(names, tmp_path, builtin=True)
    line = str(caught.value)
    assert names[0] in line
    assert "\n" not in line


def test_a_file_where_a_module_is_meant(tmp_path: Path) -> None:
    with pytest.raises(HandlerError, match="a module's name is meant: 'mine'"):
        load(["mine.py"], tmp_path, builtin=False)
