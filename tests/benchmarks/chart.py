"""The chart beside the table: throughput by load, as an SVG for light and dark pages."""

from __future__ import annotations

from xml.sax.saxutils import escape

from measure import Result

SERIES = {
    "inorder, arrays": "a",
    "inorder, single frames": "b",
    "bare echo": "c",
}
_LEGEND = {
    "inorder, arrays": "inorder, arrays in frames",
    "inorder, single frames": "inorder, one message a frame",
    "bare echo": "bare websockets echo",
}
_WIDTH, _LEFT, _RIGHT, _TOP = 760, 96, 76, 86
_BAR, _GAP, _BETWEEN, _FOOT = 18, 3, 26, 58
_STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #3c4048 }
  .title { font-size: 16px; font-weight: 600; fill: #16181d }
  .value { font-variant-numeric: tabular-nums; fill: #16181d }
  .ground { fill: #ffffff }
  .grid { stroke: #e3e5e9; stroke-width: 1 }
  .axis { stroke: #9aa0aa; stroke-width: 1 }
  .spread { stroke: #16181d; stroke-width: 1.5; opacity: .55 }
  .a { fill: #1f6fd6 } .b { fill: #86b6ef } .c { fill: #e07b39 }
  @media (prefers-color-scheme: dark) {
    text { fill: #b4bac4 }
    .title, .value { fill: #eef0f4 }
    .ground { fill: #14171c }
    .grid { stroke: #2b3038 }
    .axis { stroke: #666d78 }
    .spread { stroke: #eef0f4 }
    .a { fill: #4a94f0 } .b { fill: #2f5d99 } .c { fill: #e88a4c }
  }
"""


def svg(results: list[Result]) -> str:
    """Horizontal bars, a group a case; a thin line shows lowest and highest.

    Cases without a bar of the echo's are left out, as are bars that are no series: the echo of
    whole arrays looks at no message, and would only make the others short.
    """
    groups = [
        (result, bars)
        for result in results
        if "bare echo" in result.runs and (bars := _bars(result)) and " of " not in result.name
    ]
    highest = max((high for result, bars in groups for _, high in bars.values()), default=1.0)
    step, top = _scale(highest)
    plot = _WIDTH - _LEFT - _RIGHT
    rows = sum(len(bars) for _, bars in groups)
    height = _TOP + rows * (_BAR + _GAP) + len(groups) * _BETWEEN + _FOOT

    def x(value: float) -> float:
        return round(_LEFT + value / top * plot, 1)

    bottom = height - _FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" '
        'aria-label="Requests a second, by connections and requests in flight">',
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{height}" rx="8"/>',
        _text(24, 32, "Requests a second, by connections × requests in flight", "title"),
        *_legend({name for _, bars in groups for name in bars}),
    ]
    for number in range(round(top / step) + 1):
        at = x(number * step)
        kind = "grid" if number else "axis"
        parts.append(f'<line class="{kind}" x1="{at}" x2="{at}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(_text(at, bottom + 20, f"{number * step:,.0f}", anchor="middle"))
    parts.append(
        _text(
            _LEFT + plot / 2,
            bottom + 42,
            "requests a second; thin lines reach from the lowest to the highest",
            anchor="middle",
        )
    )
    y = float(_TOP)
    for result, bars in groups:
        y += _BETWEEN / 2
        middle = y + len(bars) * (_BAR + _GAP) / 2
        parts.append(_text(_LEFT - 12, middle + 3, result.name, anchor="end"))
        for name, (low, high) in bars.items():
            value = result.spread(_bar_of(result, name)).median
            parts.append(
                f'<rect class="{SERIES[name]}" x="{_LEFT}" y="{y:.1f}" rx="2" '
                f'width="{x(value) - _LEFT:.1f}" height="{_BAR}"><title>'
                f"{escape(result.name)}, {escape(name)}: {value:,.0f}</title></rect>"
            )
            centre = y + _BAR / 2
            parts.append(
                f'<line class="spread" x1="{x(low)}" x2="{x(high)}" '
                f'y1="{centre:.1f}" y2="{centre:.1f}"/>'
            )
            end = max(x(value), x(high)) + 8
            parts.append(_text(end, centre + 4.5, f"{value:,.0f}", "value"))
            y += _BAR + _GAP
        y += _BETWEEN / 2
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _bars(result: Result) -> dict[str, tuple[float, float]]:
    """By series: the lowest and the highest."""
    found = {}
    for name in SERIES:
        bar = _bar_of(result, name)
        if bar in result.runs:
            spread = result.spread(bar)
            found[name] = (spread.low, spread.high)
    return found


def _bar_of(result: Result, series: str) -> str:
    # With one request in flight there are no arrays, and one bar stands for both.
    alone = series == "inorder, single frames" and "inorder" in result.runs
    return "inorder" if alone else series


def _scale(highest: float) -> tuple[float, float]:
    """The distance of the lines, and the end of the axis."""
    step = 1.0
    while highest / step > 6:
        step *= 2.5 if str(step).startswith("2") else 2
    return step, step * -(-highest // step)


def _legend(shown: set[str]) -> list[str]:
    parts = []
    for number, name in enumerate(name for name in SERIES if name in shown):
        x, y = 24 + number * 228, 54
        parts.append(
            f'<rect class="{SERIES[name]}" x="{x}" y="{y}" width="12" height="12" rx="2"/>'
        )
        parts.append(_text(x + 20, y + 11, _LEGEND[name]))
    return parts


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<text{css} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
