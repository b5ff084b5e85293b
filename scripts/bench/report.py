"""Figures for people: a table for the terminal and for docs/bench.md, and the goals.

Everything is made from the plain values of `.bench/results.json`, so that a report can be made
again without running anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from scripts.bench.cases import CASES, GROUPS
from scripts.bench.comparison import FEWEST_ROUNDS, Case, Goal
from scripts.bench.measure import Series

Result = Mapping[str, Any]
_UNITS = {"wall": "wall", "cpu": "CPU", "rss": "peak memory"}


def as_result(case: Case, series: Sequence[Series], absent: Sequence[str], scale: float) -> Result:
    """Return one case's runs as JSON can hold them; `absent` are peers that are not installed."""
    return {
        "title": case.title,
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
    header = ["program", "version", "wall", "spread", "ratio", "CPU", "peak memory",
              "runs", "notes"]  # fmt: skip
    rows = []
    for one in result["series"]:
        if one["error"]:
            rows.append([one["name"], one["version"], "failed", *[""] * 5, one["error"]])
            continue
        walls = one["wall"]
        rows.append(
            [
                one["name"],
                one["version"],
                seconds(statistics.median(walls)),
                f"{seconds(min(walls))} to {seconds(max(walls))}",
                f"{statistics.median(walls) / first:.2f}",
                # Zero where it is not measured: of programs on other hosts.
                seconds(cpu) if (cpu := statistics.median(one["cpu"])) else "",
                megabytes(rss) if (rss := statistics.median(one["rss"])) else "",
                str(len(walls)),
                one["note"],
            ]
        )
    without_notes = None if any(row[-1] for row in rows) else -1
    return [row[:without_notes] for row in (header, *rows)]


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
            shown, limit = f"{measured:.2f}", f"{goal.limit:.3g}"
            if measured > goal.limit >= float(shown):
                shown = f"{measured:.3f}"
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
    theirs = theirs if goal.given is None else goal.given
    if ours is None or theirs is None:
        return None
    return ours - theirs if goal.apart else ours / theirs


# -------------------------------------------------------------------------------------- page

_METHOD = """\
Whole processes run one after the other in rounds, each in another order. A trial round comes first:
it is not timed, and every byte is compared by sha256. A program that takes over four seconds runs
three times in all, the trial among them; `runs` says how often each was timed. Figures are medians,
with the fastest and the slowest run beside them, and `ratio` is to the first line of each table.

Wall is from start to exit, CPU the user and system time of the program without the server, peak
memory the kernel's `ru_maxrss`. Of several programs in a pipe, CPU is the sum and memory that of
the largest. Files are deleted and the disk is synced between runs, outside the time. No program is
asked to fsync."""
_GOALS = ["work", "figure", "against", "at most", "measured", "met"]


def page(results: Mapping[str, Result], machine: Mapping[str, str]) -> str:
    """Return docs/bench.md."""
    goals = list(goal_rows(results))
    missed = [row for row in goals if row[-1] != "yes"]
    groups = [group for group in GROUPS if any(case.name in results for case in group.cases)]
    anchors = [f"[{group.title}](#{_anchor(group.title)})" for group in groups]
    parts = [
        "# Benchmark",
        "How long pgetpy and others take for the same work, on one machine with servers of its "
        "own. Shorter bars are better.",
        f"Tables: {', '.join(anchors)}. Then [all goals](#all-goals) and "
        "[how it is measured](#how-it-is-measured).",
        "![Wall time of pgetpy and its peers](bench.svg)",
        "## Where pgetpy falls short",
        f"{len(goals) - len(missed)} of {len(goals)} goals are met. These are not:",
        _markdown_table([_GOALS[:-1], *(row[:-1] for row in missed)]),
        "What the time is spent on there:",
        "\n".join(_profiles({row[0] for row in missed})),
    ]
    for group in groups:
        parts += [f"## {group.title}", group.about]
        for case in group.cases:
            if result := results.get(case.name):
                parts += _section(case, result)
    parts += [
        "## All goals",
        "A ratio where another program is named, otherwise a limit of its own.",
        _markdown_table([_GOALS, *goals]),
        "## How it is measured",
        f"{_METHOD}\n\n{_provenance(results)}",
        "\n".join(f"- {name}: {value}" for name, value in machine.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _profiles(titles: Set[str]) -> Iterator[str]:
    """Yield a line for each of the cases with these titles that has a profile."""
    for case in CASES:
        if case.title in titles and case.profile:
            yield f"- {case.title}: {case.profile}"


def _section(case: Case, result: Result) -> Iterator[str]:
    yield f"### {case.title}"
    yield f"{case.about} (`make bench ARGS={case.name}`)"
    yield _markdown_table(table(result))
    if absent := result.get("absent"):
        yield f"Not installed here: {', '.join(absent)}."


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _provenance(results: Mapping[str, Result]) -> str:
    """Return which commit the figures are of, which cases another one's, and which are missing."""
    of: dict[str, list[str]] = {}
    for case in CASES:
        if result := results.get(case.name):
            of.setdefault(f"{result.get('commit', 'unknown')}, {result['when']}", []).append(
                case.name
            )
    first, *others = sorted(of, key=lambda commit: -len(of[commit]))
    said = [f"`make bench` makes this page. The figures are of commit {first}"]
    if others:
        apart = (f"{', '.join(of[commit])} of {commit}" for commit in others)
        said.append(f", but those of {'; '.join(apart)}")
    missing = [case.name for case in CASES if case.name not in results]
    said.append(f". Not measured here: {', '.join(missing)}." if missing else ".")
    return "".join(said)


def is_whole(result: Result | None, commit: str) -> bool:
    """Whether a case has been measured at `commit` without a failure and with enough rounds."""
    return (
        result is not None
        and result.get("commit") == commit
        and result["rounds"] >= FEWEST_ROUNDS
        and not any(one["error"] for one in result["series"])
    )
