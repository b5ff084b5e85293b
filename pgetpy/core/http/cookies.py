"""The cookies of one chain of redirects (RFC 6265, a subset): kept for one transfer, never stored.

Some services check a cookie between a redirect and its target. A cookie goes to the host that set
it, or to the hosts below the domain that it names, and nowhere else. Redirects may lead through
strangers' hosts, so the rules that keep one host from setting cookies for another matter here as
they do in a browser.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pgetpy.core.http.addresses import literal
from pgetpy.core.http.urls import Link

# Browsers accept this many and this length (RFC 6265, 6.1).
_MOST = 50
_LONGEST = 4096
# A control character could end the header line in which the cookie is sent.
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True)
class _Cookie:
    """One cookie; `exact` where it goes to the host `domain` itself and to none below it."""

    name: str
    value: str = field(repr=False)
    domain: str
    exact: bool
    path: str
    secure: bool

    def goes_to(self, link: Link) -> bool:
        """Whether a request for `link` carries it (RFC 6265, 5.1.3, 5.1.4 and 5.4)."""
        host, path = link.origin.host.lower(), urlsplit(link.url).path or "/"
        if host != self.domain and (self.exact or not _lies_below(host, self.domain)):
            return False
        if self.secure and link.origin.scheme != "https":
            return False
        if not path.startswith(self.path):
            return False
        return path == self.path or self.path.endswith("/") or path[len(self.path)] == "/"


class Cookies:
    """What the servers of one chain have set."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], _Cookie] = {}

    def learn(self, link: Link, fields: Iterable[str], now: float) -> None:
        """Keep the cookies in `fields`, the Set-Cookie headers of an answer of `link`.

        `now` is Unix time. A cookie that has expired deletes the one of its name.
        """
        for text in fields:
            if len(text) > _LONGEST or _UNFIT.search(text):
                continue
            first, *rest = text.split(";")
            name, equals, value = (part.strip() for part in first.partition("="))
            attributes = {
                key.strip().lower(): value.strip()
                for key, _, value in (each.partition("=") for each in rest)
            }
            cookie = _cookie(link, name, value, attributes) if name and equals else None
            if cookie is None:
                continue
            key = (cookie.domain, cookie.path, cookie.name)
            if _is_over(attributes, now):
                self._known.pop(key, None)
            elif len(self._known) < _MOST or key in self._known:
                self._known[key] = cookie

    def header(self, link: Link, own: str = "") -> str:
        """Return the Cookie header for `link`, empty if there is none.

        `own` is the caller's Cookie header; a cookie that a server has set replaces the one of the
        same name in it.
        """
        # Longer paths go first (RFC 6265, 5.4).
        found = sorted(self._known.values(), key=lambda cookie: -len(cookie.path))
        mine = [cookie for cookie in found if cookie.goes_to(link)]
        names = {cookie.name for cookie in mine}
        given = [pair.strip() for pair in own.split(";")]
        kept = [pair for pair in given if pair and pair.partition("=")[0].strip() not in names]
        return "; ".join([*kept, *(f"{cookie.name}={cookie.value}" for cookie in mine)])


def _cookie(link: Link, name: str, value: str, attributes: dict[str, str]) -> _Cookie | None:
    """Return the cookie with these attributes; None where `link` may not set it."""
    host = link.origin.host.lower()
    domain = attributes.get("domain", "").removeprefix(".").lower()
    exact = not domain or (domain == host and (literal(host) is not None or _is_shared(domain)))
    if domain and domain != host and (_is_shared(domain) or not _lies_below(host, domain)):
        return None
    secure = "secure" in attributes
    if secure and link.origin.scheme != "https":
        return None
    path = attributes.get("path", "")
    if not path.startswith("/"):
        path = (urlsplit(link.url).path or "/").rpartition("/")[0] or "/"
    return _Cookie(name, value, domain or host, exact, path, secure)


def _lies_below(host: str, domain: str) -> bool:
    return host.endswith(f".{domain}") and literal(host) is None


def _is_shared(domain: str) -> bool:
    """Whether strangers may have hosts below `domain`, as below `com` and `co.uk`.

    The full answer is the public suffix list, which has thousands of entries. A single label, or
    two short ones, cover most of them; and two hosts below one of the others are rarely in the same
    chain of redirects.
    """
    labels = domain.split(".")
    return len(labels) < 2 or (len(labels) == 2 and len(labels[1]) == 2 and len(labels[0]) <= 3)


def _is_over(attributes: dict[str, str], now: float) -> bool:
    """Whether a cookie with these attributes has expired; Max-Age goes before Expires."""
    age = attributes.get("max-age", "")
    if age.lstrip("-").isdecimal():
        return age.startswith("-") or not age.strip("0")
    # Seldom seen, and slow to import.
    import email.utils

    try:
        return email.utils.parsedate_to_datetime(attributes["expires"]).timestamp() <= now
    except (KeyError, TypeError, ValueError, OverflowError):
        return False
