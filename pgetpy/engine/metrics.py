"""What becomes of files is told to PGET_METRICS_ENDPOINT and counted in the file of --metrics-file.

The endpoint gets one POST per file, with the payload that pget sends; URLs are redacted before they
leave. Files that are fetched into a cache are counted only.

Nothing that goes wrong here affects a download: errors of the endpoint are dropped, and at the end
the engine waits no more than `_PATIENCE` for what is still being sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pgetpy._version import __version__
from pgetpy.core.http.urls import Link, parse_link
from pgetpy.core.report.results import DownloadResult
from pgetpy.engine.transports.base import USER_AGENT
from pgetpy.errors import PgetError
from pgetpy.errors.redact import redact
from pgetpy.settings import Settings
from pgetpy.system.metrics_file import METRICS_FILE
from pgetpy.system.threads import Workers

# Seconds; a slower endpoint does not get the message.
_PATIENCE = 3.0


@dataclass(eq=False, repr=False)
class Metrics:
    """Keeps the outcome of each file.

    Attributes:
        settings: name the endpoint and the file; both may be None.
        workers: threads to send in.
        tls: gives the context for https.
    """

    settings: Settings
    workers: Workers
    tls: Callable[[], ssl.SSLContext]
    _posts: set[asyncio.Future[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.settings.metrics_file is not None:
            METRICS_FILE.write_to(self.settings.metrics_file)

    def finished(self, url: str, result: DownloadResult) -> None:
        """Keep the outcome of a file that is complete."""
        self.filled(result)
        self._tell(url, {"size": result.size, "bytes_per_second": result.bytes_per_second})

    def filled(self, result: DownloadResult) -> None:
        """Keep the outcome of a file that is complete in a cache."""
        if result.skipped or self.settings.metrics_file is None:
            return
        METRICS_FILE.count("pgetpy_transfers_total", label="ok")
        METRICS_FILE.count("pgetpy_transfer_seconds_total", result.seconds)
        for source, size in result.bytes_by_source.items():
            METRICS_FILE.count("pgetpy_received_bytes_total", size, source)
        METRICS_FILE.note("pgetpy_last_transfer_timestamp_seconds", round(time.time(), 3))
        METRICS_FILE.flush_if_due()

    def failed(self, url: str, error: PgetError) -> None:
        """Keep the failure of a file."""
        if self.settings.metrics_file is not None:
            METRICS_FILE.count("pgetpy_transfers_total", label="failed")
            METRICS_FILE.flush_if_due()
        self._tell(url, {"size": 0, "error": str(error)})

    async def close(self) -> None:
        """Wait a moment for messages that are being sent."""
        if self._posts:
            await asyncio.wait(self._posts, timeout=_PATIENCE)

    def _tell(self, url: str, what: dict[str, object]) -> None:
        """Send `what` about `url`, in a thread; the caller does not wait."""
        endpoint = self.settings.metrics_endpoint
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
