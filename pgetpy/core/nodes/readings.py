"""What one request to a node, or to an origin, found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pgetpy.core.http.bodies import MOST_DIGITS

# Headers in which caches say whether they asked the origin, the common ones first.
_CACHE_HEADERS = (
    "x-cache",
    "x-cache-status",
    "x-proxy-cache",
    "x-upstream-cache-status",
    "x-nginx-cache",
    "cache-status",
)
_HIT = re.compile(r"\bhit\b", re.IGNORECASE)
_FROM_ORIGIN = re.compile(r"\b(?:miss|expired|bypass|fwd)\b", re.IGNORECASE)
_SIZE = rf"[0-9]{{1,{MOST_DIGITS}}}"
_LENGTH = re.compile(_SIZE)
_RANGE = re.compile(rf"bytes (?:({_SIZE})-({_SIZE})|\*)/({_SIZE}|\*)")


def stated_length(value: str | None) -> int | None:
    """Return the number in a Content-Length header; None if it has none."""
    return int(value) if value is not None and _LENGTH.fullmatch(value) else None


@dataclass(frozen=True)
class Reading:
    """An answer, as far as it was read.

    Attributes:
        status: 0 if none came; `failure` says why.
        headers: by names in lower case.
        body: what was read of it.
        cut: whether it ended before its length.
        head_seconds: from the request to the head of the answer.
        seconds: from the request to the last byte.
        failure: the system's words if there was no answer.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: bool = False
    head_seconds: float = 0.0
    seconds: float = 0.0
    failure: str = ""

    @property
    def hit(self) -> bool | None:
        """Whether the node had it; None if its headers do not say."""
        for name in _CACHE_HEADERS:
            words = self.headers.get(name, "")
            if _HIT.search(words):
                return True
            if _FROM_ORIGIN.search(words):
                return False
        return None

    @property
    def span(self) -> tuple[int, int] | None:
        """Which bytes it has, half-open, by Content-Range."""
        found = _RANGE.fullmatch(self.headers.get("content-range", ""))
        return (int(found[1]), int(found[2]) + 1) if found and found[1] else None

    @property
    def size(self) -> int | None:
        """The size of the whole object, if the answer says so."""
        found = _RANGE.fullmatch(self.headers.get("content-range", ""))
        if found:
            return int(found[3]) if found[3] != "*" else None
        return stated_length(self.headers.get("content-length")) if self.status == 200 else None

    @property
    def words(self) -> str:
        """What came, for people: the status and a short text, or why there was none."""
        if self.failure:
            return self.failure
        text = self.body[:200].decode("utf-8", "replace").strip()
        plain = self.headers.get("content-type", "").startswith("text/plain") or "<" not in text
        return (
            f"{self.status} {text}" if self.status >= 400 and plain and text else f"{self.status}"
        )
