"""Which proxy, if any, a URL goes through."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from pgetpy.core.http.urls import Origin


def bypasses_proxy(origin: Origin, no_proxy: Iterable[str]) -> bool:
    """Whether an entry of NO_PROXY names `origin`.

    Entries are `*`, a domain with or without a leading dot (which includes its subdomains), an
    address or a CIDR block; each but `*` may end with `:port`. NO_PROXY has no standard; this is
    what curl and Go accept.
    """
    return any(_names(entry.strip().lower(), origin) for entry in no_proxy if entry.strip())


def _names(entry: str, origin: Origin) -> bool:
    """Whether one lower-case entry names `origin`; an unreadable entry names nothing."""
    if entry == "*":
        return True
    host, port = _split_port(entry)
    if port is not None and port != origin.port:
        return False
    try:
        address = ipaddress.ip_address(origin.host)
    except ValueError:
        domain = host.lstrip("*").lstrip(".")
        return bool(domain) and (origin.host == domain or origin.host.endswith(f".{domain}"))
    try:
        return address in ipaddress.ip_network(host, strict=False)
    except ValueError:
        return False


def _split_port(entry: str) -> tuple[str, int | None]:
    """Split off `:port`; an IPv6 address needs brackets for that, since it has colons itself."""
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        return host, int(rest[1:]) if _is_number(rest[1:]) else None
    host, colon, port = entry.rpartition(":")
    if colon and _is_number(port) and ":" not in host:
        return host, int(port)
    return entry, None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6
