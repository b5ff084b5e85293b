"""Tell-tale phrases of puzzling English: none in package, README and docs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Phrases with a plainer way to say the same. Matches of "stands" and "stand" are only those that
# mean "is" or "be": "stands for" and "stand-in" are ordinary English. "There is no" is, too.
PHRASES = re.compile(
    r"\b(?:be|is|are|was|were) had\b|\bbrought\b"
    r"|\bstands?\b(?!-in| for| in for)"
    r"|\bnobody\b|\banybody\b|\bsomebody\b|\bwhoever\b"
    r"|\blet(?:s)? go\b|\bletting go\b|\bknows? of no\b|\bwithout a word\b"
    r"|\bnonsense\b|\bgo(?:es)? on from\b"
    r"|(?<!there )\b(?:is|are|was|were) no (?!longer\b|more\b)\w+",
    re.IGNORECASE,
)
# The marker of a comment that goes on in the next line, and the space around it.
BREAK = re.compile(r"\n[ \t]*(?:# )?")


def voices(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the files whose words are read by users and contributors, with their text."""
    paths = [root / "README.md", *root.glob("docs/**/*.md"), *root.glob("pgetpy/**/*.py")]
    for path in paths:
        yield path.relative_to(root).as_posix(), path.read_text("utf-8")


def phrases(root: Path) -> Iterator[str]:
    """Yield where the phrases are: the file, the words around one, and the phrase itself."""
    for name, text in voices(root):
        joined = BREAK.sub(" ", text)
        for match in PHRASES.finditer(joined):
            yield f"{name}: {joined[max(0, match.start() - 30) : match.end() + 10]}"


def test_there_are_no_puzzling_phrases() -> None:
    assert list(phrases(ROOT)) == []


def test_a_phrase_is_found_across_a_line_break(tmp_path: Path) -> None:
    text = "It cannot be\nhad. A stand-in stands for it.\n# Nobody\n    # knows of\n    # no such."
    (tmp_path / "README.md").write_text(text)
    had, nobody, knows = phrases(tmp_path)
    assert "be had" in had
    assert "Nobody" in nobody
    assert "knows of no" in knows


def test_there_is_no_is_ordinary_english(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("There is no such file, it is no longer there.")
    assert list(phrases(tmp_path)) == []
