"""A node without sockets: a real registry, queues, journal and runner over a store in memory.

Connections are :class:`Peer` objects, which write down what they are told.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from memory_store import Database, MemoryStore
from msgspec import UNSET, Raw

from inorder.codes import CloseCode
from inorder.messages import Receipt, Request
from inorder_server import config
from inorder_server.auth import Identity
from inorder_server.handlers import Retry, handler
from inorder_server.handlers.api import Request as HandlerRequest
from inorder_server.handlers.api import options_of
from inorder_server.handlers.methods import Method, Methods
from inorder_server.handlers.runner import Runner
from inorder_server.journal import Journal
from inorder_server.metrics import Metrics
from inorder_server.node import Node
from inorder_server.queue import Queue
from inorder_server.refusal import Refusal
from inorder_server.registry import Registry
from inorder_server.session import Entry, Refused
from inorder_server.stores.port import Outcome, Store


class Peer:
    """A connection that writes down what it is told: a :class:`inorder_server.queue.Link`."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.closed: tuple[int, str] | None = None
        self.receipt: Receipt | None = None
        self.fails_at: str | None = None
        self.gone = False
        self.takes_all = asyncio.Event()
        self.takes_all.set()
        # What became of the newest `accepted`: whether its outcome is still expected.
        self.expects: bool | None = None

    def _say(self, *words: Any) -> None:
        if words[0] == self.fails_at:
            raise RuntimeError(f"the peer fails at {words[0]}")
        self.said.append(words)

    def accepted(self, entries: Sequence[Entry], ahead: int, expected: bool) -> None:
        self.expects = expected
        for n, entry in enumerate(entries):
            self._say("accepted", entry.id, entry.seq, ahead + n)

    def unexpected(self) -> None:
        self.expects = False

    def progress(self, request: HandlerRequest, n: int, body: bytes) -> None:
        self._say("progress", request.seq, request.attempt, n, json.loads(body))

    def settled(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._say("outcome", outcome.seq, outcome.ending, json.loads(outcome.body))

    def repeat(self, seq: int) -> None:
        self._say("repeat", seq)

    def cancelling(self, entry: Entry) -> None:
        self._say("cancelling", entry.id)

    def refused(self, of: str, refused: Refused, id: str | None) -> None:
        self._say("refused", of, refused.code, id, refused.details)

    def shut(self, code: CloseCode, reason: str) -> None:
        self.closed = self.closed or (int(code), reason)
        self.takes_all.set()
        self._say("shut", int(code), reason)

    def finish(self, code: CloseCode, reason: str) -> None:
        self.closed = self.closed or (int(code), reason)
        self.takes_all.set()
        self._say("finish", int(code), reason)

    def draining(self, deadline: float) -> None:
        self._say("draining", deadline)

    async def caught_up(self) -> bool:
        return await self.takes_all.wait() and self.closed is None

    def farewell(self, receipt: Receipt) -> None:
        self.receipt = receipt
        self._say("farewell", receipt)

    def heard(self, kind: str) -> list[Any]:
        """What was said of this kind, without the word itself."""
        return [
            words[1:] if len(words) > 2 else words[1] for words in self.said if words[0] == kind
        ]

    @property
    def outcomes(self) -> list[tuple[int, str, Any]]:
        """(seq, how it ended, result or error code) of each outcome."""
        return [
            (seq, ending, body if ending == "done" else body["code"])
            for seq, ending, body in self.heard("outcome")
        ]

    @property
    def refusals(self) -> list[str]:
        """The codes of refusals."""
        return [code for _, code, _, _ in self.heard("refused")]


class Bench:
    """One process of a server. ``restart`` is the next one on the same store."""

    def __init__(
        self,
        *functions: Callable[..., Any],
        store: Store | None = None,
        name: str = "n1",
        now: Callable[[], float] | None = None,
        rate: float = 0,
        drain: float = 1,
        **session: Any,
    ) -> None:
        self.functions = functions
        self.store: Any = store if store is not None else MemoryStore()
        self.name = name
        self.session = session
        self.rate = rate
        self.drain_timeout = drain
        loop = asyncio.get_running_loop()
        methods = Methods([method(f) for f in (echo, *functions)], [])
        self.metrics = Metrics()
        self.journal = Journal(self.store, self.metrics)
        self.runner = Runner(
            methods,
            threads=2,
            outcome_bytes=10_000,
            clock=loop.time,
            wall=lambda: loop.time() + 1e6,
        )
        self.node = Node(
            name,
            config.Config(
                session=config.Session(**session),
                limits=config.Limits(rate=rate),
                folder=Path(),
            ),
            self.store,
            self.journal,
            methods,
            self.runner,
            self.metrics,
            now=now or loop.time,
            wall_ms=lambda: round(loop.time() * 1000),
        )
        self.registry = Registry(self.node)

    async def start(self) -> None:
        await self.store.open(self.name)
        await self.runner.start()
        self.journal.start()

    async def stop(self) -> list[str]:
        left = await self.registry.drain(self.drain_timeout)
        await self.registry.close()
        await self.journal.close(0.25)
        left += await self.runner.close(0.25)
        await self.store.close()
        return left

    async def die(self) -> None:
        """As SIGKILL would have it: nothing is finished or handed back."""
        for queue in self.registry.queues.values():
            queue.consumer.cancel()
        await self.registry.close()
        if self.journal._task is not None:
            self.journal._task.cancel()
            await asyncio.wait([self.journal._task])
        await self.runner.close(0)

    @property
    def database(self) -> Database:
        found: Database = self.store.database
        return found

    async def open(
        self,
        session: str | None = None,
        seq: int | None = None,
        accepted: int | None = None,
        *,
        user: str = "ada",
        admin: bool = False,
        peer: Peer | None = None,
    ) -> tuple[Queue, Peer]:
        """A connection that is attached."""
        peer = peer or Peer()
        opened = await self.registry.open(
            Identity(user, admin, 1), peer, session=session, seq=seq, accepted=accepted
        )
        return opened.queue, peer


def method(function: Callable[..., Any]) -> Method:
    options = options_of(function) or options_of(handler(function))
    assert options is not None
    return Method(function, options)


@handler
async def echo(request: Any, value: Any = None) -> Any:
    """Returns what it is given."""
    return value


def ask(
    method: str = "echo",
    params: Any = UNSET,
    *,
    id: str | None = None,
    seq: int | None = None,
    timeout: float | None = None,
) -> Request:
    """A request message."""
    raw = UNSET if params is UNSET else Raw(json.dumps(params).encode())
    return Request(method=method, params=raw, id=id, seq=seq, timeout=timeout)


@asynccontextmanager
async def serving(*functions: Callable[..., Any], **options: Any) -> AsyncIterator[Bench]:
    """A node that runs; afterwards nothing of it may be left."""
    bench = Bench(*functions, **options)
    await bench.start()
    yield bench
    await bench.stop()
    assert tasks() == []


@asynccontextmanager
async def after_a_crash(
    dead: Bench, *functions: Callable[..., Any], **options: Any
) -> AsyncIterator[Bench]:
    """The next process on the store of one that was killed."""
    await dead.die()
    store = MemoryStore(dead.database)
    options = dead.session | {"name": dead.name + "'"} | options
    async with serving(*(functions or dead.functions), store=store, **options) as bench:
        yield bench


def tasks() -> list[str]:
    """The names of all tasks but the one that asks."""
    return sorted(t.get_name() for t in asyncio.all_tasks() if t is not asyncio.current_task())


async def settled(turns: int = 50) -> None:
    """Lets the loop turn: everything that needs no time happens."""
    for _ in range(turns):
        await asyncio.sleep(0)


def tasks_of(session: str) -> list[str]:
    """The tasks of a session."""
    return [name for name in tasks() if session in name]


async def work(request: Any, seconds: float = 0) -> int:
    await asyncio.sleep(seconds)
    return int(request.seq)


@handler(attempts=2)
async def later(request: Any) -> str:
    """Asks for another attempt in a minute."""
    if request.attempt == 1:
        raise Retry(after=60)
    return "at last"


async def three(bench: Bench, seconds: float = 5) -> tuple[Queue, Peer]:
    """A session whose first of three requests runs."""
    queue, peer = await bench.open()
    for n in range(3):
        queue.request(ask("work", {"seconds": seconds}, id=f"r{n}"))
    await settled()
    return queue, peer


async def gone(bench: Bench, session: str, **claims: Any) -> str:
    """The code with which a hello is refused."""
    with pytest.raises(Refusal) as refused:
        await bench.open(session, **claims)
    return refused.value.code


async def left(bench: Bench, queue: Queue, peer: Peer) -> None:
    """The connection goes; whatever needs no time happens."""
    bench.registry.detach(queue, peer)
    await settled()


def receipt(bench: Bench, session: str) -> Receipt:
    """The newest one in the store."""
    found = bench.database.sessions[session].receipt
    assert isinstance(found, Receipt)
    return found
