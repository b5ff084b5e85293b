"""What the commands below `pgetpy generation` print: lines for people, records for programs.

Lines may change; the records' names and units are an interface: sizes are bytes, times are seconds
since the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgetpy.core.generations.comparison import GenerationDiff
from pgetpy.core.report.text import counted, one_line
from pgetpy.core.text.units import format_size
from pgetpy.generations.checking import VerifiedGeneration
from pgetpy.generations.store import ListedGeneration, Pruned, Readiness

_DIGITS = 12
_UNSEEN = "a process that cannot be seen from here"


def readiness_lines(found: Readiness) -> list[str]:
    """Return one line for each wanted generation."""
    if not found.states:
        return [f"not ready: {found.why}"]
    return [
        f"{each.number}  {each.digest[:_DIGITS] or '-':<{_DIGITS}}  "
        f"{one_line(each.why) or 'is whole'}"
        for each in found.states
    ]


def diff_lines(found: GenerationDiff) -> list[str]:
    """Return one line for each change, and one that counts what is the same."""
    changes = [one_line(str(each)) for each in found.changes]
    return [*changes, f"{counted(len(changes), 'change')}, {found.same} the same"]


def diff_record(found: GenerationDiff) -> dict[str, Any]:
    """Return the changes for programs."""
    changes = [
        {"kind": each.kind, "name": each.name, "before": each.before, "after": each.after}
        for each in found.changes
    ]
    return {"before": found.before, "after": found.after, "changes": changes, "same": found.same}


def pruned_lines(found: Pruned) -> list[str]:
    """Return one line for each generation that is gone, or is read."""
    lines = [f"removed {number}" for number in found.removed]
    lines += [
        f"kept {each.number}: it is read by {', '.join(each.readers) or _UNSEEN}"
        for each in found.in_use
    ]
    return lines or ["nothing to remove"]


def verification_lines(found: VerifiedGeneration) -> list[str]:
    """Return one line for a generation, and one for each file that is not what it was."""
    verdict = "sound" if found.sound else "DAMAGED"
    lines = [f"{found.number}  {found.digest[:_DIGITS]}  {verdict}, {found.checked} files"]
    for each in found.faults:
        others = ", ".join(map(str, each.poisons))
        also = f"; the same file is in {others}" if others else ""
        lines.append(f"  {one_line(str(each))}{also}")
    if not found.sound:
        lines.append("  pgetpy generation build LOCK replaces it")
    return lines


def generation_table(listed: Sequence[ListedGeneration]) -> list[str]:
    """Return a line for each generation, the highest number first."""
    if not listed:
        return ["there are no generations"]
    return [
        f"{each.number}  {each.digest[:_DIGITS]}  {_contents(each)}"
        f"{'  latest' if each.latest else ''}"
        f"{'  read by ' + ', '.join(each.readers) if each.readers else ''}"
        for each in listed
    ]


def _contents(each: ListedGeneration) -> str:
    if each.damaged:
        return "DAMAGED: its record cannot be read"
    return f"{format_size(each.size):>8}  {each.files} files"


def listing_record(each: ListedGeneration) -> dict[str, Any]:
    """Return a generation for programs."""
    return each._asdict()
