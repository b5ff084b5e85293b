"""Tell-tale phrases of puzzling English, counted in package, README and docs.

The limits are the counts of today. They may only get smaller: whoever removes phrases lowers them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Phrases with a plainer way to say the same. Matches of "stands" and "stand" are only those that
# mean "is" or "be": "stands for" and "stand-in" are ordinary English.
PHRASES = re.compile(
    r"\bcan(?:not)? be had\b|\bto be had\b|\bmay be had\b|\bbrought\b"
    r"|\bstands?\b(?!-in| for| in for)"
    r"|\bnobody\b|\bwhoever\b|\blet(?:s)? go\b|\bletting go\b|\bknows? of no\b"
    r"|\basked for nonsense\b"
    r"|\b(?:it|which|that|what) is no (?!longer\b|more\b|way\b|use\b|need\b)\w+",
    re.IGNORECASE,
)

# Files by the group that shares a limit: the longest prefix counts.
LIMITS: dict[str, int] = {
    "README.md": 0,
    "docs": 2,
    "pgetpy": 0,
    "pgetpy/archives": 5,
    "pgetpy/cli": 3,
    "pgetpy/core/archives": 8,
    "pgetpy/core/http": 0,
    "pgetpy/core/references": 4,
    "pgetpy/core/report": 2,
    "pgetpy/destinations": 2,
    "pgetpy/engine": 7,
    "pgetpy/errors": 9,
    "pgetpy/sources": 5,
    "pgetpy/system": 4,
}


def voices(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the files whose words are read by users and contributors, with their text."""
    paths = [root / "README.md", *root.glob("docs/**/*.md"), *root.glob("pgetpy/**/*.py")]
    for path in paths:
        yield path.relative_to(root).as_posix(), path.read_text("utf-8")


def group_of(name: str) -> str:
    fitting = [group for group in LIMITS if name.startswith(group)]
    return max(fitting, key=len) if fitting else ""


def phrases(root: Path) -> dict[str, list[str]]:
    """Return where the phrases are, by group; those of no group are under an empty name."""
    found: dict[str, list[str]] = {}
    for name, text in voices(root):
        joined = text.replace("\n", " ")
        for match in PHRASES.finditer(joined):
            line = text.count("\n", 0, match.start()) + 1
            found.setdefault(group_of(name), []).append(f"{name}:{line}: {match.group()}")
    return found


def test_no_puzzling_phrases_are_added() -> None:
    found = phrases(ROOT)
    assert found.get("", []) == []
    for group, limit in LIMITS.items():
        assert len(found.get(group, [])) <= limit, found[group]


def test_the_limits_are_what_is_left() -> None:
    found = phrases(ROOT)
    counts = {group: len(found.get(group, [])) for group in LIMITS}
    loose = {group: count for group, count in counts.items() if count < LIMITS[group]}
    assert loose == {}, "lower the limits to these counts"


def test_a_phrase_is_found_across_a_line_break(tmp_path: Path) -> None:
    text = "It cannot be\nhad. A stand-in stands for it.\nNobody asks."
    (tmp_path / "README.md").write_text(text)
    assert phrases(tmp_path)["README.md"] == ["README.md:1: cannot be had", "README.md:3: Nobody"]
