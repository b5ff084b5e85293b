"""What every transport is: it makes a request, has the head judged, moves the body to a sink."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from pgetpy.core.http.answers import Answer
from pgetpy.core.http.content_codings import names_no_coding
from pgetpy.core.http.heads import Head
from pgetpy.core.http.range_request import RangeRequest
from pgetpy.core.http.ranges import Span
from pgetpy.core.http.sink import Sink
from pgetpy.errors.redact import HIDDEN
from pgetpy.system.logs import RoomLog

# What is moved at a time, and how much may land before the sink is told: a killed run loses less
# than their sum, 1 MiB, per connection.
BLOCK = 768 * 1024
JOURNAL_EVERY = 256 * 1024
_SLICE = 0.05
_SECRET_HEADERS = frozenset({"authorization", "cookie"})
# Less could be a word of the sentence as well.
_SHORTEST_SECRET = 5
_LOG = RoomLog("engine")

USER_AGENT = "pgetpy"


class UnsupportedResponseError(Exception):
    """This transport does not speak what the server (`reason`) does; another one will."""


@dataclass(frozen=True)
class Address:
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
        tls: the context for https.
        connect_timeout: seconds for the connection and its TLS handshake.
        trusted: whether no policy has judged the addresses. What is connected for one that is
            trusted is not lent to one that is not.
    """

    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    addresses: tuple[Address, ...]
    proxy: str | None = field(repr=False)
    tls: ssl.SSLContext | None
    connect_timeout: float
    trusted: bool = False


@dataclass(eq=False)
class Exchange:
    """One request under way: what the engine and the transport that carries it share.

    Attributes:
        part: which bytes; `pos` is moved by the transport.
        asked: the range in the request, None for the whole object.
        on_head: judges the head and gives the answer that is believed and the sink for its body,
            or raises; called before any byte of the body is kept, in any thread.
        throttle: takes the bytes that have landed and returns the seconds to pause.
        cancelled: set by a transport that was cancelled, for its thread to see.
        blocking: whether the sink may have to wait for its reader.
        generation: how often the object had to be asked for more plainly before.
    """

    request: Request
    part: RangeRequest
    asked: Span | None
    on_head: Callable[[Exchange, Head], tuple[Answer, Sink]]
    throttle: Callable[[int], float] | None = None
    cancelled: bool = field(default=False, init=False)
    blocking: bool = field(default=False, init=False)
    generation: int = field(default=0, init=False)
    _sink: Sink | None = field(default=None, init=False)
    _marked: int = field(default=0, init=False)

    @property
    def may_sleep(self) -> bool:
        """Whether `landed` or the sink may sleep, so that they have no place on the loop."""
        return self.blocking or self.throttle is not None

    @property
    def block(self) -> int:
        """How much is moved at a time."""
        return BLOCK if self.throttle is None else BLOCK // 12

    def judge(self, head: Head) -> tuple[Answer, Sink]:
        """Have `head` judged and the range set to what it promises; the body may be kept then."""
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
        """Give `data`, the bytes at the range's position, to `sink`."""
        for at in range(0, len(data), self.block):
            if self.cancelled:
                return
            block = data[at : at + self.block]
            sink.write(self.part.pos, block)
            self.landed(len(block))

    def landed(self, count: int) -> None:
        """`count` more bytes have reached the sink."""
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
        waiting, self.part.waiting = self.part.waiting, False
        deadline = time.monotonic() + seconds
        while not self.cancelled and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(_SLICE, left))
        self.part.waiting = waiting


def _without_secrets(words: str, headers: tuple[tuple[str, str], ...]) -> str:
    """Return a server's `words` without those of the request: some servers repeat it."""
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
        cancelled; `part.pos` tells how far it came, and nothing is written any more afterwards.

        Raises:
            TransferError: the network or server failed, or the judge said no.
            UnsupportedResponseError: another transport has to do it; nothing was kept.
            OSError: the sink failed.
        """

    async def close(self) -> None:
        """Close all connections."""
