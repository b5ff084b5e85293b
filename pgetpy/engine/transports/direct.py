"""The bulk path: one range of one known address, moved by the kernel where it can.

A request is made on the event loop. A small body is taken there as well, for a thread would cost
more than it; a large one is moved by a thread: on Linux without TLS by splice, from the socket
through a pipe into the file, never seen by Python; elsewhere through a reused buffer. What this
module does not expect of a server (chunks, HTTP/1.0, a proxy) it leaves to the full client.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
import time
from urllib.parse import urlsplit

from pgetpy.core.http.answers import Head, words_of
from pgetpy.core.http.sink import Place, Sink
from pgetpy.engine.transports.base import Exchange, Request, UnsupportedResponseError
from pgetpy.engine.transports.connection import Connection, failed
from pgetpy.engine.transports.pipes import PIPES, Pipe
from pgetpy.engine.transports.wire import HeadReader
from pgetpy.errors import ConnectionFailedError
from pgetpy.system.event_loop import wait_for, wait_uncancelled
from pgetpy.system.threads import Workers

_BUFFER = 256 * 1024
# A body of this size is sooner received on the loop than handed to a thread.
_SMALL = 256 * 1024
# Several writers of one file only spin on its lock in the kernel.
_WRITERS = 2
_FILL_SECONDS = 0.05
_IDLE_SECONDS = 15.0
_WORDS_SECONDS = 1.0
_REFUSED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.ENOMEM})

_Key = tuple[str, str, int, bool]


class DirectTransport:
    """Carries exchanges for ranges over pooled connections."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._idle: dict[_Key, list[Connection]] = {}
        self._writers = threading.Semaphore(_WRITERS)
        self._local = threading.local()
        self._closed = False

    async def carry(self, exchange: Exchange) -> None:
        """See `Transport.carry`."""
        if exchange.request.proxy is not None:
            raise UnsupportedResponseError("a proxy")
        key = _key(exchange.request)
        connection = self._take_idle(key)
        if connection is not None:
            try:
                return await self._exchange(exchange, connection, key)
            except _StaleError:
                pass
        connection = await Connection.open(exchange.request)
        return await self._exchange(exchange, connection, key)

    async def close(self) -> None:
        """Close the idle connections, and those in use when their exchanges end."""
        self._closed = True
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()

    async def _exchange(self, exchange: Exchange, connection: Connection, key: _Key) -> None:
        """Ask and pour over `connection`; keep it if it can be used again."""
        reusable = False
        try:
            head, rest = await self._ask(exchange, connection)
            surplus = await self._move_body(exchange, connection, head, rest)
            whole = not surplus and head.status in (200, 206) and not exchange.part.rest
            reusable = whole and head.headers.get("connection", "").lower() != "close"
        finally:
            if reusable and not self._closed:
                connection.idle_since = time.monotonic()
                self._idle.setdefault(key, []).append(connection)
            else:
                connection.close()
            exchange.mark()

    async def _ask(self, exchange: Exchange, connection: Connection) -> tuple[Head, memoryview]:
        """Send the request; return the answer's head and what came of the body with it."""
        reader = None
        try:
            await connection.ask(exchange.request)
            reader = HeadReader()
            head = None
            while head is None:
                count = await connection.receive_into(reader.space)
                if not count:
                    raise ConnectionError("closed by the server before it answered")
                head = reader.feed(count)
        except OSError as error:
            if not connection.fresh and not (reader is not None and reader.received):
                raise _StaleError from error
            raise failed(exchange.request, error) from error
        except UnsupportedResponseError as error:
            if not connection.fresh:
                # It may be what was left over of the answer before.
                raise _StaleError from error
            raise
        connection.fresh = False
        if head.status >= 400:
            return await _with_words(head, reader.rest, connection), reader.rest
        if head.status in (200, 206) and "content-length" not in head.headers:
            raise UnsupportedResponseError("a body of unknown length")
        if head.headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedResponseError("a content coding")
        return head, reader.rest

    async def _move_body(
        self, exchange: Exchange, connection: Connection, head: Head, rest: memoryview
    ) -> bool:
        """Have `head` judged and the body moved; whether more came than belongs to it."""
        if exchange.may_sleep or int(head.headers.get("content-length", "0")) > _SMALL:
            return await self._in_thread(exchange, connection, head, rest)
        answer, sink = exchange.judge(head)
        early = rest[: exchange.part.rest]
        exchange.store(sink, early)
        buffer = self._buffer()
        while exchange.part.rest:
            try:
                count = await connection.receive_into(buffer[: exchange.part.rest])
            except OSError as error:
                raise failed(exchange.request, error) from error
            if not count:
                raise _ended_early(exchange)
            exchange.store(sink, buffer[:count])
        return len(rest) > len(early) or exchange.part.stop != answer.stop

    async def _in_thread(
        self, exchange: Exchange, connection: Connection, head: Head, rest: memoryview
    ) -> bool:
        """As `_poured`, in a thread that is always waited for: it writes nothing later."""
        connection.block(True)

        def stop() -> None:
            exchange.cancelled = True
            connection.shutdown()

        pouring = self._workers.submit(
            lambda: self._move_body_in_thread(exchange, connection, head, rest)
        )
        surplus = await wait_uncancelled(pouring, stop)
        connection.block(False)
        return surplus

    def _move_body_in_thread(
        self, exchange: Exchange, connection: Connection, head: Head, rest: memoryview
    ) -> bool:
        """Have `head` judged and move the body; whether more came than belongs to it."""
        part = exchange.part
        answer, sink = exchange.judge(head)
        early = rest[: part.rest]
        exchange.store(sink, early)
        with contextlib.ExitStack() as borrowed:
            pipe = None
            if part.rest and not connection.secure and PIPES.usable:
                pipe = borrowed.enter_context(PIPES.borrowed())
            while _wanted(exchange):
                place = sink.place(part.pos) if pipe is not None else None
                if pipe is None or place is None:
                    self._receive_block(exchange, connection, sink)
                elif not self._splice_block(exchange, connection, sink, place, pipe):
                    pipe = None
        return len(rest) > len(early) or part.stop != answer.stop

    def _splice_block(
        self, exchange: Exchange, connection: Connection, sink: Sink, place: Place, pipe: Pipe
    ) -> bool:
        """Move one block; False where splice was refused and nothing is left in the pipe."""
        part = exchange.part
        want = min(part.rest, pipe.size, place.room, exchange.block)
        part.waiting = True
        try:
            got = pipe.fill(connection.sock.fileno(), want)
        except OSError as error:
            if error.errno in _REFUSED:
                return False
            if exchange.cancelled:
                return True
            raise failed(exchange.request, error) from error
        part.waiting = False
        if not got:
            if exchange.cancelled:
                return True
            raise _ended_early(exchange)
        with self._writers:
            spliced = pipe.drain(place.fd, place.offset, exchange.landed)
        if spliced:
            return True
        PIPES.usable = False
        exchange.store(sink, memoryview(pipe.rest()))
        return False

    def _receive_block(self, exchange: Exchange, connection: Connection, sink: Sink) -> None:
        """Move one block through a buffer of this thread's."""
        buffer = self._buffer()
        size = min(len(buffer), exchange.part.rest, exchange.block)
        filled, ended = _fill(exchange, connection, buffer[:size])
        if filled:
            with self._writers:
                exchange.store(sink, buffer[:filled])
        if ended and _wanted(exchange):
            raise _ended_early(exchange)

    def _buffer(self) -> memoryview:
        """A buffer of this thread's."""
        view: memoryview | None = getattr(self._local, "buffer", None)
        if view is None:
            view = self._local.buffer = memoryview(bytearray(_BUFFER))
        return view

    def _take_idle(self, key: _Key) -> Connection | None:
        now = time.monotonic()
        idle = self._idle.get(key, [])
        while idle:
            connection = idle.pop()
            if now - connection.idle_since < _IDLE_SECONDS and connection.silent():
                return connection
            connection.close()
        return None


class _StaleError(Exception):
    """A kept connection turned out to be closed before it answered: ask again on a new one."""


def _wanted(exchange: Exchange) -> bool:
    return not exchange.cancelled and exchange.part.rest > 0


def _fill(exchange: Exchange, connection: Connection, buffer: memoryview) -> tuple[int, bool]:
    """Receive into `buffer` until it is full or a moment has passed: bytes, whether it ended."""
    filled = 0
    deadline = time.monotonic() + _FILL_SECONDS
    exchange.part.waiting = True
    try:
        while filled < len(buffer) and not exchange.cancelled:
            got = connection.fill(buffer[filled:])
            if not got:
                return filled, True
            filled += got
            if time.monotonic() > deadline:
                break
    except OSError as error:
        if exchange.cancelled:
            return filled, False
        if filled:
            return filled, True
        raise failed(exchange.request, error) from error
    finally:
        exchange.part.waiting = False
    return filled, False


def _key(request: Request) -> _Key:
    parts = urlsplit(request.url)
    return parts.scheme, parts.netloc, id(request.tls), request.trusted


async def _with_words(head: Head, rest: memoryview, connection: Connection) -> Head:
    """Return `head` with the beginning of its body, waiting a moment for it."""
    body = bytes(rest[:2048])
    if not body and head.headers.get("content-length", "0") != "0":
        buffer = memoryview(bytearray(2048))
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            receiving = connection.receive_into(buffer)
            body = bytes(buffer[: await wait_for(_WORDS_SECONDS, receiving)])
    return words_of(head, body)


def _ended_early(exchange: Exchange) -> ConnectionFailedError:
    part = exchange.part
    return ConnectionFailedError(
        exchange.request.url,
        f"closed by the server {part.rest} bytes before the end of the answer",
    )
