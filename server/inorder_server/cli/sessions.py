"""``inorder sessions``, ``requests`` and ``verify``: what the journal holds."""

from __future__ import annotations

import time
from typing import Any

import click
import msgspec
from msgspec import structs

from ..config import Config
from ..logs import one_line
from ..stores.port import RequestRow, SessionRow, Store, Tally
from .group import configured, json_option
from .output import print_json, print_table, when
from .stores import with_store


@click.command()
@click.option("--user", "name", help="Only this user's.")
@json_option
@configured
def sessions(config: Config, name: str | None, as_json: bool) -> None:
    """Every session that is known, newest first."""

    async def work(store: Store) -> list[tuple[SessionRow, Tally]]:
        rows = await store.sessions()
        return [(row, await store.tally(row.id)) for row in rows if name in (None, row.user)]

    found = with_store(config, work)
    if as_json:
        print_json([_session(row, tally) for row, tally in found])
        return
    print_table(
        ("session", "user", "state", "accepted", "done", "failed", "cancelled", "pending", "when"),
        (
            (row.id, row.user, row.state, row.accepted, *_counts(row, tally), when(row.left_ms))
            for row, tally in found
        ),
    )


def _counts(row: SessionRow, tally: Tally) -> tuple[int, ...]:
    # The rows of an ended session are gone; its receipt has the numbers.
    kept = row.receipt if row.state == "ended" and row.receipt is not None else tally
    return kept.done, kept.failed, kept.cancelled, kept.pending


def _session(row: SessionRow, tally: Tally) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(row)
    counts = _counts(row, tally)
    return shown | dict(zip(("done", "failed", "cancelled", "pending"), counts, strict=True))


@click.group()
def requests() -> None:
    """The requests of a session."""


@requests.command("list")
@click.argument("session")
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only those behind this seq.")
@json_option
@configured
def list_(config: Config, session: str, after: int, as_json: bool) -> None:
    """The requests of SESSION that the journal still has."""

    async def work(store: Store) -> list[RequestRow] | None:
        if await store.session(session) is None:
            return None
        return [row async for row in store.requests(session, after)]

    rows = with_store(config, work)
    if rows is None:
        raise click.ClickException(f"{session}: no such session")
    if as_json:
        print_json([_request(row) for row in rows])
        return
    print_table(
        ("seq", "id", "method", "state", "attempt", "when"),
        ((r.seq, r.id, r.method, _state(r), r.attempt or "", _when(r)) for r in rows),
    )


@requests.command()
@click.argument("session")
@click.argument("id", required=False)
@configured
def retry(config: Config, session: str, id: str | None) -> None:
    """Run the request again that blocks SESSION's queue (ID makes sure that it is this one)."""
    _say(config, "retry", session, id)


@requests.command()
@click.argument("session")
@click.argument("id", required=False)
@configured
def skip(config: Config, session: str, id: str | None) -> None:
    """Give the request that blocks SESSION's queue the outcome `skipped`, and go on."""
    _say(config, "skip", session, id)


def _say(config: Config, verb: str, session: str, id: str | None) -> None:
    """Leaves an operator's command for the node that runs the session, or will."""

    async def work(store: Store) -> RequestRow:
        if await store.session(session) is None:
            raise click.ClickException(f"{session}: no such session")
        async for row in store.requests(session):
            if row.ending is None and not row.stripped:
                break
        else:
            raise click.ClickException(f"{session}: nothing is unfinished")
        if id not in (None, row.id):
            raise click.ClickException(f"{session}: at the head is {row.id}, not {id}")
        await store.post(verb, session, row.id, time.time_ns() // 1_000_000)
        return row

    row = with_store(config, work)
    name = one_line(row.id)
    click.echo(f"{verb} of {name} (seq {row.seq}, {row.method}): a running server does it now")


def _state(row: RequestRow) -> str:
    if row.stripped:
        return "acknowledged"
    return row.ending or ("cancelling" if row.cancel else "waiting")


def _when(row: RequestRow) -> str:
    return "" if row.stripped else when(row.settled_ms or row.accepted_ms)


def _request(row: RequestRow) -> dict[str, Any]:
    shown: dict[str, Any] = {"seq": row.seq, "id": row.id, "state": _state(row)}
    if row.stripped:
        return shown
    shown |= {
        "method": row.method,
        "attempt": row.attempt,
        "accepted_ms": row.accepted_ms,
        "settled_ms": row.settled_ms,
    }
    if row.params is not None:
        shown["params"] = msgspec.Raw(row.params)
    if row.outcome is not None:
        shown["result" if row.ending == "done" else "error"] = msgspec.Raw(row.outcome)
    return shown


@click.command()
@json_option
@configured
def verify(config: Config, as_json: bool) -> int:
    """Check the whole journal: one outcome each, no duplicates, receipts that add up."""
    from ..verify import audit

    report = with_store(config, audit)
    if as_json:
        print_json(report)
    else:
        for name, value in structs.asdict(report).items():
            if name != "findings":
                click.echo(f"{name}: {value}")
        for finding in report.findings:
            click.echo(f"FOUND {one_line(finding)}")
        click.echo(f"the journal is {'as' if report.clean else 'not as'} promised")
    return 0 if report.clean else 1
