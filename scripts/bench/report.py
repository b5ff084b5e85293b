"""Figures for people: a table for the terminal and for docs/bench.md, the goals, the picture.

Everything is made from the plain values of `.bench/results.json`, so that a report can be made
again without running anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from scripts.bench.cases import CASES
from scripts.bench.comparison import Case, Goal
from scripts.bench.measure import Series
from scripts.bench.peers import OURS

Result = Mapping[str, Any]
_UNITS = {"wall": "wall", "cpu": "CPU", "rss": "peak memory"}
_PICTURED = ("big-plain", "big-tls", "paced", "many", "extract")


def as_result(
    case: Case, series: Sequence[Series], absent: Sequence[str], scale: float, when: str
) -> Result:
    """Return one case's runs as JSON can hold them; `absent` are peers that are not installed."""
    return {
        "title": case.title,
        "when": when,
        "rounds": max((len(one.samples) for one in series), default=0),
        "absent": list(absent),
        "scale": scale,
        "series": [
            {
                "name": one.name,
                "version": one.version,
                "error": one.error,
                "note": one.note,
                **{quantity: one.values(quantity) for quantity in _UNITS},
            }
            for one in series
        ],
    }


# ------------------------------------------------------------------------------------ tables


def table(result: Result) -> list[list[str]]:
    """Return header and rows of one case; ratios are to the first program that has timings."""
    timed = [one for one in result["series"] if not one["error"]]
    first = statistics.median(timed[0]["wall"]) if timed else 0.0
    header = ["program", "version", "wall", "spread", "ratio", "CPU", "peak memory", ""]
    rows = []
    for one in result["series"]:
        if one["error"]:
            rows.append([one["name"], one["version"], "failed", "", "", "", "", one["error"]])
            continue
        walls = one["wall"]
        rows.append(
            [
                one["name"],
                one["version"],
                seconds(statistics.median(walls)),
                f"{seconds(min(walls))} to {seconds(max(walls))}",
                f"{statistics.median(walls) / first:.2f}",
                seconds(statistics.median(one["cpu"])),
                megabytes(statistics.median(one["rss"])),
                one["note"],
            ]
        )
    return [header, *rows]


def terminal(result: Result) -> str:
    """Return one case's table in columns."""
    rows = table(result)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
             for row in rows]  # fmt: skip
    return "\n".join(f"    {line.rstrip()}" for line in lines)


def seconds(value: float) -> str:
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    return f"{value:.2f} s" if value >= 0.9995 else f"{value * 1000:.0f} ms"


def megabytes(value: float) -> str:
    return f"{value / 1e6:.0f} MB"


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


# ------------------------------------------------------------------------------------- goals


def goal_rows(results: Mapping[str, Result]) -> Iterator[list[str]]:
    """Yield each goal whose figures are there: work, quantity, against, at most, measured, met."""
    for case in CASES:
        for goal in case.goals:
            measured = _measured(goal, results.get(case.name))
            if measured is None:
                continue
            shown, limit = f"{measured:.2f}", f"{goal.limit:g}"
            if goal.against is None or goal.apart:
                unit = megabytes if goal.quantity == "rss" else seconds
                shown, limit = unit(measured), unit(goal.limit)
                limit = f"{limit} more" if goal.apart else limit
            yield [
                case.title,
                f"{goal.entrant}: {_UNITS[goal.quantity]}",
                goal.against or "absolute",
                limit,
                shown,
                "yes" if measured <= goal.limit else "**no**",
            ]


def _measured(goal: Goal, result: Result | None) -> float | None:
    if result is None:
        return None
    medians = {
        one["name"]: statistics.median(one[goal.quantity])
        for one in result["series"]
        if not one["error"]
    }
    ours = medians.get(goal.entrant)
    theirs = medians.get(goal.against) if goal.against else 1.0
    if ours is None or theirs is None:
        return None
    return ours - theirs if goal.apart else ours / theirs


# -------------------------------------------------------------------------------------- page


def page(results: Mapping[str, Result], machine: Mapping[str, str]) -> str:
    """Return docs/bench.md."""
    goals = list(goal_rows(results))
    header = ["work", "figure", "against", "at most", "measured", "met"]
    parts = [
        "# Benchmark",
        "Whole processes, started one after the other in rounds, each in another order, after a "
        "trial round that is not timed and in which every byte is compared by sha256. Wall is from "
        "start to exit; CPU is user and system time of the program alone; peak memory is the "
        "kernel's `ru_maxrss`. Of several programs in a pipe, CPU is the sum and peak memory that "
        "of the largest. Medians, with the fastest and slowest run beside them; the ratio "
        "is to the first line of each table. Files are deleted and the disk is synced between "
        "runs, outside the time. No program is asked to fsync. `make bench` makes this page.",
        "![Wall time of pgetpy and its peers](bench.svg)",
        "## Goals",
        _markdown_table([header, *goals]),
    ]
    for case in CASES:
        if result := results.get(case.name):
            parts += [
                f"## {result['title']}",
                f"`{case.name}`, {result['rounds']} rounds, {result['when']}",
                _markdown_table(table(result)),
            ]
            if absent := result.get("absent"):
                parts.append(f"Not installed here: {', '.join(absent)}.")
    parts += ["## Machine", "\n".join(f"- {name}: {value}" for name, value in machine.items())]
    return "\n\n".join(parts) + "\n"


# ----------------------------------------------------------------------------------- picture

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
    """Return one case's elements and their height; ratios are to pgetpy, where it has a time."""
    medians = [(one["name"], statistics.median(one["wall"])) for one in timed]
    longest = max(wall for _, wall in medians)
    ours = next((wall for name, wall in medians if _is_ours(name)), None)
    drawn = [f'<text class="title" x="0" y="{top + 14}">{escape(title)}</text>']
    for number, (name, wall) in enumerate(medians):
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
    return drawn, 26 + len(medians) * _ROW


def _is_ours(name: str) -> bool:
    return name.startswith(OURS)
