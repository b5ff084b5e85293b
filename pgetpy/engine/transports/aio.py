"""The full client: aiohttp, a second opinion on answers that the direct transport cannot read. It
can do a whole transfer by itself.

aiohttp is kept from deciding anything that is decided here: it follows no redirects, decodes no
codings, keeps no cookies, reads no environment and looks up no names (`_resolver`). Two of its
habits would break promises, and are worked around: it takes stray bytes on a pooled connection for
the next answer (`_connector`), and a broken connection for the end of a body (`_check_orderly`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pgetpy.core.http.answers import Answer
from pgetpy.core.http.bodies import unclear_length
from pgetpy.core.http.content_codings import CodingError, ContentDecoder
from pgetpy.core.http.heads import Head, words_of
from pgetpy.core.http.sink import Sink
from pgetpy.engine.transports.base import Address, Exchange, Request
from pgetpy.engine.transports.body import check_transfer_coding
from pgetpy.engine.transports.connecting import DELAY, AddressRace
from pgetpy.engine.transports.connection import Connection
from pgetpy.engine.transports.failures import (
    certificate_error,
    failed,
    is_for_another_name,
    names_of,
    proxy_refused,
    timed_out,
    unreachable,
)
from pgetpy.errors import ConnectionFailedError, TransferError
from pgetpy.system.event_loop import wait_for, wait_uncancelled
from pgetpy.system.logs import RoomLog
from pgetpy.system.thread_executor import WorkersExecutor
from pgetpy.system.threads import Workers

if TYPE_CHECKING:
    import aiohttp
    import yarl
    from aiohttp.abc import ResolveResult

# Small chunks are gathered to this size before they are written, if they come fast enough.
_LOG = RoomLog("engine")
_GATHER = 256 * 1024
_GATHER_SECONDS = 0.1

_Known = dict[tuple[str, int], tuple[Address, ...]]


@dataclass(eq=False, repr=False)
class AioTransport:
    """Carries exchanges with aiohttp. Sessions are made when first needed: importing it is slow.

    Attributes:
        workers: threads that write what has been received.
        limit: the most connections.
    """

    workers: Workers
    limit: int
    _race: AddressRace = field(default_factory=AddressRace)
    # One for requests that are trusted, one for those that are not; see `Request.trusted`.
    _sessions: dict[bool, aiohttp.ClientSession] = field(default_factory=dict)
    _distrusted: list[aiohttp.ClientSession] = field(default_factory=list)
    # Where hosts and proxies answer, as the engine has resolved them, for each of the two.
    _known: defaultdict[bool, _Known] = field(default_factory=partial(defaultdict, dict))

    async def carry(self, exchange: Exchange) -> None:
        """See `Transport.carry`."""
        try:
            await self._carry(exchange)
        finally:
            exchange.mark()

    async def close(self) -> None:
        """Close all connections."""
        sessions = [*self._distrusted, *self._sessions.values()]
        self._sessions, self._distrusted = {}, []
        for session in sessions:
            await session.close()

    async def _carry(self, exchange: Exchange) -> None:
        """Make the request and receive its answer, with aiohttp's errors translated."""
        import aiohttp

        request = exchange.request
        session = self._open(request)
        # With a proxy there are two connections to make.
        patience = request.connect_timeout * (2 if request.proxy else 1)
        try:
            async with session.get(
                _encoded(request.url),
                headers=request.headers,
                allow_redirects=False,
                proxy=request.proxy,
                ssl=request.tls if request.tls is not None else True,
                timeout=aiohttp.ClientTimeout(total=None, connect=patience),
            ) as response:
                try:
                    await self._receive(exchange, response)
                except BaseException:
                    _cut(response)
                    raise
        except TransferError:
            raise
        except (aiohttp.ClientError, asyncio.TimeoutError, ssl.SSLError) as error:
            if isinstance(error, aiohttp.ClientResponseError):
                self._distrust(session)
            raise await _failed(request, error) from error

    def _distrust(self, session: aiohttp.ClientSession) -> None:
        """Use no pooled connection of `session` again: each may hold bytes of a broken answer."""
        for trusted, current in list(self._sessions.items()):
            if session is current:
                del self._sessions[trusted]
                self._distrusted.append(session)

    async def _receive(self, exchange: Exchange, response: aiohttp.ClientResponse) -> None:
        """Have the head judged, and move the body."""
        self._learn(exchange.request, response)
        version = response.version or (1, 1)
        head = Head.of(
            response.status,
            response.reason or "",
            response.headers.items(),
            (version[0], version[1]),
        )
        check_transfer_coding(exchange.request.url, head, most=1)
        if response.status >= 400:
            head = words_of(head, await _beginning(response))
            if head.status == 407 and exchange.request.proxy is not None:
                raise proxy_refused(exchange.request, head.status, head.words or head.reason)
        answer, sink = exchange.judge(head)
        closed = None if answer.delimited else _closed(response)
        await self._pour(exchange, response, answer, sink)
        if closed is not None and closed.done():
            _check_orderly(exchange.request, closed)
        # `stop` was lowered meanwhile, so part of the body was not read.
        # Close, not pool: the rest of a shortened body must not be taken for the next answer.
        if exchange.part.stop is not None and answer.stop != exchange.part.stop:
            _cut(response)

    def _learn(self, request: Request, response: aiohttp.ClientResponse) -> None:
        """Remember which address has answered, to begin with it the next time."""
        transport = response.connection.transport if response.connection is not None else None
        peer = transport.get_extra_info("peername") if transport is not None else None
        for address in request.addresses:
            if peer and address.sockaddr[:2] == peer[:2]:
                self._race.won(request.addresses, address)
                _LOG.debug("%s answered through aiohttp", address.sockaddr[0])

    async def _pour(
        self, exchange: Exchange, response: aiohttp.ClientResponse, answer: Answer, sink: Sink
    ) -> None:
        """Move the body, and check that it was complete."""
        decoder = ContentDecoder(answer.decode) if answer.decode else None
        pending = bytearray()
        exchange.part.waiting = True
        try:
            await self._gather(exchange, response, decoder, sink, pending, answer.skip)
        except Exception as error:
            # Bytes from before the connection broke are good: keep them, then raise.
            if pending:
                await self._write(exchange, sink, pending)
            if isinstance(error, CodingError):
                reason = f"the body is not what its Content-Encoding says ({error})"
                raise TransferError(exchange.request.url, reason) from error
            raise
        _check_end(exchange, decoder)

    async def _gather(
        self,
        exchange: Exchange,
        response: aiohttp.ClientResponse,
        decoder: ContentDecoder | None,
        sink: Sink,
        pending: bytearray,
        skip: int,
    ) -> None:
        """Write the body, without its first `skip` bytes, in pieces that are worth a thread; what
        is not written yet is in `pending`, also if this raises."""
        part = exchange.part
        written_at = time.monotonic()
        async for chunk in response.content.iter_any():
            for data in decoder.feed(chunk) if decoder else (chunk,):
                pending += data[skip:]
                skip = max(0, skip - len(data))
                if part.stop is not None:
                    del pending[max(0, part.rest) :]
                # What trickles in is written as it comes: only written bytes count as progress, and
                # without progress the exchange would be ended as stalled.
                if len(pending) >= _GATHER or time.monotonic() - written_at > _GATHER_SECONDS:
                    await self._write(exchange, sink, pending)
                    written_at = time.monotonic()
            if part.stop is not None and part.pos + len(pending) >= part.stop:
                break
        if pending:
            await self._write(exchange, sink, pending)

    async def _write(self, exchange: Exchange, sink: Sink, pending: bytearray) -> None:
        """Hand `pending` to the sink in a thread, since a disk may be slow, and empty it."""
        from aiofiles.os import wrap

        # asyncio's own pool would delay the interpreter's exit for a write that blocks.
        store = wrap(exchange.store)
        data = memoryview(bytes(pending))
        pending.clear()
        exchange.part.waiting = False

        def stop() -> None:
            exchange.cancelled = True

        storing = store(sink, data, executor=WorkersExecutor(self.workers))
        await wait_uncancelled(asyncio.ensure_future(storing), stop)
        exchange.part.waiting = True

    def _open(self, request: Request) -> aiohttp.ClientSession:
        """Return the session for `request`, whose resolver knows its addresses."""
        import aiohttp

        known = self._known[request.trusted]
        if request.trusted not in self._sessions:
            self._sessions[request.trusted] = aiohttp.ClientSession(
                connector=_connector(self.limit, _resolver(known)),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
                trust_env=False,
            )
        target = request.proxy or request.url
        parts = urlsplit(target)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        known[parts.hostname or "", port] = tuple(self._race.order(request.addresses))
        return self._sessions[request.trusted]


def _connector(limit: int, resolver: aiohttp.abc.AbstractResolver) -> aiohttp.TCPConnector:
    """Return a pool that never hands out a connection on which unrequested bytes have come.

    aiohttp itself would take them for the answer to the next request.
    """
    import aiohttp

    class Connector(aiohttp.TCPConnector):
        async def connect(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
            while True:
                connection = await super().connect(*args, **kwargs)
                protocol = connection.protocol
                if protocol is None or not protocol.should_close:
                    return connection
                connection.close()

    return Connector(
        limit=limit,
        resolver=resolver,
        use_dns_cache=False,
        happy_eyeballs_delay=DELAY,
    )


def _resolver(known: _Known) -> aiohttp.abc.AbstractResolver:
    """Return a resolver that gives aiohttp the addresses in `known`, which a policy may have
    judged, and looks nothing up."""
    from aiohttp.abc import AbstractResolver

    class Resolver(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            return [
                {
                    "hostname": host,
                    "host": str(address.sockaddr[0]),
                    "port": port,
                    "family": address.family,
                    "proto": 0,
                    "flags": socket.AI_NUMERICHOST,
                }
                for address in known.get((host, port), ())
            ]

        async def close(self) -> None:
            known.clear()

    return Resolver()


def _check_end(exchange: Exchange, decoder: ContentDecoder | None) -> None:
    """Raise where the body ended before it was complete."""
    if decoder is not None and not decoder.complete:
        raise ConnectionFailedError(exchange.request.url, "the coded body was cut off")
    rest = exchange.part.rest
    if rest:
        raise ConnectionFailedError(
            exchange.request.url, f"closed by the server {rest} bytes before the end of the answer"
        )


def _closed(response: aiohttp.ClientResponse) -> asyncio.Future[None] | None:
    """Return a future that ends when the connection of `response` does, with its error if any."""
    protocol = response.connection.protocol if response.connection is not None else None
    closed: asyncio.Future[None] | None = getattr(protocol, "closed", None)
    if closed is not None:
        # Retrieve its exception, or asyncio logs it.
        closed.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return closed


def _check_orderly(request: Request, closed: asyncio.Future[None]) -> None:
    """Raise where the connection was broken off; aiohttp takes that for the end of a body."""
    error = closed.exception()
    if error is not None:
        cause = error.__cause__
        raise failed(request, cause if isinstance(cause, OSError) else OSError(str(error)))


def _cut(response: aiohttp.ClientResponse) -> None:
    """Close the connection at once, unless the answer is at its end.

    Closing TLS in order would first receive the rest of the body.
    """
    connection = response.connection
    if connection is not None and connection.transport is not None:
        if response.content.at_eof():
            return
        connection.transport.abort()
    response.close()


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """Return the beginning of an error's body, for its words; empty if it does not come soon."""
    with contextlib.suppress(Exception):
        return await wait_for(2.0, response.content.read(2048))
    return b""


def _encoded(url: str) -> yarl.URL:
    """Return `url` for aiohttp, which would re-encode it, and so break its signature."""
    from yarl import URL

    return URL(url, encoded=True)


async def _failed(request: Request, error: Exception) -> TransferError:
    """Return the error for `error`, which aiohttp raised."""
    import aiohttp

    url = request.url
    cause = _system_error(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        names = await names_of(request, Connection.open) if is_for_another_name(cause) else ()
        return certificate_error(request, cause, names)
    if isinstance(error, asyncio.TimeoutError):
        return timed_out(request)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy_refused(request, error.status, error.message)
    if isinstance(error, aiohttp.ClientResponseError):
        said = " ".join(error.message.split())[:100]
        if "content-length" in said.lower():
            return unclear_length(url, said)
        return ConnectionFailedError(url, f"the answer is not HTTP ({said})")
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(cause, ssl.SSLError):
        return unreachable(request, request.addresses, error.os_error)
    if cause is not None:
        return failed(request, cause)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        reason = "closed by the server before it answered"
    elif isinstance(error, aiohttp.ClientPayloadError):
        reason = "the body was cut off or is malformed"
    else:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ConnectionFailedError(url, reason)


def _system_error(error: BaseException) -> OSError | None:
    """Return the error of the system or of TLS that aiohttp has wrapped."""
    for cause in (
        getattr(error, "certificate_error", None),
        getattr(error, "os_error", None),
        error.__cause__,
        error,
    ):
        if isinstance(cause, OSError) and cause.strerror:
            return cause
    return None
