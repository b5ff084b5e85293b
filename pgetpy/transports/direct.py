"""The bulk path: threads on plain sockets that ask for one range and let the kernel move the body.

On Linux without TLS the body goes from the socket through a pipe into the file by splice and is never
seen by Python; elsewhere it is received into a reused buffer. Whatever this module does not expect of
a server (a redirect's target, chunks, HTTP/1.0, a proxy) it leaves to others: it speaks only the part
of HTTP/1.1 that a range of a known size needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from pgetpy.core.answers import Head, words_of
from pgetpy.errors import ConnectionFailedError
from pgetpy.sinks.base import Sink
from pgetpy.transports.base import Address, Call, NotForMeError, Request
from pgetpy.transports.pipes import PIPES, Pipe
from pgetpy.transports.wire import HeadReader, request_bytes
from pgetpy.workers import Workers

_BUFFER = 256 * 1024
_FIRST_READ = 64 * 1024
_SLICE = 0.05
# Several writers of one file only spin on its lock in the kernel.
_WRITERS = 2
_FILL_SECONDS = 0.05
_IDLE_SECONDS = 15.0
_REFUSED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.ENOMEM})

_Key = tuple[str, str, int]


class Connection:
    """One socket to one host, used by one call at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fresh = True
        self.idle_since = 0.0

    @property
    def secure(self) -> bool:
        return isinstance(self.sock, ssl.SSLSocket)

    def shutdown(self) -> None:
        """Wake whoever waits on this connection; it delivers nothing more."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's own: that one takes the TLS layer off under a reader's feet.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        self.sock.close()

    def silent(self) -> bool:
        """Whether nothing waits to be read: no end of stream, no bytes beyond the last body."""
        if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            return False
        poller = select.poll()
        poller.register(self.sock.fileno(), select.POLLIN | select.POLLHUP)
        return not poller.poll(0)


class DirectTransport:
    """Carries calls for ranges over pooled connections, each in a thread."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._lock = threading.Lock()
        self._idle: dict[_Key, list[Connection]] = {}
        self._writers = threading.Semaphore(_WRITERS)
        self._local = threading.local()
        self._closed = False

    async def carry(self, call: Call) -> None:
        """See `Transport.carry`."""
        if call.request.proxy is not None:
            raise NotForMeError("a proxy")
        future = self._workers.submit(lambda: self._carry(call))
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            call.cancel()
            # Nothing may be written once we have returned, so the thread is waited for.
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()
            raise

    async def close(self) -> None:
        """Close the idle connections, and those in use when their calls end."""
        with self._lock:
            self._closed = True
            connections = [conn for idle in self._idle.values() for conn in idle]
            self._idle.clear()
        for connection in connections:
            connection.close()

    def _carry(self, call: Call) -> None:
        request = call.request
        key = _key(request)
        connection = self._reused(key)
        if connection is not None:
            try:
                return self._exchange(call, connection, key)
            except _StaleError:
                pass
        connection = _connect(call)
        if connection is not None:
            self._exchange(call, connection, key)

    def _exchange(self, call: Call, connection: Connection, key: _Key) -> None:
        """Ask and pour over `connection`; keep it if it can be used again."""
        call.abortable(connection.shutdown)
        reusable = False
        try:
            reusable = self._ask(call, connection)
        finally:
            call.abortable(None)
            call.mark()
            if reusable and not call.cancelled:
                self._keep(key, connection)
            else:
                connection.close()

    def _ask(self, call: Call, connection: Connection) -> bool:
        """Send the request, judge the head, pour the body; whether the connection is as new."""
        request, flight = call.request, call.flight
        reader = HeadReader(self._buffer())
        flight.waiting = True
        try:
            connection.sock.sendall(request_bytes(request))
            head = reader.read(connection.sock)
        except OSError as error:
            if call.cancelled:
                return False
            if not connection.fresh and not reader.received:
                raise _StaleError from error
            raise _failed(request, error) from error
        flight.waiting = False
        if head.status >= 400:
            head = _with_words(head, reader.rest, connection)
        if head.status in (200, 206) and "content-length" not in head.headers:
            raise NotForMeError("a body of unknown length")
        if head.headers.get("content-encoding", "identity").lower() != "identity":
            raise NotForMeError("a content coding")
        answer, sink = call.judge(head)
        connection.fresh = False
        surplus = self._pour(call, connection, sink, reader.rest)
        whole = flight.pos == answer.stop and not surplus and head.status in (200, 206)
        return whole and head.headers.get("connection", "").lower() != "close"

    def _pour(self, call: Call, connection: Connection, sink: Sink, rest: memoryview) -> bool:
        """Move the body into `sink`; whether more came than belongs to it."""
        flight = call.flight
        assert flight.stop is not None
        early = rest[: flight.stop - flight.pos]
        if early:
            sink.write(flight.pos, early)
            call.landed(len(early))
        if flight.pos < flight.stop and not connection.secure and PIPES.usable:
            self._pour_spliced(call, connection, sink)
        if not call.cancelled and flight.pos < flight.stop:
            self._pour_received(call, connection, sink)
        return len(rest) > len(early)

    def _pour_spliced(self, call: Call, connection: Connection, sink: Sink) -> None:
        """Move the body by splice as far as that is allowed; the rest is for recv."""
        with PIPES.borrowed() as pipe:
            if pipe is not None:
                while _wanted(call) and self._splice_block(call, connection, sink, pipe):
                    pass

    def _splice_block(self, call: Call, connection: Connection, sink: Sink, pipe: Pipe) -> bool:
        """Move one block; False where splice was refused and nothing is left in the pipe."""
        flight = call.flight
        place = sink.place(flight.pos)
        if place is None:
            return False
        want = min(flight.rest, pipe.size, place.room, call.block)
        flight.waiting = True
        try:
            got = pipe.fill(connection.sock.fileno(), want)
        except OSError as error:
            if error.errno in _REFUSED:
                return False
            if call.cancelled:
                return True
            raise _failed(call.request, error) from error
        flight.waiting = False
        if not got:
            if call.cancelled:
                return True
            raise _ended_early(call)
        with self._writers:
            spliced = pipe.drain(place.fd, place.offset, call.landed)
        if spliced:
            return True
        PIPES.usable = False
        data = memoryview(pipe.rest())
        sink.write(flight.pos, data)
        call.landed(len(data))
        return False

    def _pour_received(self, call: Call, connection: Connection, sink: Sink) -> None:
        """Move the body through a buffer of this thread's."""
        buffer = self._buffer()
        while _wanted(call):
            size = min(len(buffer), call.flight.rest, call.block)
            filled, ended = _fill(call, connection, buffer[:size])
            if filled:
                with self._writers:
                    sink.write(call.flight.pos, buffer[:filled])
                call.landed(filled)
            if ended and _wanted(call):
                raise _ended_early(call)

    def _buffer(self) -> memoryview:
        view: memoryview | None = getattr(self._local, "buffer", None)
        if view is None:
            view = self._local.buffer = memoryview(bytearray(_BUFFER))
        return view

    def _reused(self, key: _Key) -> Connection | None:
        now = time.monotonic()
        while True:
            with self._lock:
                idle = self._idle.get(key)
                connection = idle.pop() if idle else None
            if connection is None:
                return None
            if now - connection.idle_since < _IDLE_SECONDS and connection.silent():
                return connection
            connection.close()

    def _keep(self, key: _Key, connection: Connection) -> None:
        connection.idle_since = time.monotonic()
        with self._lock:
            if not self._closed:
                self._idle.setdefault(key, []).append(connection)
                return
        connection.close()


class _StaleError(Exception):
    """A kept connection turned out to be closed before it answered: ask again on a new one."""


def _wanted(call: Call) -> bool:
    return not call.cancelled and call.flight.rest > 0


def _fill(call: Call, connection: Connection, buffer: memoryview) -> tuple[int, bool]:
    """Receive into `buffer` until it is full or a moment has passed: bytes, whether it ended."""
    filled = 0
    deadline = time.monotonic() + _FILL_SECONDS
    call.flight.waiting = True
    try:
        while filled < len(buffer) and not call.cancelled:
            got = connection.sock.recv_into(buffer[filled:])
            if not got:
                return filled, True
            filled += got
            if time.monotonic() > deadline:
                break
    except OSError as error:
        if call.cancelled:
            return filled, False
        if filled:
            return filled, True
        raise _failed(call.request, error) from error
    finally:
        call.flight.waiting = False
    return filled, False


def _key(request: Request) -> _Key:
    parts = urlsplit(request.url)
    return parts.scheme, parts.netloc, id(request.tls)


def _connect(call: Call) -> Connection | None:
    """Return a new connection to the first address that answers, None where the call was cancelled."""
    request = call.request
    deadline = time.monotonic() + request.connect_timeout
    failure: OSError | None = None
    for index, address in enumerate(request.addresses):
        # An address that does not answer must not use up the time of those behind it.
        remaining = len(request.addresses) - index
        limit = time.monotonic() + max(0.3, (deadline - time.monotonic()) / remaining)
        try:
            return _connect_to(call, address, limit)
        except OSError as error:
            failure = error
        if call.cancelled:
            return None
    raise _failed(request, failure or OSError("the host has no address"))


def _connect_to(call: Call, address: Address, deadline: float) -> Connection | None:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(address.sockaddr)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        if not _writable(sock, deadline, lambda: call.cancelled):
            sock.close()
            return None
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(_secured(call, sock, deadline))
    except BaseException:
        sock.close()
        raise


def _writable(sock: socket.socket, deadline: float, cancelled: Callable[[], bool]) -> bool:
    poller = select.poll()
    poller.register(sock.fileno(), select.POLLOUT)
    while not cancelled():
        left = deadline - time.monotonic()
        if poller.poll(max(0.0, min(_SLICE, left)) * 1000):
            return True
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "no answer within the connect timeout")
    return False


def _secured(call: Call, sock: socket.socket, deadline: float) -> socket.socket:
    parts = urlsplit(call.request.url)
    if parts.scheme != "https":
        sock.settimeout(None)
        return sock
    assert call.request.tls is not None
    sock.settimeout(max(0.3, deadline - time.monotonic()))
    call.abortable(lambda: Connection(sock).shutdown())
    secure = call.request.tls.wrap_socket(sock, server_hostname=parts.hostname)
    secure.settimeout(None)
    return secure


def _with_words(head: Head, rest: memoryview, connection: Connection) -> Head:
    """Return `head` with the beginning of its body, waiting a moment for it."""
    body = bytes(rest[:2048])
    if not body and head.headers.get("content-length", "0") != "0":
        with contextlib.suppress(OSError):
            connection.sock.settimeout(1.0)
            body = connection.sock.recv(2048)
    return words_of(head, body)


def _failed(request: Request, error: OSError) -> ConnectionFailedError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionFailedError(
            request.url,
            f"the certificate was not accepted: {error.verify_message}",
            hint="give the authority's certificate with --cacert",
        )
    reason = error.strerror or str(error) or type(error).__name__
    return ConnectionFailedError(request.url, reason[:1].lower() + reason[1:])


def _ended_early(call: Call) -> ConnectionFailedError:
    flight = call.flight
    return ConnectionFailedError(
        call.request.url, f"closed by the server {flight.rest} bytes before the end of the answer"
    )
