"""The bulk path: one range from one known address, moved by the kernel where possible.

The table of ways in which a body is moved is in the package's docstring. On all of them `part.pos`
is the only record of progress: it moves after the bytes have reached the sink, never before, so an
exchange may be stopped at any byte. Another thread may lower `part.stop` meanwhile, so each loop
here reads it again for each block. Anything but HTTP/1 is left to the full client.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time

from pgetpy.core.http.heads import Head
from pgetpy.core.http.sink import Place, Sink
from pgetpy.engine.transports.base import (
    AUTHORITY,
    Begun,
    Exchange,
    Request,
    UnsupportedResponseError,
)
from pgetpy.engine.transports.body import BodyDecoder, check_transfer_coding
from pgetpy.engine.transports.connecting import AddressRace
from pgetpy.engine.transports.connection import LOW_WATER, Connection
from pgetpy.engine.transports.failures import failed, proxy_refused
from pgetpy.engine.transports.on_loop import ended_early, is_small, move_on_loop, read_words
from pgetpy.engine.transports.pipes import PIPES, Pipe
from pgetpy.engine.transports.receiving import fill, receive
from pgetpy.engine.transports.small_request import SmallRequest
from pgetpy.engine.transports.wire import HeadReader, may_stay_open
from pgetpy.errors import TransferError
from pgetpy.system.event_loop import wait_uncancelled
from pgetpy.system.threads import Permits, Workers

_BUFFER = 256 * 1024
# More writers of one file only spin on its inode's lock in the kernel.
_WRITERS = 2
_IDLE_SECONDS = 15.0  # after that, many servers have closed a connection
_REFUSED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.ENOMEM})

# All that a connection, its proxy and its TLS depend on, see `_key_of`.
_Key = tuple[str, str | None, int, bool, str]


class DirectTransport:
    """Carries exchanges for ranges over pooled connections."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._race = AddressRace()
        self._idle = _IdleConnections()
        self._writers = Permits(_WRITERS)
        self._local = threading.local()  # holds the buffer of each thread

    async def carry(self, exchange: Exchange) -> None:
        """See `Transport.carry`."""
        key = _key_of(exchange.request)
        begun, exchange.begun = exchange.begun, None
        if begun is not None:
            try:
                return await self._take_over(exchange, begun, key)
            except _StaleError:
                pass
        connection = self._idle.take(key)
        if connection is not None:
            try:
                return await self._exchange(exchange, connection, key)
            except _StaleError:
                pass  # nothing of the answer came, so asking again is safe
        connection = await Connection.open(exchange.request, self._race)
        return await self._exchange(exchange, connection, key)

    async def begin(self, begun: SmallRequest) -> None:
        """See `SmallTransport.begin`."""
        connection = self._idle.take(_key_of(begun.request))
        try:
            if connection is not None:
                try:
                    return await begun.ask(connection)
                except (OSError, UnsupportedResponseError) as error:
                    if isinstance(error, OSError) and begun.reader.received:
                        raise
                    # Closed before it answered, or with leftovers of the answer before.
                    connection.close()
            await begun.ask(await Connection.open(begun.request, self._race))
        except OSError as error:
            begun.fail(failed(begun.request, error))
        except (TransferError, UnsupportedResponseError) as error:
            begun.fail(error)
        except BaseException:
            begun.close()
            raise

    def end(self, begun: SmallRequest) -> None:
        """See `SmallTransport.end`."""
        connection, begun.stream = begun.stream, None
        assert isinstance(connection, Connection)
        assert begun.head is not None
        if not begun.surplus and may_stay_open(begun.head):
            self._idle.keep(_key_of(begun.request), connection)
        else:
            connection.close()

    async def _take_over(self, exchange: Exchange, begun: Begun, key: _Key) -> None:
        """Carry `exchange`, whose request has been sent by `begin`."""
        assert isinstance(begun, SmallRequest)
        if begun.error is not None:
            raise begun.error
        connection, begun.stream = begun.stream, None
        assert isinstance(connection, Connection)
        await self._exchange(exchange, connection, key, begun)

    async def close(self) -> None:
        """Close the idle connections now, and those in use when their exchanges end."""
        self._idle.close()

    async def _exchange(
        self,
        exchange: Exchange,
        connection: Connection,
        key: _Key,
        begun: SmallRequest | None = None,
    ) -> None:
        """Carry `exchange` over `connection`; keep it if nothing of the answer is left in it."""
        reusable = False
        connection.unwatch()
        try:
            head, rest = await self._ask(exchange, connection, begun)
            surplus = await self._move_body(exchange, connection, head, rest)
            whole = not surplus and head.brings_object and not exchange.part.rest
            reusable = whole and may_stay_open(head)
        finally:
            if reusable:
                self._idle.keep(key, connection)
            else:
                connection.close()
            exchange.mark()

    async def _ask(
        self, exchange: Exchange, connection: Connection, begun: SmallRequest | None
    ) -> tuple[Head, memoryview]:
        """Send the request, unless it has `begun`; the answer's head, and what came of the body."""
        reader = begun.reader if begun is not None else None
        try:
            if reader is None:
                await connection.ask(exchange.request)
                reader = HeadReader()
            head = begun.head if begun is not None else None
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
                # These may be leftovers of the answer before.
                raise _StaleError from error
            raise
        connection.fresh = False
        if head.status >= 400:
            head = await read_words(head, reader.rest, connection)
            if head.status == 407 and exchange.request.proxy is not None:
                raise proxy_refused(exchange.request, head.status, head.words or head.reason)
            return head, reader.rest
        check_transfer_coding(exchange.request.url, head)
        return head, reader.rest

    async def _move_body(
        self, exchange: Exchange, connection: Connection, head: Head, rest: memoryview
    ) -> bool:
        """Have `head` judged and the body moved; whether more came than belongs to it."""
        if exchange.may_sleep or not is_small(head):
            return await self._in_thread(exchange, connection, head, rest)
        answer, sink = exchange.judge(head)
        rest, skip = rest[answer.skip :], max(0, answer.skip - len(rest))
        early = rest[: exchange.part.rest]
        exchange.store(sink, early)
        buffer = self._buffer()
        while exchange.part.rest:
            try:
                count = await connection.receive_into(buffer[: skip + exchange.part.rest])
            except OSError as error:
                raise failed(exchange.request, error) from error
            if not count:
                raise ended_early(exchange)
            exchange.store(sink, buffer[min(skip, count) : count])
            skip = max(0, skip - count)
        return len(rest) > len(early) or exchange.part.stop != answer.stop  # stop was lowered

    async def _in_thread(
        self, exchange: Exchange, connection: Connection, head: Head, rest: memoryview
    ) -> bool:
        """As `_move_body`, in a thread that is always waited for, so that it writes no more."""

        def stop() -> None:
            exchange.cancelled = True
            connection.shutdown()  # wakes the thread

        def move() -> bool:
            # In the thread: the loop would wait for the interpreter's lock after each of these.
            connection.block(True)
            surplus = self._move_body_in_thread(exchange, connection, head, rest)
            connection.block(False)
            return surplus

        moving = self._workers.submit_now(move)
        if moving is None:
            return await move_on_loop(exchange, connection, head, rest, self._workers)
        return await wait_uncancelled(moving, stop)

    def _move_body_in_thread(
        self, exchange: Exchange, connection: Connection, head: Head, rest: memoryview
    ) -> bool:
        """Have `head` judged and move the body; whether more came than belongs to it."""
        part = exchange.part
        answer, sink = exchange.judge(head)
        if answer.decode or "content-length" not in head.headers:
            body = BodyDecoder(exchange.request.url, head, answer.decode)
            return self._decode_body(exchange, connection, body, rest, sink, answer.skip)
        rest, skip = rest[answer.skip :], max(0, answer.skip - len(rest))
        early = rest[: part.rest]
        exchange.store(sink, early)
        with contextlib.ExitStack() as borrowed:
            pipe = None
            if part.rest and not connection.secure and PIPES.usable and not sink.hashes:
                pipe = borrowed.enter_context(PIPES.borrowed())
            while skip and _wanted(exchange):
                skip -= self._drop(exchange, connection, skip)
            # Do not delay the first block, and wait only once a block has emptied the socket.
            patient = False
            while _wanted(exchange):
                place = sink.place(part.pos) if pipe is not None else None
                if pipe is None or place is None:
                    self._receive_block(exchange, connection, sink)
                    continue
                begin = part.pos
                if not self._splice_block(exchange, connection, sink, place, pipe, patient=patient):
                    pipe = None
                patient = patient or part.pos - begin < LOW_WATER
        return len(rest) > len(early) or part.stop != answer.stop

    def _decode_body(
        self,
        exchange: Exchange,
        connection: Connection,
        body: BodyDecoder,
        rest: memoryview,
        sink: Sink,
        skip: int,
    ) -> bool:
        """Move a body through `body`, without its first `skip` bytes; whether more of it came, or
        is still to come, than is wanted: then the connection cannot be used again."""
        part = exchange.part
        buffer = self._buffer()
        data = bytes(rest)
        while not exchange.cancelled:
            for plain in body.feed(data):
                wanted, skip = plain[skip:], max(0, skip - len(plain))
                if part.stop is not None:
                    wanted = wanted[: part.rest]
                exchange.store(sink, memoryview(wanted))
            if body.complete or (part.stop is not None and not part.rest):
                break
            count = receive(exchange, connection, buffer, open_ended=body.open_ended)
            if not count:
                break
            data = bytes(buffer[:count])
        if exchange.cancelled or (part.stop is not None and not part.rest):
            return body.surplus or not body.complete
        body.end()
        if part.rest:
            raise ended_early(exchange)
        return body.surplus or not body.complete

    def _splice_block(
        self,
        exchange: Exchange,
        connection: Connection,
        sink: Sink,
        place: Place,
        pipe: Pipe,
        *,
        patient: bool,
    ) -> bool:
        """Move one block; False where splice was refused, with the pipe empty.

        `patient` waits for more than the next packet; once set it has to stay set.
        """
        part = exchange.part
        want = min(part.rest, pipe.size, place.room, exchange.block)
        part.waiting = True
        try:
            if patient:
                connection.await_bytes(min(want, LOW_WATER))
            got = pipe.fill(connection.sock.fileno(), want)
        except OSError as error:
            if error.errno in _REFUSED:
                return False  # this kind of socket: receive into a buffer instead
            if exchange.cancelled:
                return True  # the shutdown caused it
            raise failed(exchange.request, error) from error
        part.waiting = False
        if not got:
            if exchange.cancelled:
                return True
            raise ended_early(exchange)
        with self._writers:
            spliced = pipe.drain(place.fd, place.offset, exchange.landed)
        if spliced:
            return True
        PIPES.usable = False  # this file system takes no splice; do not try again
        exchange.store(sink, memoryview(pipe.rest()))
        return False

    def _receive_block(self, exchange: Exchange, connection: Connection, sink: Sink) -> None:
        """Move one block through a buffer of this thread's."""
        buffer = self._buffer()
        size = min(len(buffer), exchange.part.rest, exchange.block)
        filled, ended = fill(exchange, connection, buffer[:size])
        if filled:
            with contextlib.nullcontext() if sink.hashes else self._writers:
                exchange.store(sink, buffer[:filled])
        if ended and _wanted(exchange):
            raise ended_early(exchange)

    def _drop(self, exchange: Exchange, connection: Connection, most: int) -> int:
        """Receive and drop at most so many unwanted bytes; return how many it were."""
        buffer = self._buffer()
        dropped, ended = fill(exchange, connection, buffer[:most])
        if ended and _wanted(exchange):
            raise ended_early(exchange)
        return dropped

    def _buffer(self) -> memoryview:
        """The buffer of this thread, made once."""
        view: memoryview | None = getattr(self._local, "buffer", None)
        if view is None:
            view = self._local.buffer = memoryview(bytearray(_BUFFER))
        return view


class _IdleConnections:
    """Idle connections. On the loop only."""

    def __init__(self) -> None:
        self._idle: dict[_Key, list[Connection]] = {}
        self._closed = False

    def take(self, key: _Key) -> Connection | None:
        """Return a connection that can be used again, the latest one; None where there is none."""
        now = time.monotonic()
        idle = self._idle.get(key, [])
        while idle:
            connection = idle.pop()
            if now - connection.idle_since < _IDLE_SECONDS and connection.silent():
                return connection
            connection.close()
        return None

    def keep(self, key: _Key, connection: Connection) -> None:
        """Keep `connection`, whose last answer has been read to its end."""
        if self._closed:
            connection.close()
            return
        connection.idle_since = time.monotonic()
        self._idle.setdefault(key, []).append(connection)

    def close(self) -> None:
        """Close them, and from now on those that `keep` is given."""
        self._closed = True
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()


class _StaleError(Exception):
    """A pooled connection turned out to be closed: make the request again on a new one."""


def _key_of(request: Request) -> _Key:
    """Return what a connection must have been opened for to be used for `request`."""
    authority = AUTHORITY.match(request.url)
    assert authority is not None
    return authority[0], request.proxy, id(request.tls), request.trusted, request.node


def _wanted(exchange: Exchange) -> bool:
    return not exchange.cancelled and exchange.part.rest > 0
