"""Requests as the direct transport sends them: to a host, or to a proxy on the way to it."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from pgetpy.engine.transports.base import Request
from pgetpy.engine.transports.failures import proxy_headers
from pgetpy.errors import BadReferenceError


def bytes_of(request: Request) -> bytes:
    """Return the request as it is sent; a proxy gets the whole URL (RFC 9112, 3.2.2)."""
    parts = urlsplit(request.url)
    target = parts.path or "/"
    if parts.query:
        target = f"{target}?{parts.query}"
    fields = [("Host", parts.netloc), *request.headers]
    if request.proxy is not None and parts.scheme == "http":
        target = request.url
        fields += proxy_headers(request.proxy)
    return _encode(request, f"GET {target} HTTP/1.1", fields)


def connect_request(request: Request) -> bytes:
    """Return the CONNECT request for the host of `request`; its own headers are for the host."""
    assert request.proxy is not None
    parts = urlsplit(request.url)
    place = parts.netloc if parts.port is not None else f"{parts.netloc}:443"
    agents = [field for field in request.headers if field[0].lower() == "user-agent"]
    fields = [("Host", place), *agents, *proxy_headers(request.proxy)]
    return _encode(request, f"CONNECT {place} HTTP/1.1", fields)


def _encode(request: Request, first: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """Return a head as bytes.

    Raises:
        BadReferenceError: a value holds a line break, with which it could add headers of its own.
    """
    text = "\r\n".join([first, *(f"{name}: {value}" for name, value in fields)])
    if text.count("\n") != len(fields) or "\0" in text:
        raise BadReferenceError(request.url, "a header or the URL holds a line break")
    return f"{text}\r\n\r\n".encode("latin-1", "replace")
