"""Requests as the direct transport sends them: to a host, or to a proxy on the way to it."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlsplit

from pgetpy.engine.transports.base import AUTHORITY, Request
from pgetpy.engine.transports.failures import proxy_headers
from pgetpy.errors import BadReferenceError


def bytes_of(request: Request) -> bytes:
    """Return the request as it is sent; a proxy gets the whole URL (RFC 9112, 3.2.2)."""
    authority = AUTHORITY.match(request.url)
    assert authority is not None
    scheme, place = authority.groups()
    target = request.url[authority.end() :]
    if target[:1] != "/":
        target = f"/{target}"
    fields = (("Host", place), *request.headers)
    if request.proxy is not None and scheme == "http":
        target = request.url
        fields += tuple(proxy_headers(request.proxy))
    return _encode(request, f"GET {target} HTTP/1.1", fields)


class RequestHeads:
    """Makes the heads of requests that differ from `request` in the paths of their URLs alone.

    Args:
        request: one to a host, not to a proxy.
    """

    def __init__(self, request: Request) -> None:
        authority = AUTHORITY.match(request.url)
        assert authority is not None
        assert request.proxy is None
        self._before = f"{authority.group()}/"
        self._slash = authority.end()
        data = bytes_of(request)
        self._fields = data[data.index(b" HTTP/1.1") :]

    def of(self, url: str) -> bytes | None:
        """Return the request for `url` as it is sent; None where `bytes_of` has to look at it."""
        if not (url.startswith(self._before) and url.isascii() and url.isprintable()):
            return None
        return b"GET " + url[self._slash :].encode() + self._fields


def connect_request(request: Request) -> bytes:
    """Return the CONNECT request for the host of `request`; its own headers are for the host."""
    assert request.proxy is not None
    parts = urlsplit(request.url)
    place = parts.netloc if parts.port is not None else f"{parts.netloc}:443"
    agents = [field for field in request.headers if field[0].lower() == "user-agent"]
    fields = (("Host", place), *agents, *proxy_headers(request.proxy))
    return _encode(request, f"CONNECT {place} HTTP/1.1", fields)


def _encode(request: Request, first: str, fields: tuple[tuple[str, str], ...]) -> bytes:
    """Return a head as bytes.

    Raises:
        BadReferenceError: a value holds a line break, with which it could add headers of its own.
    """
    encoded = _encode_fields(fields)
    if encoded is None or "\n" in first or "\r" in first or "\0" in first:
        raise BadReferenceError(request.url, "a header or the URL holds a line break")
    return first.encode("latin-1", "replace") + encoded


@lru_cache(maxsize=64)
def _encode_fields(fields: tuple[tuple[str, str], ...]) -> bytes | None:
    """Return what follows the first line; None if a value holds a line break.

    Kept, since all requests for the files of one host have the same fields.
    """
    text = "".join([f"\r\n{name}: {value}" for name, value in fields])
    if not text.count("\n") == text.count("\r") == len(fields) or "\0" in text:
        return None
    return f"{text}\r\n\r\n".encode("latin-1", "replace")
