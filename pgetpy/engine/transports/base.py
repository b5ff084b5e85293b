"""What every transport is: it makes a request, has the head judged, moves the body to a sink."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pgetpy.core.http.answers import Answer, Head
from pgetpy.core.http.range_request import RangeRequest
from pgetpy.core.http.ranges import Span
from pgetpy.core.http.sink import Sink
from pgetpy.errors import ConnectionFailedError

# What is moved at a time, and how much may land before the sink is told: a killed run loses less
# than their sum, 1 MiB, per connection.
BLOCK = 768 * 1024
MARK_EVERY = 256 * 1024
_SLICE = 0.05
T = TypeVar("T")

USER_AGENT = "pgetpy"


class NotForMeError(Exception):
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


class Call:
    """One request under way: what the engine and the transport that carries it share.

    Args:
        part: which bytes; `pos` is moved by the transport.
        asked: the range in the request, None for the whole object.
        on_head: judges the head and gives the answer that is believed and the sink for its body,
            or raises; called before any byte of the body is kept, in any thread.
        throttle: takes the bytes that have landed and returns the seconds to pause.

    Attributes:
        cancelled: set by a transport that was cancelled, for its thread to see.
        blocking: whether `landed` may sleep, or the sink, so that they have no place on the loop.
    """

    def __init__(
        self,
        request: Request,
        part: RangeRequest,
        asked: Span | None,
        on_head: Callable[[Call, Head], tuple[Answer, Sink]],
        throttle: Callable[[int], float] | None = None,
    ) -> None:
        self.request = request
        self.part = part
        self.asked = asked
        self.cancelled = False
        self.blocking = throttle is not None
        self.block = BLOCK if throttle is None else BLOCK // 12
        self._on_head = on_head
        self._throttle = throttle
        self._sink: Sink | None = None
        self._marked = part.start

    def judge(self, head: Head) -> tuple[Answer, Sink]:
        """Have `head` judged and the range set to what it promises; the body may be kept then."""
        answer, sink = self._on_head(self, head)
        part = self.part
        part.start = part.pos = part.counted = self._marked = answer.start
        part.stop = answer.stop
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
        if part.pos - self._marked >= MARK_EVERY:
            self.mark()
        if self._throttle is not None:
            self._pause(self._throttle(count))

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


class Transport(Protocol):
    """Carries calls. One instance serves many calls at a time."""

    async def carry(self, call: Call) -> None:
        """Make the request, have the head judged, move the body into the sink.

        Returns when the body has landed up to `part.stop`, which may be lowered meanwhile. May be
        cancelled; `part.pos` tells how far it came, and nothing is written any more afterwards.

        Raises:
            TransferError: the network or server failed, or the judge said no.
            NotForMeError: another transport has to do it; nothing was kept.
            OSError: the sink failed.
        """

    async def close(self) -> None:
        """Close all connections."""


async def seen_through(work: asyncio.Future[T], stop: Callable[[], None]) -> T:
    """Return the result of `work`, which a thread does and which may write to a sink.

    When cancelled, call `stop` and wait all the same until it has ended, however often cancelled:
    nothing may be written afterwards.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop()
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # nobody asks for it any more
        raise


async def all_or_none(tasks: Sequence[asyncio.Future[T]]) -> list[T]:
    """Return what `tasks` return; when one fails, or we are cancelled, the others end first."""
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def within(
    seconds: float, work: Coroutine[Any, Any, T], undo: Callable[[T], None] | None = None
) -> T:
    """Return what `work` returns; what it returns too late is given to `undo`.

    Unlike asyncio.wait_for before Python 3.12, this never swallows a cancellation that comes
    together with the result.

    Raises:
        asyncio.TimeoutError: it took longer than `seconds`.
    """
    task = asyncio.ensure_future(work)
    in_time: set[asyncio.Future[T]] = set()
    try:
        in_time, _ = await asyncio.wait([task], timeout=seconds)
    finally:
        if not in_time:
            task.add_done_callback(lambda late: _ended_late(late, undo))
            task.cancel()
            await asyncio.wait([task])
    if not in_time:
        raise asyncio.TimeoutError
    return task.result()


def _ended_late(late: asyncio.Future[T], undo: Callable[[T], None] | None) -> None:
    if not late.cancelled() and late.exception() is None and undo is not None:
        undo(late.result())


def network_error(url: str, error: OSError) -> ConnectionFailedError:
    """Return the error for `error`, which the network raised on the way to `url`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionFailedError(
            url,
            f"the certificate was not accepted: {error.verify_message}",
            hint="give the authority's certificate with --cacert",
            permanent=True,
        )
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno and reason.startswith("Connect call failed"):
        # asyncio says where it wanted to connect to instead of what went wrong.
        reason = os.strerror(error.errno)
    return ConnectionFailedError(url, reason[:1].lower() + reason[1:])
