"""What every transport is: it makes a request, has the head judged, moves the body to a sink.

An `Exchange` is shared by three parties, each of which writes only its own fields:

    engine       makes it; may lower `part.stop` while bytes flow, and cancel the task
    transport    moves `part.pos`, sets `part.waiting`, and `cancelled` for its own thread
    judge        is called once by the transport, in any thread, before a byte is kept

Bytes land in two steps. `landed` moves `part.pos`, for the plan and the progress; `mark` tells the
sink, whose journal survives a kill. Marking each block would write the journal too often, so it
follows at intervals and at the end:

    start ======= marked ======= pos ------------ stop
           in the journal  landed     still to come
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from pgetpy.core.http.answers import Answer
from pgetpy.core.http.content_codings import names_no_coding
from pgetpy.core.http.heads import Head
from pgetpy.core.http.range_request import RangeRequest
from pgetpy.core.http.ranges import Span
from pgetpy.core.http.sink import Sink
from pgetpy.core.lazy_dataclass import dataclass, field, replace
from pgetpy.errors.redact import HIDDEN
from pgetpy.system.logs import RoomLog

# What is moved at a time, and how much may land before the sink is told: a killed run loses less
# than their sum, 1 MiB, per connection.
BLOCK = 768 * 1024
JOURNAL_EVERY = 256 * 1024
# A pause is slept in slices of so many seconds, so that a cancellation is noticed.
_SLICE = 0.05
_SECRET_HEADERS = frozenset({"authorization", "cookie"})
# Anything shorter could also be a word of the server's sentence.
_SHORTEST_SECRET = 5
_LOG = RoomLog("engine")

USER_AGENT = "pgetpy"
# The scheme and authority of a `Request.url`, which is in its one form.
AUTHORITY = re.compile("(https?)://([^/?]*)")


class UnsupportedResponseError(Exception):
    """This transport cannot handle the answer, but another one may; the text says why."""


class Address(NamedTuple):
    """Where a host answers: socket family and the socket address of getaddrinfo."""

    family: int
    sockaddr: tuple[str | int | bytes, ...]


@dataclass(frozen=True)
class Request:
    """One GET.

    Attributes:
        url: without user, password and fragment.
        headers: all but Host, in order.
        addresses: where to connect, in order of preference.
        proxy: URL of the proxy to go through, or None.
        tls: the context for https, of the host or of its proxy.
        connect_timeout: seconds for the connection and its TLS handshake.
        trusted: whether the operator named the host, so that no policy has judged its addresses. A
            connection of a trusted request is never used for another kind of request.
        node: the name of the cache node that is asked in place of the host; empty for none.
        tls_name: the name that the node's certificate must have; empty for that of the URL.
    """

    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    addresses: tuple[Address, ...]
    proxy: str | None = field(repr=False)
    tls: ssl.SSLContext | None
    connect_timeout: float
    trusted: bool = False
    node: str = ""
    tls_name: str = ""


class Begun(Protocol):
    """A request that was sent before it was known which exchange takes its answer."""

    @property
    def request(self) -> Request:
        """The request."""

    def close(self) -> None:
        """Close its connection: no one waits for the answer any more."""


@dataclass(eq=False)
class Exchange:
    """One request under way: what the engine and the transport that carries it share.

    Attributes:
        part: which bytes; `pos` is moved by the transport.
        asked: the range in the request, None for the whole object.
        on_head: judges the head and returns the answer that is believed and the sink for its body,
            or raises; called before any byte of the body is kept, in any thread.
        throttle: is given the bytes that have landed and returns the seconds to pause.
        cancelled: set by a transport that was cancelled, for its thread to see.
        blocking: whether the sink may have to wait for its reader.
        generation: how often the manner of asking had changed when this request was made.
        begun: `request`, if it has been sent already: the transport reads that answer.
        source: who is asked, for the result: `origin`, or the name of a mirror or a cache node.
        piece: which piece of the object a cache node is asked for; None if none is asked.
    """

    request: Request
    part: RangeRequest
    asked: Span | None
    on_head: Callable[[Exchange, Head], tuple[Answer, Sink]]
    throttle: Callable[[int], float] | None = None
    cancelled: bool = field(default=False, init=False)
    blocking: bool = field(default=False, init=False)
    generation: int = field(default=0, init=False)
    begun: Begun | None = field(default=None, init=False)
    source: str = field(default="origin", init=False)
    piece: int | None = field(default=None, init=False)
    _sink: Sink | None = field(default=None, init=False)
    _marked: int = field(default=0, init=False)

    @property
    def may_sleep(self) -> bool:
        """Whether `landed` or the sink may sleep, so that they must not be called on the loop."""
        return self.blocking or self.throttle is not None

    @property
    def block(self) -> int:
        """Bytes to move at a time; less under a rate limit, so that the pauses are short."""
        return BLOCK if self.throttle is None else BLOCK // 12

    def judge(self, head: Head) -> tuple[Answer, Sink]:
        """Have `head` judged and set the range to what it promises; then the body may be kept.

        Raises:
            Exception: whatever the judge raises.
        """
        if head.words:
            head = replace(head, words=_without_secrets(head.words, self.request.headers))
        answer, sink = self.on_head(self, head)
        if answer.start == 0 and names_no_coding(head.headers.get("content-encoding", "")):
            _LOG.warning(
                "Content-Encoding %r of %s names no coding; the bytes are kept as they come",
                head.headers["content-encoding"],
                self.request.url,
            )
        part = self.part
        part.start = part.pos = part.counted = self._marked = answer.start
        stops = (stop for stop in (answer.stop, part.most) if stop is not None)
        part.stop = min(stops, default=None)
        self._sink = sink
        return answer, sink

    def store(self, sink: Sink, data: memoryview) -> None:
        """Give `data`, the bytes from `part.pos` on, to `sink`, a block at a time."""
        for at in range(0, len(data), self.block):
            if self.cancelled:
                return
            block = data[at : at + self.block]
            sink.write(self.part.pos, block)
            self.landed(len(block))

    def landed(self, count: int) -> None:
        """Record that `count` more bytes have reached the sink; may sleep to keep to a rate."""
        part = self.part
        part.pos += count
        if part.pos - self._marked >= JOURNAL_EVERY:
            self.mark()
        if self.throttle is not None:
            self._pause(self.throttle(count))

    def mark(self) -> None:
        """Tell the sink about all that has landed."""
        if self._sink is not None and self.part.pos > self._marked:
            self._sink.mark(self._marked, self.part.pos)
            self._marked = self.part.pos

    def _pause(self, seconds: float) -> None:
        """Sleep; this is not time spent waiting for the network."""
        waiting, self.part.waiting = self.part.waiting, False
        deadline = time.monotonic() + seconds
        while not self.cancelled and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(_SLICE, left))
        self.part.waiting = waiting


def _without_secrets(words: str, headers: tuple[tuple[str, str], ...]) -> str:
    """Return a server's `words` without the request's secrets: some servers repeat the request."""
    values = [value for name, value in headers if name.lower() in _SECRET_HEADERS]
    parts = [part.partition("=")[2] for value in values for part in re.split("[; ]+", value)]
    for secret in sorted({*values, *parts}, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            words = words.replace(secret, HIDDEN)
    return words


class Transport(Protocol):
    """Carries exchanges. One instance serves many exchanges at a time."""

    async def carry(self, exchange: Exchange) -> None:
        """Make the request, have the head judged, move the body into the sink.

        Returns when the body has landed up to `part.stop`, which may be lowered meanwhile. May be
        cancelled. However it ends, `part.pos` says how far it came, and nothing is written after
        that.

        Raises:
            TransferError: the network or server failed, or the judge said no.
            UnsupportedResponseError: another transport has to do it; nothing was kept.
            OSError: the sink failed.
        """

    async def close(self) -> None:
        """Close all connections."""
