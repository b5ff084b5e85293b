"""What failed on the way to a host, in words: the network, TLS, a certificate, a proxy.

Both clients, `direct` and `aio`, get their errors here, so that a failure reads the same whichever
of them met it. An OSError or an error of OpenSSL becomes a `ConnectionFailedError`: where it
failed, what the system said, and what to try. Which of them a second try may mend is decided here
too (`permanent`): an untrusted certificate stays untrusted, anything else may pass.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from urllib.parse import unquote, urlsplit

from pgetpy.core.http.urls import basic_authorization
from pgetpy.core.lazy_dataclass import replace
from pgetpy.engine.transports.base import Address, Request
from pgetpy.engine.transports.connecting import NO_WAY, AddressRace
from pgetpy.errors import ConnectionFailedError, HttpStatusError, TransferError
from pgetpy.errors.reasons import system_reason
from pgetpy.errors.redact import redact

# X509_V_ERR_... of OpenSSL's x509_vfy.h, grouped by what a user can do about them.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = frozenset({62, 64})
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21, 27})
_MOST_NAMES = 5
# Errors that OpenSSL raises for an answer that is not TLS, plain HTTP for instance.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST",
                     "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})  # fmt: skip
_HINTS = {
    errno.ECONNREFUSED: "nothing listens there; check the host and the port",
    errno.ETIMEDOUT: "raise --connect-timeout, or check the network and its firewalls",
}


def failed(request: Request, error: OSError) -> ConnectionFailedError:
    """Return the error for `error`, raised by the network or TLS after connecting.

    Args:
        request: what was under way.
        error: as the system or the ssl module raised it.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return certificate_error(request, error)
    if isinstance(error, ssl.SSLError):
        return _tls_error(request.url, error)
    return ConnectionFailedError(request.url, system_reason(error))


def unreachable(
    request: Request, addresses: Sequence[Address], error: OSError
) -> ConnectionFailedError:
    """Return the error for `error`: none of `addresses`, the host's or its proxy's, answered."""
    reason = system_reason(error)
    if request.proxy is not None:
        return ConnectionFailedError(
            request.url,
            f"the proxy {proxy_name(request.proxy)} cannot be reached: {reason}",
            hint="check HTTP_PROXY, HTTPS_PROXY and NO_PROXY",
        )
    hint = _HINTS.get(error.errno or 0, "")
    # No route: often a container without IPv6, and a host that has nothing else.
    if error.errno in NO_WAY:
        hint = "check this machine's network"
        if addresses and all(address.family == socket.AF_INET6 for address in addresses):
            reason = f"{reason} (the host has IPv6 addresses only)"
            hint = "use a network with IPv6, or a proxy (HTTP_PROXY, HTTPS_PROXY)"
    return ConnectionFailedError(request.url, reason, hint=hint)


def timed_out(request: Request) -> ConnectionFailedError:
    """Return the error for a connection that was not ready within its time."""
    through = f"the proxy {proxy_name(request.proxy)} gave " if request.proxy is not None else ""
    return ConnectionFailedError(
        request.url,
        f"{through}no answer within the connect timeout",
        hint=_HINTS[errno.ETIMEDOUT],
    )


def certificate_error(
    request: Request, error: ssl.SSLCertVerificationError, names: Sequence[str] = ()
) -> ConnectionFailedError:
    """Return the error for a certificate that was not accepted.

    Args:
        request: its URL names the host.
        error: OpenSSL's; its code says why.
        names: the names that the certificate is for, if known.
    """
    code = error.verify_code
    said = error.verify_message
    hint = ""
    if code in _OTHER_NAME:
        host = urlsplit(request.url).hostname
        # OpenSSL's own message does not say which names the certificate has.
        said = f"it does not name {host},"
        if names:
            more = ", …" if len(names) > _MOST_NAMES else ""
            said = f"it names {', '.join(names[:_MOST_NAMES])}{more}, not {host},"
        hint = "check the host in the URL: another server answers in its place"
    elif code in _UNKNOWN_AUTHORITY:
        said = f"its authority is not trusted here ({said})"
        hint = "if you trust it, give its authority's certificate with --cacert or SSL_CERT_FILE"
    elif code == _NOT_YET_VALID:
        said = "it is not yet valid,"
        hint = "check the clock of this machine"
    elif code == _EXPIRED:
        said = "it has expired,"
        hint = "its server's operator has to renew it, unless the clock of this machine is wrong"
    reason = f"the certificate was not accepted: {said}"
    return ConnectionFailedError(request.url, reason, hint=hint, permanent=True)


def is_for_another_name(error: BaseException) -> bool:
    """Whether a certificate was refused because of the name that it is for."""
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _OTHER_NAME


def proxy_refused(request: Request, status: int, words: str) -> HttpStatusError:
    """Return the error for an answer of the proxy itself, with `status`, instead of the host's."""
    assert request.proxy is not None
    said = f": {words}" if words else ""
    name = proxy_name(request.proxy)
    # Named in the error, since the same status from the host would mean something else.
    error = HttpStatusError(request.url, status, f"said by the proxy {name}{said}")
    if status >= 500:
        error.hint = "the proxy cannot reach the host, or is in trouble itself"
    elif status != 407:
        error.hint = "ask the proxy's operator to let this host through, or name it in NO_PROXY"
    return error


def proxy_untrusted(request: Request, error: ssl.SSLError) -> ConnectionFailedError:
    """Return the error for `error`, raised by the TLS handshake with the proxy of `request`."""
    assert request.proxy is not None
    found = failed(replace(request, url=request.proxy, proxy=None), error)
    reason = f"the proxy {proxy_name(request.proxy)}: {found.reason}"
    hint = "check HTTP_PROXY, HTTPS_PROXY and the proxy's certificate (--cacert)"
    return ConnectionFailedError(request.url, reason, hint=hint, permanent=found.permanent)


def proxy_name(proxy: str) -> str:
    """Return the URL of a proxy for an error or a log, without its password."""
    return redact(proxy).rstrip("/")


def proxy_headers(proxy: str) -> list[tuple[str, str]]:
    """Return the headers with the user and password in the URL of `proxy`, if it has them."""
    parts = urlsplit(proxy)
    if parts.username is None and parts.password is None:
        return []
    value = basic_authorization(unquote(parts.username or ""), unquote(parts.password or ""))
    return [("Proxy-Authorization", value)]


def _tls_error(url: str, error: ssl.SSLError) -> ConnectionFailedError:
    """Return the error for a failure of TLS other than the certificate's."""
    # A TCP connection that ends without TLS's own end: cut off on the way, or a crashed server.
    if isinstance(error, ssl.SSLEOFError):
        return ConnectionFailedError(url, "closed by the server in the middle of TLS")
    reason = error.reason or ""
    if reason in _NO_TLS:
        return ConnectionFailedError(
            url,
            "what answers there does not speak TLS",
            hint="check the port, and whether the URL begins with http:// instead",
        )
    words = reason.replace("_", " ").lower() or system_reason(error)
    return ConnectionFailedError(url, f"TLS failed ({words})")


class _Certified(Protocol):
    """A connection over TLS."""

    def certificate(self) -> bytes:
        """Return the host's certificate in DER."""

    def close(self) -> None:
        """Close it."""


async def names_of(
    request: Request, connect: Callable[[Request, AddressRace], Awaitable[_Certified]]
) -> list[str]:
    """Return the names that the certificate of the host is for, without checking it.

    Connects once more, for the words of an error only: no request is made on that connection.
    Empty if the host does not answer again.
    """
    if (request.proxy or "").lower().startswith("https:"):
        return []  # unchecked, the connection would give the proxy's password to anyone
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(TransferError):
        connection = await connect(replace(request, tls=anyone), AddressRace())
        connection.close()
        from pgetpy.core.http.certificates import names_in

        return names_in(connection.certificate())
    return []
