"""Lines for people: what comes from servers and file names, made fit for a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from pgetpy.core.destinations.names import name_from_url

# Between two columns of a table.
_GAP = "  "
# A column is not shortened further than this, however narrow the terminal.
_LEAST = 24
# C0 and C1 controls would steer the terminal, surrogates cannot be encoded.
_UNPRINTABLE = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+"


def one_line(text: str) -> str:
    """Return `text` as one printable line."""
    return (text if text.isprintable() else re.sub(_UNPRINTABLE, " ", text)).strip()


def label(dest: str, url: str = "") -> str:
    """Return the short name of a transfer: the last part of its destination, or of its URL."""
    if dest == "-":
        return "standard output"
    name = PurePosixPath(dest).name if dest and not dest.endswith("/") else ""
    return name or (name_from_url(url) if url else None) or dest or "download"


def shortened(text: str, width: int) -> str:
    """Return `text` in at most `width` characters; the middle goes, as the end tells more."""
    if len(text) <= width:
        return text
    if width < 6:
        return text[:width]
    tail = (width - 1) * 2 // 3
    return f"{text[: width - 1 - tail]}…{text[-tail:]}"


def aligned_lines(
    rows: Sequence[Sequence[str]], alignments: str, flexible: int, width: int | None
) -> list[str]:
    """Return a line for each row of a table, with its cells in columns.

    Args:
        rows: all of equal length, such as headings and what they are for.
        alignments: `<` or `>` for each column.
        flexible: the column that is shortened where lines would be too long.
        width: columns of the terminal; None where lines may be of any length.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        others = sum(widths) - widths[flexible] + len(_GAP) * (len(widths) - 1)
        widths[flexible] = min(widths[flexible], max(_LEAST, width - others))
    lines = []
    for row in rows:
        columns = zip(row, alignments, widths, strict=True)
        padded = (f"{shortened(cell, size):{side}{size}}" for cell, side, size in columns)
        lines.append(_GAP.join(padded).rstrip())
    return lines


def counted(number: int, noun: str) -> str:
    """Return `1 entry` or `5 entries`, `1 file` or `5 files`."""
    several = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else several}"
