"""The timeline of a start: what ran when, what ran beside it, and what it adds up to.

Times are seconds since the process began.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pgetpy.core.text.units import format_size

# The kinds of stages, in the order in which they are listed.
KINDS = ("python", "download", "import", "load", "compile", "warm-up", "other")
_BAR = 32


@dataclass(frozen=True)
class Stage:
    """Something that took part of the start.

    Attributes:
        name: what it was, for people, without secrets.
        kind: one of KINDS.
        start, stop: when it began and ended, in seconds since the process began.
        size: bytes that it moved; None if it moved none.
        note: a clause about it; empty if there is nothing to add.
        failed: whether it ended with an exception.
    """

    name: str
    kind: str
    start: float
    stop: float
    size: int | None = None
    note: str = ""
    failed: bool = False

    @property
    def seconds(self) -> float:
        return self.stop - self.start

    @property
    def words(self) -> str:
        """The stage's seconds and what else there is to say of it."""
        moved = "" if self.size is None else format_size(self.size)
        failed = "failed" if self.failed else ""
        return ", ".join(filter(None, (seconds_text(self.seconds), moved, self.note, failed)))


@dataclass(frozen=True)
class BootTimeline:
    """What is known of a start.

    Attributes:
        stages: in the order in which they began.
        total: when the last one ended, in seconds since the process began.
    """

    stages: tuple[Stage, ...]
    total: float

    @classmethod
    def of(cls, stages: Iterable[Stage]) -> BootTimeline:
        """Return the timeline of stages in any order."""
        ordered = sorted(stages, key=lambda stage: (stage.start, stage.stop))
        return cls(tuple(ordered), max((stage.stop for stage in ordered), default=0.0))

    def by_kind(self) -> dict[str, float]:
        """Return the seconds in which something of a kind ran, counting overlaps once."""
        kinds = {kind: [s for s in self.stages if s.kind == kind] for kind in KINDS}
        return {kind: covered(stages) for kind, stages in kinds.items() if stages}

    @property
    def overlapped(self) -> float:
        """Seconds saved because kinds of work ran beside one another."""
        return sum(self.by_kind().values()) - covered(self.stages)

    @property
    def unrecorded(self) -> float:
        """Seconds in which nothing that is recorded ran."""
        return self.total - covered(self.stages)

    def record(self) -> dict[str, Any]:
        """Return the timeline as values that JSON can hold."""
        stages = []
        for stage in self.stages:
            row: dict[str, Any] = {
                "name": stage.name,
                "kind": stage.kind,
                "start": round(stage.start, 3),
                "seconds": round(stage.seconds, 3),
            }
            row |= {"size": stage.size} if stage.size is not None else {}
            row |= {"note": stage.note} if stage.note else {}
            row |= {"failed": True} if stage.failed else {}
            stages.append(row)
        return {
            "total": round(self.total, 3),
            "overlapped": round(self.overlapped, 3),
            "unrecorded": round(self.unrecorded, 3),
            "kinds": {kind: round(seconds, 3) for kind, seconds in self.by_kind().items()},
            "stages": stages,
        }

    def lines(self) -> list[str]:
        """Return the timeline as a table with bars, the sums last."""
        width = max((len(stage.name) for stage in self.stages), default=0)
        rows = [
            f"{stage.kind:<8}  {stage.name:<{width}}  {_bar(stage, self.total)}  {stage.words}"
            for stage in self.stages
        ]
        return [*rows, self.summary()]

    def summary(self) -> str:
        """Return one line: the total, the kinds, and what overlapping saved."""
        kinds = [f"{kind} {seconds_text(sec)}" for kind, sec in self.by_kind().items()]
        kinds += [f"unrecorded {seconds_text(self.unrecorded)}"] if self.unrecorded >= 0.05 else []
        saved = self.overlapped
        tail = f"; overlapping saved {seconds_text(saved)}" if saved >= 0.05 else ""
        return f"started in {seconds_text(self.total)}: {', '.join(kinds) or 'no stages'}{tail}"


def covered(stages: Iterable[Stage]) -> float:
    """Return the seconds in which at least one of the stages ran."""
    total, reached = 0.0, float("-inf")
    for start, stop in sorted((stage.start, stage.stop) for stage in stages):
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


def joined(stages: Sequence[Stage], most: int) -> list[Stage]:
    """Return the stages for a picture of at most about `most` rows.

    If there are more, the shortest of each kind become one row that covers all of them.
    """
    if len(stages) <= most:
        return list(stages)
    longest = sorted(stages, key=lambda stage: -stage.seconds)
    kept = longest[: max(0, most - len({stage.kind for stage in stages}))]
    rest: dict[str, list[Stage]] = {}
    for stage in longest[len(kept) :]:
        rest.setdefault(stage.kind, []).append(stage)
    return sorted([*kept, *(_join(each) for each in rest.values())], key=lambda s: s.start)


def _join(stages: Sequence[Stage]) -> Stage:
    if len(stages) == 1:
        return stages[0]
    sizes = [stage.size for stage in stages if stage.size is not None]
    return Stage(
        f"{len(stages)} more",
        stages[0].kind,
        min(stage.start for stage in stages),
        max(stage.stop for stage in stages),
        sum(sizes) if sizes else None,
        failed=any(stage.failed for stage in stages),
    )


def seconds_text(seconds: float) -> str:
    """Return `0.04 s`, `4.5 s` or `102 s`."""
    digits = 2 if seconds < 1 else 1 if seconds < 100 else 0
    return f"{seconds:.{digits}f} s"


def _bar(stage: Stage, total: float) -> str:
    """Return a bar of fixed width with the stage's share of the start marked."""
    scale = _BAR / total if total > 0 else 0.0
    first = min(_BAR - 1, int(stage.start * scale))
    last = min(_BAR, max(first + 1, round(stage.stop * scale)))
    return f"{'.' * first}{'#' * (last - first)}{'.' * (_BAR - last)}"
