"""Accepted means on the disk: the kernel's own account of what the server did, in order.

A test that kills the process can't tell ``synchronous=OFF`` from ``FULL``, since the kernel
keeps what was written. Here strace shows that the write-ahead log was synced in between.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from frames import RawClient, request
from tools import tool

_CALLS = "read,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,pwritev,fdatasync,fsync"
_READS = {"read", "recvfrom", "recvmsg"}
_WRITES = {"write", "writev", "sendto", "sendmsg"}
_SYNCS = {"fdatasync", "fsync"}

_LINE = re.compile(r"(\d+) +[\d:.]+ (.*)")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)")
_CALL = re.compile(r"(\w+)\(\d+<([^>]*)>(.*)\) += (-?\d+)")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


@dataclass
class Call:
    """A system call that returned. ``begun`` and ``ended`` are lines of the trace."""

    name: str
    path: str
    data: bytes
    result: int
    begun: int
    ended: int


def parse(trace: str) -> list[Call]:
    """The calls in the order in which they returned."""
    calls = []
    open_calls: dict[str, tuple[str, int]] = {}
    for n, line in enumerate(trace.splitlines()):
        matched = _LINE.fullmatch(line)
        if matched is None:
            continue
        thread, text = matched.groups()
        begun = n
        if text.endswith(" <unfinished ...>"):
            open_calls[thread] = text.removesuffix(" <unfinished ...>"), n
            continue
        if resumed := _RESUMED.fullmatch(text):
            head, begun = open_calls.pop(thread)
            text = head + resumed[1]
        if call := _CALL.match(text):
            name, path, rest, result = call.groups()
            # strace quotes as C does, and Python's bytes read that.
            data = b"".join(ast.literal_eval("b" + part) for part in _STRING.findall(rest))
            calls.append(Call(name, path, data, int(result), begun, n))
    return calls


def unmasked(data: bytes) -> bytes:
    """What stands in a client's frame (RFC 6455, 5.2), if it is one whole short frame."""
    if len(data) < 6 or data[0] != 0x81 or not data[1] & 0x80:
        return b""
    length = data[1] & 0x7F
    start = 2
    if length == 126:
        length, start = int.from_bytes(data[2:4], "big"), 4
    mask, payload = data[start : start + 4], data[start + 4 :]
    assert len(payload) == length
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def strace() -> str:
    """The program, where it may trace."""
    found = tool("strace")
    tried = subprocess.run([found, "-o", os.devnull, "true"], capture_output=True, text=True)
    if tried.returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no tracing: {tried.stderr}")
    return found


async def whole(trace: Path) -> list[Call]:
    """Waits for the tracer's last word, which comes after the server's end."""
    async with asyncio.timeout(15):
        while True:
            text = trace.read_text(errors="replace")
            first = text.split(" ", 1)[0]
            if re.search(rf"^{first} +[\d:.]+ \+\+\+", text, re.MULTILINE):
                return parse(text)
            await asyncio.sleep(0.02)


class Trace:
    """The calls on one socket and one write-ahead log."""

    def __init__(self, calls: list[Call], log: Path) -> None:
        self._calls = calls
        self._log = str(log)

    def read(self, text: bytes) -> Call:
        """The read that brought a frame with this text."""
        return self._one(lambda c: c.name in _READS and text in unmasked(c.data))

    def write(self, *texts: bytes) -> Call:
        """The first write to a socket with all these texts in it."""
        return self._one(
            lambda c: (
                c.name in _WRITES and "socket" in c.path and all(text in c.data for text in texts)
            )
        )

    def logged(self, text: bytes, after: Call) -> Call:
        """The first write to the log with this text, begun after that call."""
        return self._one(
            lambda c: (
                c.name.startswith("pwrite")
                and c.path == self._log
                and text in c.data
                and c.begun > after.ended
            )
        )

    def synced_between(self, first: Call, second: Call) -> bool:
        """Whether a sync of the log began after the one had returned, and returned, with
        success, before the other began."""
        return any(
            call.name in _SYNCS
            and call.path == self._log
            and call.result == 0
            and first.ended < call.begun
            and call.ended < second.begun
            for call in self._calls
        )

    def _one(self, wanted) -> Call:
        return next(call for call in self._calls if wanted(call))


@pytest.mark.slow
@pytest.mark.sqlite("it watches the server sync SQLite's log")
async def test_synced_before_it_is_said(serve, tmp_path: Path) -> None:
    trace_file = tmp_path / "trace"
    options = ["-D", "-f", "-tt", "-y", "-s", "1000000", "-e", f"trace={_CALLS}"]
    server = await serve(prefix=[strace(), *options, "-o", str(trace_file)])
    async with RawClient(server.url) as client:
        await client.register("ann", "correct horse")
        for seq in (1, 2):
            # Nothing else is under way: what is synced is synced for this request.
            await client.send(request("sleep", 0.3125, id=f"lone-{seq}", seq=seq))
            await client.until_outcome(seq)
        await client.send(request("sleep", 60, id="lone-3", seq=3))
        await client.until(lambda m: m.get("id") == "lone-3" and m["type"] == "accepted")
        await client.send({"type": "cancel", "id": "lone-3"})
        await client.until_outcome(3)
    await server.stop()
    await server.ended()

    trace = Trace(await whole(trace_file), server.database.with_name("inorder.db-wal"))
    for seq in (1, 2):
        id = b'"id":"lone-%d"' % seq
        came = trace.read(b'"lone-%d"' % seq)
        accepted = trace.write(b'"type":"accepted"', id)
        logged = trace.logged(b"lone-%d" % seq, after=came)
        assert logged.ended < accepted.begun
        assert trace.synced_between(logged, accepted), f"{seq} was accepted before it was synced"
        outcome = trace.write(b'"type":"result"', id)
        logged = trace.logged(b'"slept"', after=accepted)
        assert logged.ended < outcome.begun
        assert trace.synced_between(logged, outcome), f"{seq} was told before it was synced"
    came = trace.read(b'"cancel"')
    cancelling = trace.write(b'"type":"cancelling"')
    assert trace.synced_between(came, cancelling), "the cancel was answered before it was synced"


def test_the_trace_is_read_right() -> None:
    """Calls that others interrupt, failed ones, and bytes of all kinds."""
    trace = "\n".join(
        [
            r'7 10:00:00.1 read(20<socket:[9]>, "\201\205\0\0\0\0hello", 64) = 11',
            r"8 10:00:00.2 fdatasync(14</a/inorder.db-wal> <unfinished ...>",
            r'7 10:00:00.3 write(20<socket:[9]>, "early \"said\"", 12) = 12',
            r"8 10:00:00.4 <... fdatasync resumed>) = 0",
            r'7 10:00:00.5 write(20<socket:[9]>, "\2011late", 6) = 6',
            r"8 10:00:00.6 fdatasync(14</a/inorder.db-wal>) = -1 EIO (Input/output error)",
            r'7 10:00:00.7 write(20<socket:[9]>, "last", 4) = 4',
            "7 10:00:00.8 +++ exited with 0 +++",
        ]
    )
    calls = parse(trace)
    assert [call.name for call in calls] == [
        "read",
        "write",
        "fdatasync",
        "write",
        "fdatasync",
        "write",
    ]
    assert unmasked(calls[0].data) == b"hello"
    assert calls[3].data == b"\x811late"
    seen = Trace(calls, Path("/a/inorder.db-wal"))
    came, early, late, last = (
        seen.read(b"hello"),
        seen.write(b'early "said"'),
        seen.write(b"late"),
        seen.write(b"last"),
    )
    assert not seen.synced_between(came, early)
    assert seen.synced_between(came, late)
    assert not seen.synced_between(late, last)
