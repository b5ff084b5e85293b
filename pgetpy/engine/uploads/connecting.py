"""Connections to a store, directly or through a proxy, and what it means when they fail."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable

from pgetpy.core.http.proxies import bypasses_proxy
from pgetpy.core.http.urls import Link, parse_link
from pgetpy.engine.transports import failures
from pgetpy.engine.transports.base import Request
from pgetpy.errors import ConnectionFailedError, PgetError, StalledError
from pgetpy.errors.reasons import system_reason
from pgetpy.settings import Settings


def proxy_for(link: Link, settings: Settings) -> str | None:
    """Return the URL of the proxy that requests for `link` go through; None for none."""
    proxies = settings.proxies
    proxy = proxies.https if link.origin.scheme == "https" else proxies.http
    if not proxy or bypasses_proxy(link.origin, proxies.no_proxy):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def connect(
    link: Link, settings: Settings, tls: Callable[[], ssl.SSLContext]
) -> http.client.HTTPConnection:
    """Return a connection to the host of `link`, or to its proxy.

    Raises:
        ConnectionFailedError: none can be made.
    """
    proxy = proxy_for(link, settings)
    where = parse_link(proxy).origin if proxy else link.origin
    timeout = settings.connect_timeout
    connection: http.client.HTTPConnection
    if link.origin.scheme == "https":
        connection = http.client.HTTPSConnection(
            where.host, where.port, timeout=timeout, context=tls()
        )
        if proxy:
            headers = dict(failures.proxy_headers(proxy))
            connection.set_tunnel(link.origin.host, link.origin.port, headers)
    else:
        connection = http.client.HTTPConnection(where.host, where.port, timeout=timeout)
    try:
        connection.connect()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise _unreachable(link, proxy, settings, error) from None
    # Connecting and being silent afterwards have different limits.
    connection.sock.settimeout(settings.stall_timeout)
    return connection


def _unreachable(
    link: Link, proxy: str | None, settings: Settings, error: Exception
) -> ConnectionFailedError:
    request = Request(link.url, (), (), proxy, None, settings.connect_timeout)
    if isinstance(error, ssl.SSLError):
        return failures.failed(request, error)
    if isinstance(error, TimeoutError):
        return failures.timed_out(request)
    if not isinstance(error, OSError):
        return ConnectionFailedError(link.url, type(error).__name__)
    found = failures.unreachable(request, (), error)
    found.permanent = isinstance(error, socket.gaierror)
    return found


def broken(link: Link, settings: Settings, error: Exception) -> PgetError:
    """Return the error for a failure of the network or of HTTP after connecting."""
    if isinstance(error, TimeoutError):
        return StalledError(link.url, settings.stall_timeout)
    reason = system_reason(error) if isinstance(error, OSError) else type(error).__name__
    return ConnectionFailedError(link.url, reason)
