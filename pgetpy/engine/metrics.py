"""One POST per file to the endpoint of PGET_METRICS_ENDPOINT, with the payload that pget sends.

Nothing that goes wrong here affects a download: every error is dropped, and at the end the engine
waits no more than `_PATIENCE` for what is still being sent. URLs are redacted before they leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pgetpy._version import __version__
from pgetpy.core.http.urls import Link, parse_link
from pgetpy.core.report.results import DownloadResult
from pgetpy.engine.transports.base import USER_AGENT
from pgetpy.errors import PgetError
from pgetpy.errors.redact import redact
from pgetpy.system.threads import Workers

# Seconds; a slower endpoint does not get the message.
_PATIENCE = 3.0


@dataclass(eq=False, repr=False)
class Metrics:
    """Sends the outcome of each file to an endpoint.

    Attributes:
        endpoint: its URL; None sends nothing.
        workers: threads to send in.
        tls: gives the context for https.
    """

    endpoint: str | None
    workers: Workers
    tls: Callable[[], ssl.SSLContext]
    _posts: set[asyncio.Future[None]] = field(default_factory=set)

    def finished(self, url: str, result: DownloadResult) -> None:
        """Send the outcome of a file that is complete."""
        self._tell(url, {"size": result.size, "bytes_per_second": result.bytes_per_second})

    def failed(self, url: str, error: PgetError) -> None:
        """Send the failure of a file."""
        self._tell(url, {"size": 0, "error": str(error)})

    async def close(self) -> None:
        """Wait a moment for messages that are being sent."""
        if self._posts:
            await asyncio.wait(self._posts, timeout=_PATIENCE)

    def _tell(self, url: str, what: dict[str, object]) -> None:
        """Send `what` about `url`, in a thread; the caller does not wait."""
        endpoint = self.endpoint
        if endpoint is None:
            return
        data = {"url": redact(url), "version": __version__, **what}
        payload = {"source": "pget", "type": "download", "data": data}
        post = self.workers.submit(lambda: _post(endpoint, payload, self.tls))
        # Kept until it is done, so that `close` can wait for it.
        self._posts.add(post)
        post.add_done_callback(self._posts.discard)


def _post(endpoint: str, payload: object, tls: Callable[[], ssl.SSLContext]) -> None:
    """Send `payload`, whatever happens; in a thread."""
    with contextlib.suppress(Exception):
        _request(parse_link(endpoint), payload, tls)


def _request(link: Link, payload: object, tls: Callable[[], ssl.SSLContext]) -> None:
    """Make the POST. The transports only speak GET, so the standard library does it."""
    # Slow to import, and seldom needed.
    import http.client
    import json

    host, port = link.origin.host, link.origin.port
    if link.origin.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=_PATIENCE, context=tls()
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE)
    headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
    if link.authorization is not None:
        headers["Authorization"] = link.authorization
    parts = urlsplit(link.url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    try:
        connection.request("POST", target, json.dumps(payload), headers)
        connection.getresponse().read(1)
    finally:
        connection.close()
