"""The results as text: lines on a terminal, Markdown in the README."""

from __future__ import annotations

import msgspec
from client_alone import Client
from machine import Machine
from measure import Form, Result, Spread
from memory_of import Memory

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
COMMAND = ".venv/bin/python tests/benchmarks/run.py --write"
_CHART = "![Requests a second by load](tests/benchmarks/chart.svg)"


class Results(msgspec.Struct, kw_only=True):
    """Everything that one command found."""

    machine: Machine
    form: Form
    results: list[Result]
    memory: Memory | None = None
    client: Client | None = None


def throughput(results: Results) -> list[list[str]]:
    """The rows of the large table, its head first."""
    rows = [["connections × in flight", "who", "requests/s (min–max)", "ratio (min–max)"]]
    rows[0] += ["p50", "p99", "p99.9", "server's CPU"]
    for result in results.results:
        for bar in result.runs:
            ratio, cpu = result.ratio(bar), result.cpu_us(bar)
            rate = result.runs[bar][-1].rate
            rows.append(
                [
                    result.name if bar == next(iter(result.runs)) else "",
                    bar if rate is None else f"{bar} at half of its capacity",
                    _count(result.spread(bar)),
                    "" if ratio is None else _ratio(ratio),
                    *(_ms(result.latency(bar, name)) for name in ("p50", "p99", "p99.9")),
                    "" if cpu is None else f"{cpu:.1f} µs",
                ]
            )
    return rows


def memory_rows(memory: Memory) -> list[list[str]]:
    """The rows of the small table, its head first."""
    rows = [["memory in the server", ""]]
    figures = {
        f"a session, idle ({memory.sessions:,} of them)": memory.idle,
        "a session that has worked, acknowledged, and is idle": memory.worked,
        "a waiting request of 100 B (full queues)": memory.queued,
        "a connection of the bare echo": memory.connection,
    }
    rows += [[name, _kib(value)] for name, value in figures.items() if value is not None]
    return rows


def client_words(client: Client) -> str:
    """One sentence on the Python client."""
    return (
        f"The Python client, one connection with {client.window} in flight: "
        f"{client.per_second:,.0f} requests/s came through, each for {client.cpu_us:.1f} µs of its "
        f"own CPU: {1e6 / client.cpu_us:,.0f} a second would keep one core busy."
    )


def markdown(results: Results) -> str:
    """What stands between the marks in the README."""
    form = results.form
    pinned = "the server on one core, the load on the other" if results.machine.pinned else ""
    text = [
        _CHART,
        f"Measured on {results.machine.words}" + (f"; {pinned}." if pinned else "."),
        f"Medians of {form.rounds} rounds of {form.seconds:g} s, by turns; the ratio is that of "
        "one round to what it is compared with. JSON of 100 bytes where nothing else is said.",
        _as_markdown(throughput(results)),
    ]
    if results.memory is not None:
        text.append(_as_markdown(memory_rows(results.memory)))
    if results.client is not None:
        text.append(client_words(results.client))
    text.append(f"`{COMMAND}` measures all of it again, and writes this.")
    return "\n\n".join(text)


def replaced(readme: str, figures: str) -> str:
    """The README with other figures between its marks. Raises ValueError without marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def plain(rows: list[list[str]]) -> str:
    """Columns for a terminal."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _as_markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _count(spread: Spread) -> str:
    return f"{spread.median:,.0f} ({spread.low:,.0f}–{spread.high:,.0f})"


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f}–{spread.high:.2f})"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.2f} ms" if milliseconds < 10 else f"{milliseconds:,.0f} ms"


def _kib(size: float) -> str:
    return f"{size / 1024:.1f} KiB"
