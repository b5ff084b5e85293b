"""Which URLs go through cache nodes: those under a prefix of PGET_CACHE_URI_PREFIXES."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgetpy.core.fleet.go_urls import GoUrl, parse_go_url


@dataclass(frozen=True)
class UrlPrefixes:
    """pget's rule: host and port are equal as written, and the path begins with the prefix's path.

    The scheme is ignored, and so is a query in a prefix. A path is compared as plain text without
    escapes: `/p` covers `/pq` as well.

    Attributes:
        pairs: host and port as written, and the path without escapes.
    """

    pairs: tuple[tuple[str, str], ...]

    def cover(self, url: GoUrl) -> bool:
        """Whether `url` goes through cache nodes."""
        path = url.path or "/"
        return any(url.host == host and path.startswith(start) for host, start in self.pairs)


def parse_prefixes(texts: Iterable[str]) -> UrlPrefixes:
    """Return the prefixes that `texts` name. One without a scheme or a host covers nothing, as in
    pget."""
    parsed = (parse_go_url(text) for text in texts)
    named = (each for each in parsed if each is not None and each.scheme and each.host)
    return UrlPrefixes(tuple((each.host, each.path) for each in named))


def useless_prefixes(texts: Iterable[str]) -> tuple[str, ...]:
    """Return those of `texts` that cover no URL that is meant: without a scheme or a host, or
    several with commas between them."""
    return tuple(text for text in texts if not parse_prefixes((text,)).pairs or ",http" in text)
