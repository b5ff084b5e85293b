"""Lines for people: what comes from servers and file names, made fit for a terminal."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from pgetpy.core.destinations.names import name_from_url

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
