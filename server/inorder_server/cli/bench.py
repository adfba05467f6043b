"""``inorder bench``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..bench.crew import Crew, processes_for
from ..bench.login import log_in
from ..bench.plan import BenchError, Plan, Report
from ..config import Config
from .call import default_url
from .group import configured, json_option
from .output import print_json
from .user import password_option, read_password

# 100 bytes of JSON.
_PARAMS = json.dumps({"text": ("inorder " * 10)[:77], "number": 42}, separators=(",", ":"))
_PERCENTS = (50, 90, 99, 99.9)
_BUSY = 0.9  # of a core
_positive = click.FloatRange(min=0, min_open=True)


@click.command()
@click.option("--connections", type=click.IntRange(min=1), default=50, show_default=True)
@click.option(
    "--in-flight",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Requests under way, for each connection.",
)
@click.option(
    "--rate",
    type=_positive,
    help="Requests a second in all, sent when they are due whatever became of those before. "
    "Without it each connection sends the next when an outcome came.",
)
@click.option("--single-frames", is_flag=True, help="One message a frame, no arrays.")
@click.option(
    "--duration", type=_positive, default=10.0, show_default=True, help="Seconds measured."
)
@click.option(
    "--warmup",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Seconds before that.",
)
@click.option("--method", default="echo", show_default=True)
@click.option("--params", help="JSON. Default: for echo an object of 100 bytes, else none.")
@click.option(
    "--idle",
    type=click.IntRange(min=0),
    default=0,
    help="Further connections that only stay open.",
)
@click.option(
    "--processes", type=click.IntRange(min=1), help="Of the load. Default: a core is left free."
)
@click.option("--url", envvar="INORDER_URL", help="Default: INORDER_URL, or as configured here.")
@click.option("--user", "username", help="Asks for the password. Default: INORDER_TOKEN.")
@password_option
@json_option
@configured
def bench(
    config: Config,
    /,
    url: str | None,
    username: str | None,
    from_stdin: bool,
    as_json: bool,
    processes: int | None,
    params: str | None,
    **load: Any,
) -> int:
    """Put a server under load, and check every outcome.

    Each connection is a session of its own, all of one user: the server must allow so many
    ([limits] connections_per_user). The status is 1 where an outcome was missing, came twice or
    out of order, where a connection was lost, or a receipt disagrees.
    """
    if params is None:
        params = _PARAMS if load["method"] == "echo" else "null"
    token, password = os.environ.get("INORDER_TOKEN", ""), ""
    if username is not None:
        password = read_password(from_stdin)
    elif not token:
        raise click.UsageError("who are you? Give --user, or set INORDER_TOKEN")
    address = url or default_url(config)
    try:
        if username is not None:
            token = asyncio.run(log_in(address, username, password))
        plan = Plan(url=address, token=token, params=_checked(params), **load)
        crew = Crew(plan, processes or processes_for(plan))
        report = asyncio.run(_work(crew, plan, as_json))
    except (BenchError, ValueError) as exc:  # the latter for the URL
        raise click.ClickException(str(exc)) from None
    if as_json:
        print_json(as_values(plan, report))
    else:
        click.echo(as_text(plan, report))
    return 0 if report.holds else 1


def _checked(params: str) -> str:
    try:
        json.loads(params)
    except (ValueError, RecursionError) as exc:
        raise click.BadParameter(f"not JSON: {exc}.", param_hint="--params") from None
    return params


async def _work(crew: Crew, plan: Plan, quiet: bool) -> Report:
    with _progress(plan, quiet) as progress:
        task = progress.add_task("connecting", total=plan.warmup + plan.duration, speed="")
        loop, before = asyncio.get_running_loop(), 0
        async with crew:
            progress.reset(task, description="running")
            since = at = loop.time()

            def count(outcomes: int) -> None:
                nonlocal at, before
                now = loop.time()
                if now - at < 0.4:  # one process after the other tells its part
                    return
                speed = f"{(outcomes - before) / (now - at):,.0f} requests/s"
                at, before = now, outcomes
                progress.update(task, completed=now - since, speed=speed)

            await crew.run(count)
            progress.update(task, description="checking receipts")
            return await crew.finish()


def _progress(plan: Plan, quiet: bool) -> Progress:
    """A line on standard error, and only where that is a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
    )


def as_values(plan: Plan, report: Report) -> dict[str, Any]:
    """For machines: times are milliseconds where the name says so, else seconds."""
    latency = report.histogram
    percentiles = {f"p{percent}": latency.percentile(percent) / 1000 for percent in _PERCENTS}
    return {
        "url": plan.url,
        "method": plan.method,
        "connections": plan.connections,
        "in_flight": plan.in_flight,
        "rate": plan.rate,
        "single_frames": plan.single_frames,
        "idle": plan.idle,
        "duration": plan.duration,
        "requests": report.answered,
        "per_second": round(report.per_second, 1),
        "latency_ms": {
            **percentiles,
            "max": latency.largest / 1000,
            "mean": round(latency.mean / 1000, 3),
        },
        "errors": report.errors,
        "check": {
            "holds": report.holds,
            "outcomes": report.outcomes,
            "sessions": report.sessions,
            "receipts": report.receipts,
            "wrong": report.wrong,
            "samples": report.samples,
        },
        "generator": {
            "processes": report.processes,
            "cpu_us_per_request": round(_cpu_us(report), 2),
            "busiest": round(report.busiest, 3),
        },
    }


def as_text(plan: Plan, report: Report) -> str:
    """For people."""
    latency = report.histogram
    told = [f"p{percent} {_ms(latency.percentile(percent))}" for percent in _PERCENTS]
    loop = f"{plan.in_flight} in flight each"
    if plan.rate is not None:
        loop = f"{plan.rate:,.0f} requests/s due, at most {loop}"
    lines = [
        f"load         {plan.connections:,} connections, {loop}"
        + (f", {plan.idle:,} idle beside them" if plan.idle else "")
        + (", single frames" if plan.single_frames else ""),
        f"requests/s   {report.per_second:,.0f}  ({report.answered:,} in {plan.duration:g} s)",
        f"latency      {' · '.join(told)} · max {_ms(latency.largest)}",
        f"errors       {_counts(report.errors) or 'none'}",
    ]
    if report.holds:
        lines.append(
            f"check        every outcome came once and in order ({report.outcomes:,}), "
            f"and {report.receipts:,} receipts agree"
        )
    else:
        lines.append(f"check        FAILED: {_counts(report.wrong)}")
        lines += [f"             {sample}" for sample in report.samples]
    lines.append(
        f"generator    {_cpu_us(report):.1f} µs of a processor a request, the busiest of "
        f"{report.processes} processes at {report.busiest:.0%}"
    )
    if report.busiest > _BUSY:
        lines.append("             It may have been the bottleneck: try more --processes.")
    return "\n".join(lines)


def _cpu_us(report: Report) -> float:
    return report.cpu * 1e6 / report.answered if report.answered else 0.0


def _ms(microseconds: int) -> str:
    return f"{microseconds / 1000:,.2f} ms"


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(found.items()))
