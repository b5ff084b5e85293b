"""The picture of docs/bench.md: wall time as bars."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from scripts.bench.peers import OURS
from scripts.bench.report import Result, seconds

_PICTURED = ("big-plain", "big-tls", "paced", "many", "many-late", "extract", "objects-paced")
_STYLE = """
text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #57606a; }
.title { font-weight: 600; font-size: 14px; fill: #24292f; }
.ours { fill: #0a7f5a; } .theirs { fill: #b8c0c8; }
.name-ours { font-weight: 600; fill: #24292f; }
@media (prefers-color-scheme: dark) {
  text { fill: #9aa4af; } .title, .name-ours { fill: #e6edf3; }
  .ours { fill: #2fbf8f; } .theirs { fill: #4a525c; }
}
"""
_WIDTH, _LABELS, _BARS = 760, 130, 450
_ROW, _BAR, _GAP = 24, 16, 22


def picture(results: Mapping[str, Result]) -> str:
    """Return docs/bench.svg: wall time as bars, each case on a scale of its own."""
    body: list[str] = []
    top = 8
    for name in _PICTURED:
        timed = [one for one in results.get(name, {}).get("series", []) if not one["error"]]
        if timed:
            drawn, height = _chart(results[name]["title"], timed, top)
            body += drawn
            top += height + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" '
        f'width="{_WIDTH}" height="{top}" role="img" aria-label="Wall time, shorter is better">'
        f"<style>{_STYLE}</style>{''.join(body)}</svg>\n"
    )


def _chart(title: str, timed: Sequence[Result], top: int) -> tuple[list[str], int]:
    """Return one case's elements and their height, the fastest program first.

    Ratios are to pgetpy, where it has a time. Of several lines of ours the first is drawn: the
    others are there for comparison with it.
    """
    medians = {one["name"]: statistics.median(one["wall"]) for one in timed}
    longest = max(medians.values())
    first, *controls = [name for name in medians if _is_ours(name)] or [""]
    shown = sorted((wall, name) for name, wall in medians.items() if name not in controls)
    ours = medians.get(first)
    drawn = [f'<text class="title" x="0" y="{top + 14}">{escape(title)}</text>']
    for number, (wall, name) in enumerate(shown):
        y = top + 26 + number * _ROW
        kind = "ours" if _is_ours(name) else "theirs"
        width = max(2.0, _BARS * wall / longest)
        ratio = f"  ({wall / ours:.1f}\u00d7)" if ours and kind == "theirs" else ""
        label = seconds(wall) + ratio
        drawn += [
            f'<text class="name-{kind}" x="{_LABELS - 10}" y="{y + 13}" text-anchor="end">'
            f"{escape(name)}</text>",
            f'<rect class="{kind}" x="{_LABELS}" y="{y}" width="{width:.1f}" height="{_BAR}" '
            f'rx="3"/>',
            f'<text class="name-{kind}" x="{_LABELS + width + 8:.1f}" y="{y + 13}">'
            f"{escape(label)}</text>",
        ]
    return drawn, 26 + len(shown) * _ROW


def _is_ours(name: str) -> bool:
    return name.startswith(OURS)
