"""How a URL is written for a cache node or a cache service.

    https://example.com/a?b         the origin
    http://node/a?b                 a node that tells origins apart by the Host header
    http://node/example.com/a?b     with the path proxy: the origin's host is the first path element

pget's path proxy loses the path of a URL with a port, escapes %20 twice, and decodes %2F; here the
path keeps its escapes, since another path names another object. A path that climbs (`/../x`) stays
below the host that it belongs to: a policy has judged that host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import quote

from pgetpy.core.fleet.go_urls import GoUrl, parse_go_url
from pgetpy.core.fleet.prefixes import UrlPrefixes
from pgetpy.errors import BadSettingError
from pgetpy.errors.redact import redact

_QUERY_SAFE = "/%:@!$&'()*+,;=~-._[]?|\\^`{}"


@dataclass(frozen=True)
class NodeRequest:
    """What to ask a node for.

    Attributes:
        target: path and query, for the first line of the request.
        host: the Host header: the origin's, as written in its URL.
    """

    target: str
    host: str


def node_request(url: GoUrl, *, path_proxy: bool) -> NodeRequest:
    """Return the request for `url` to a cache node.

    Args:
        url: the origin's URL. Its user and password are left out.
        path_proxy: whether the origin's host becomes the first path element.
    """
    path = _below_host(url, url.host.lower()) if path_proxy else url.escaped_path or "/"
    # Go prints a query as it is. In a request it must not have blanks, nor what is not ASCII.
    query = quote(url.query, safe=_QUERY_SAFE, errors="surrogateescape")
    return NodeRequest(f"{path}{query}", url.host)


@dataclass(frozen=True)
class CacheService:
    """A cache service, which is asked in place of the origin (PGET_CACHE_SERVICE_HOSTNAME).

    Attributes:
        base: its URL; a path in it is a prefix of what is asked for.
        prefixes: which URLs go through it.
        path_proxy: whether the origin's host becomes the first path element.
        force: whether all URLs go through it.
    """

    base: str
    prefixes: UrlPrefixes
    path_proxy: bool = False
    force: bool = False

    def keeps(self, url: str) -> bool:
        """Whether `url` means the same object at the service."""
        parsed = parse_go_url(url)
        return not (self.path_proxy and parsed is not None and parsed.doubles_slashes)

    def url_for(self, url: str) -> str:
        """Return `url` as it is asked of the service, without user, password and fragment; empty if
        it does not go through it.

        Raises:
            BadSettingError: it does, but the service has no http or https URL. Not checked before:
                with pget such a setting only matters for the URLs that it concerns.
        """
        parsed = parse_go_url(url)
        if parsed is None or url.startswith(self.base):
            return ""
        if not self.force and not self.prefixes.cover(parsed):
            return ""
        service = parse_go_url(self.base)
        if service is None or service.scheme not in ("http", "https") or not service.host:
            reason = "is not an http or https URL with a host, such as http://cache.example.com"
            raise BadSettingError("PGET_CACHE_SERVICE_HOSTNAME", redact(self.base), reason)
        path = _below_host(parsed, parsed.host) if self.path_proxy else parsed.escaped_path
        path = service.escaped_path.rstrip("/") + (path or "/")
        rewritten = replace(service, user=None, escaped_path=path, query=parsed.query, fragment="")
        return str(rewritten)


def _below_host(url: GoUrl, host: str) -> str:
    """Return the path below the host, without dot segments and doubled slashes, as Go cleans it."""
    kept: list[str] = []
    segments = url.escaped_path.split("/")
    for segment in segments:
        plain = segment.replace("%2e", ".").replace("%2E", ".")
        if plain == "..":
            del kept[-1:]
        elif plain not in ("", "."):
            kept.append(segment)
    slash = "/" if kept and segments[-1] == "" else ""
    return "/" + "/".join([host, *kept]) + slash
