"""Single requests to a cache node, or to an origin, for `node_check`.

They are made by the standard library's http.client in threads, and not by the engine: what is
checked is one answer at a time, as it came, and the engine mends what it gets.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from pgetpy.core.http.urls import Link
from pgetpy.core.nodes.readings import Reading, stated_length
from pgetpy.core.report.text import one_line
from pgetpy.errors.reasons import system_reason
from pgetpy.system.threads import start_thread

# Seconds without a byte; a node is silent while it fetches a piece.
_PATIENCE = 120.0
_BLOCK = 1 << 18
# Bytes of an error's text.
_WORDS = 1000


@dataclass(frozen=True)
class NodeProbe:
    """Asks one server, which may stand in for others.

    Attributes:
        scheme, host, port: where to connect.
        tls: gives the context for https.
        authorization: sent with each request; None for none.
    """

    scheme: str
    host: str
    port: int
    tls: Callable[[], ssl.SSLContext]
    authorization: str | None = None

    def read(
        self,
        link: Link,
        span: tuple[int, int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reading:
        """Ask for bytes `start` to `stop` of `link`, or for all of it; read what comes.

        A whole answer is read as far as `span` goes. Nothing is raised: see `Reading.failure`.
        """
        began = time.monotonic()
        connection = self._connection()
        try:
            return self._ask(connection, link, span, headers or {}, began)
        except (OSError, http.client.HTTPException) as error:
            reason = system_reason(error) if isinstance(error, OSError) else repr(error)
            return Reading(failure=one_line(reason), seconds=time.monotonic() - began)
        finally:
            connection.close()

    def read_together(
        self, links: Sequence[Link], span: tuple[int, int] | None = None
    ) -> list[Reading]:
        """Ask for all `links` at the same time; return their readings in order."""
        readings = [Reading() for _ in links]
        start = threading.Barrier(len(links))

        def work(index: int, link: Link) -> None:
            start.wait(_PATIENCE)
            readings[index] = self.read(link, span)

        threads = [
            start_thread(work, "node check", index, link) for index, link in enumerate(links)
        ]
        for thread in threads:
            thread.join()
        return readings

    def _connection(self) -> http.client.HTTPConnection:
        if self.scheme == "https":
            return http.client.HTTPSConnection(
                self.host, self.port, timeout=_PATIENCE, context=self.tls()
            )
        return http.client.HTTPConnection(self.host, self.port, timeout=_PATIENCE)

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        link: Link,
        span: tuple[int, int] | None,
        headers: Mapping[str, str],
        began: float,
    ) -> Reading:
        parts = urlsplit(link.url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
        sent = {"Host": parts.netloc, **headers}
        if span is not None:
            sent["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        if self.authorization is not None:
            sent.setdefault("Authorization", self.authorization)
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        head_seconds = time.monotonic() - began
        most = None if span is None else span[1] - span[0]
        if answer.status >= 400:
            most = _WORDS
        body, cut = _body(answer, most)
        return Reading(
            status=answer.status,
            headers={name.lower(): value for name, value in answer.getheaders()},
            body=body,
            cut=cut,
            head_seconds=head_seconds,
            seconds=time.monotonic() - began,
        )


def _body(answer: http.client.HTTPResponse, most: int | None) -> tuple[bytes, bool]:
    """Return the body, at most `most` bytes of it, and whether it ended too early."""
    body = bytearray()
    try:
        while most is None or len(body) < most:
            block = answer.read(_BLOCK if most is None else min(_BLOCK, most - len(body)))
            if not block:
                break
            body += block
    except http.client.IncompleteRead as error:
        return bytes(body + error.partial), True
    except (OSError, ValueError):  # http.client's ValueError is for a chunk of negative length
        return bytes(body), True
    stated = stated_length(answer.getheader("Content-Length"))
    wanted = len(body) if stated is None else stated
    return bytes(body), len(body) < (wanted if most is None else min(wanted, most))
