"""Signed requests that write to a store, made in threads: bodies are files, sent by the kernel.

The transports of downloads only speak GET, and are built for large answers. Here the request is
large and the answer small, so the standard library's http.client does the talking, in threads, and
sendfile moves the body from the page cache to the socket without a copy; under TLS it is read and
encrypted a block at a time.

What becomes of a request:

    answered, < 300             its answer. But 200 with <Error> in the body counts as a 500: Amazon
                                sends the head before it has completed an upload
    answered, may be mended     signed anew (keys, clock, region), and sent again
    answered 501                an error at once: the store lacks a feature, and will lack it again
    a pooled connection fails   sent again at once on another: the server had probably closed it
    any other failure           sent again after a pause, as `Retries` says; an answer that was cut
                                off is one

A part that is sent twice replaces itself, so that repeating it is safe.
"""

from __future__ import annotations

import http.client
import os
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pgetpy.core.http.heads import Head, status_error, words_of
from pgetpy.core.http.retry import Retries
from pgetpy.core.http.urls import Link, Origin, parse_link
from pgetpy.core.objects import multipart
from pgetpy.engine.transports.failures import proxy_headers
from pgetpy.engine.uploads.connecting import broken, connect, proxy_for
from pgetpy.errors import ConnectionFailedError, HttpStatusError, PgetError, SourceFileError
from pgetpy.settings import Settings
from pgetpy.sources.object_signer import ObjectSigner

# Sent at a time; between two blocks it is checked whether the upload has been stopped.
_BLOCK = 1 << 20
# A page of ListParts has at most 1000 parts; this is far more.
_LONGEST_ANSWER = 16 << 20


@dataclass(frozen=True)
class Body:
    """What a request sends: `size` bytes of the open file `fd` from `start` on, or `data`.

    Attributes:
        sha256: of these bytes, in hex; it is part of the signature.
        headers: headers that describe these bytes, such as Content-MD5.
        path: of the file, for errors.
    """

    sha256: str
    size: int = 0
    fd: int = -1
    start: int = 0
    data: bytes = b""
    headers: Sequence[tuple[str, str]] = ()
    path: str = ""


@dataclass(frozen=True)
class StoreAnswer:
    """An answer of a store.

    Attributes:
        head: status and headers; for refusals also the words of the body.
        text: the body: XML, or empty.
    """

    head: Head
    text: str = field(default="", repr=False)


class StoreClient:
    """Sends requests to one store, over pooled connections, from many threads at a time.

    Args:
        signer: signs each request.
        settings: proxies, timeouts, retries.
        tls: gives the context for https.
        retrying: is told of each failure after which a request is made again, and the seconds
            until then.

    Attributes:
        requests: how many were made.
        retries: how many of them repeated another after a failure.
        most_busy: how many connections were in use at a time.
    """

    def __init__(
        self,
        signer: ObjectSigner,
        settings: Settings,
        tls: Callable[[], ssl.SSLContext],
        retrying: Callable[[PgetError, float], object],
    ) -> None:
        self._signer = signer
        self._settings = settings
        self._tls = tls
        self._retrying = retrying
        self._lock = threading.Lock()
        # These and the counters are guarded by the lock; those in use are known so that `stop` can
        # end them. By origin: the first answer may say that the bucket is in another region.
        self._idle: list[tuple[Origin, http.client.HTTPConnection]] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self._stopped = threading.Event()
        self.requests = 0
        self.retries = 0
        self.most_busy = 0

    @property
    def busy(self) -> int:
        """How many connections are in use."""
        with self._lock:
            return len(self._busy)

    def stop(self) -> None:
        """End all requests; those under way raise."""
        self._stopped.set()
        with self._lock:
            for connection in [*self._busy, *(idle for _, idle in self._idle)]:
                # A thread may be within a call on it. Shutting down wakes it, and it closes the
                # socket; closing it here could hit another file with the same number.
                with suppress(OSError, AttributeError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def request(
        self,
        method: str,
        url: str,
        body: Body,
        headers: Sequence[tuple[str, str]] = (),
        *,
        accept: frozenset[int] = frozenset(),
        sent: Callable[[int], object] = lambda _: None,
    ) -> StoreAnswer:
        """Make a request, again where that may help, and return its answer.

        Args:
            method: such as PUT.
            url: with its query in canonical form, as it is signed.
            body: may be sent several times.
            headers: to send and sign beside those of the body.
            accept: statuses of 300 and more that are answers, not errors.
            sent: is told how many bytes of the body have gone out; a negative number when they
                have to be sent again. Called in this thread.

        Raises:
            TransferError: the store or the network failed for good.
        """
        link = parse_link(url)
        tries = Retries(self._settings.retries)
        while True:
            try:
                return self._try(method, link, body, headers, accept, sent)
            except _SignAgainError as again:
                link = again.link
            except PgetError as error:
                lacking = isinstance(error, HttpStatusError) and error.status == 501
                delay = None if lacking else tries.delay(error, random.random())
                if delay is None or self._stopped.is_set():
                    raise
                with self._lock:
                    self.retries += 1
                self._retrying(error, delay)
                if self._stopped.wait(delay):
                    raise

    def _try(
        self,
        method: str,
        link: Link,
        body: Body,
        headers: Sequence[tuple[str, str]],
        accept: frozenset[int],
        sent: Callable[[int], object],
    ) -> StoreAnswer:
        if self._signer.due(time.time()):
            self._signer.refresh()
        own = [*headers, *body.headers]
        signed = self._signer.sign(method, link, own, time.time(), body.sha256)
        connection, fresh = self._take(link)
        gone = 0

        def count(more: int) -> None:
            nonlocal gone
            gone += more
            sent(more)

        try:
            with self._lock:
                self.requests += 1
            head, text = self._exchange(connection, method, link, [*own, *signed], body, count)
        except SourceFileError:  # an OSError, but not of the network
            self._drop(connection)
            raise
        except (OSError, http.client.HTTPException) as error:
            self._drop(connection)
            sent(-gone)
            if not fresh:
                # The server had probably closed the pooled connection.
                return self._try(method, link, body, headers, accept, sent)
            raise broken(link, self._settings, error) from None
        except BaseException:
            self._drop(connection)
            raise
        self._give_back(link, connection)
        code = multipart.error_within(text) if head.status == 200 else ""
        if code:
            # See above; a 500 is retried.
            raise HttpStatusError(link.url, 500, code, code=code.partition(":")[0])
        if head.status < 300 or head.status in accept:
            return StoreAnswer(head, text)
        # Refused: what the progress has counted of this body is not at the store.
        sent(-gone)
        moved = self._signer.sign_again(link, signed, head, time.time())
        if moved is not None:
            raise _SignAgainError(moved)
        raise status_error(link.url, head)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        link: Link,
        headers: Sequence[tuple[str, str]],
        body: Body,
        sent: Callable[[int], object],
    ) -> tuple[Head, str]:
        """Send a request and read its answer: head and body.

        Only `headers` go out, beside Host and Content-Length: http.client's own are suppressed, as
        they would not be those that were signed.
        """
        parts = urlsplit(link.url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        proxy = proxy_for(link, self._settings)
        if proxy and parts.scheme == "http":
            target = link.url
            headers = [*headers, *proxy_headers(proxy)]
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", parts.netloc)
        for name, value in headers:
            # As the transports of downloads do.
            connection.putheader(name, value.encode("latin-1", "replace"))
        size = len(body.data) or body.size
        if size or method in ("PUT", "POST"):
            connection.putheader("Content-Length", str(size))
        connection.endheaders(body.data or None)
        try:
            if body.fd >= 0:
                for count in _send_file(connection.sock, body, self._stopped):
                    sent(count)
        except SourceFileError:
            raise
        except OSError:
            # A store may refuse before it has read everything, and close: its answer is in the
            # socket, and says more than the broken connection.
            with suppress(OSError, http.client.HTTPException):
                return _read_answer(connection)
            raise
        return _read_answer(connection)

    def _take(self, link: Link) -> tuple[http.client.HTTPConnection, bool]:
        """Return a pooled or new connection, and whether it is new.

        Raises:
            ConnectionFailedError: none can be made, or the upload was stopped.
        """
        with self._lock:
            if self._stopped.is_set():
                raise ConnectionFailedError(link.url, "the upload was stopped", permanent=True)
            pooled = next((each for each in self._idle if each[0] == link.origin), None)
            if pooled is not None:
                self._idle.remove(pooled)
                self._note_busy(pooled[1])
                return pooled[1], False
        connection = connect(link, self._settings, self._tls)
        with self._lock:
            self._note_busy(connection)
        return connection, True

    def _note_busy(self, connection: http.client.HTTPConnection) -> None:
        """Note that a connection is in use. Needs the lock."""
        self._busy.add(connection)
        self.most_busy = max(self.most_busy, len(self._busy))

    def _give_back(self, link: Link, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._busy.discard(connection)
            # None after `Connection: close`.
            if connection.sock is not None:
                self._idle.append((link.origin, connection))

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._busy.discard(connection)
        connection.close()


class _SignAgainError(Exception):
    """The request is made again for `link`, with another signature."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.link = link


def _send_file(sock: socket.socket, body: Body, stopped: threading.Event) -> Iterator[int]:
    """Send part of a file; yield how many bytes of it went out, block by block.

    Raises:
        ConnectionAbortedError: the upload was stopped.
        SourceFileError: the file has become shorter.
        OSError: the connection or the disk failed.
    """
    pos, end = body.start, body.start + body.size
    encrypted = isinstance(sock, ssl.SSLSocket)
    while pos < end:
        if stopped.is_set():
            raise ConnectionAbortedError
        want = min(_BLOCK, end - pos)
        if encrypted:
            data = os.pread(body.fd, want, pos)
            sock.sendall(data)
            count = len(data)
        else:
            count = _sendfile(sock, body.fd, pos, want)
        if count == 0:
            raise SourceFileError(body.path, "became shorter while it was uploaded")
        pos += count
        yield count


def _sendfile(sock: socket.socket, fd: int, pos: int, count: int) -> int:
    """Have the kernel send from a file; the bytes sent. Python makes a socket with a timeout
    non-blocking, so the waiting has to be done here."""
    while True:
        try:
            return os.sendfile(sock.fileno(), fd, pos, count)
        except BlockingIOError:
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            if not poll.poll((sock.gettimeout() or 0) * 1000):
                raise TimeoutError from None


def _read_answer(connection: http.client.HTTPConnection) -> tuple[Head, str]:
    """Return the head and the body, as text, of the answer."""
    response = connection.getresponse()
    data = response.read(_LONGEST_ANSWER)
    if response.length and response.status < 300:
        # Read with a limit, an answer that was cut off raises nothing by itself. Of a refusal, the
        # head is enough.
        raise http.client.IncompleteRead(data, response.length)
    version = (1, 1) if response.version == 11 else (1, 0)
    head = Head.of(response.status, response.reason or "", response.getheaders(), version)
    if response.status >= 300:
        head = words_of(head, data[:4096])
    return head, data.decode("utf-8", "replace")
