"""One socket to one host: opened, asked and answered on the event loop, then handed to a thread."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import time
from urllib.parse import urlsplit

from pgetpy.engine.transports.base import Address, Request, network_error
from pgetpy.engine.transports.tls import TLS_READ_SIZE, Tls
from pgetpy.errors import BadReferenceError, ConnectionFailedError
from pgetpy.system.event_loop import wait_for

# However many addresses there are, each gets this much time.
_SHORTEST_TRY = 0.3


class Connection:
    """A connected socket, not blocking until `block` is called; used by one exchange at a time.

    Attributes:
        fresh: whether nothing has been asked on it yet.
        idle_since: when its last exchange ended (monotonic time).
    """

    def __init__(self, sock: socket.socket, tls: Tls | None) -> None:
        self.sock = sock
        self.fresh = True
        self.idle_since = 0.0
        self._tls = tls
        self._sealed = memoryview(bytearray(TLS_READ_SIZE if tls is not None else 0))

    @classmethod
    async def open(cls, request: Request) -> Connection:
        """Return a new connection to the first address of `request` that answers.

        Raises:
            ConnectionFailedError: none does, or the certificate is not accepted.
        """
        deadline = time.monotonic() + request.connect_timeout
        failure: OSError = OSError("the host has no address")
        for index, address in enumerate(request.addresses):
            # An address that does not answer must not use up the time of those behind it.
            share = (deadline - time.monotonic()) / (len(request.addresses) - index)
            try:
                opening = cls._connect(request, address)
                return await wait_for(max(_SHORTEST_TRY, share), opening, cls.close)
            except asyncio.TimeoutError:
                failure = TimeoutError(errno.ETIMEDOUT, "no answer within the connect timeout")
            except OSError as error:
                failure = error
        raise failed(request, failure) from failure

    @classmethod
    async def _connect(cls, request: Request, address: Address) -> Connection:
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            parts = urlsplit(request.url)
            if parts.scheme != "https":
                return cls(sock, None)
            assert request.tls is not None
            connection = cls(sock, Tls(request.tls, parts.hostname))
            await connection._shake_hands()
        except BaseException:
            sock.close()
            raise
        return connection

    @property
    def secure(self) -> bool:
        return self._tls is not None

    async def ask(self, request: Request) -> None:
        """Send `request`."""
        data = _bytes_of(request)
        if self._tls is not None:
            self._tls.seal(data)
            data = self._tls.sealed()
        await self._send(data)

    async def receive_into(self, buffer: memoryview) -> int:
        """Receive what there is into `buffer`, waiting for the first byte; 0 at the end."""
        if self._tls is None:
            return await self._receive(buffer)
        while (count := self._tls.read_into(buffer)) is None:
            await self._feed(self._tls)
        return count

    def fill(self, buffer: memoryview) -> int:
        """As `receive_into`, in a thread, once `block` has been called."""
        if self._tls is None:
            return self.sock.recv_into(buffer)
        while (count := self._tls.read_into(buffer)) is None:
            self._tls.receive(self._sealed[: self.sock.recv_into(self._sealed)])
            if answer := self._tls.sealed():
                self.sock.sendall(answer)
        return count

    def block(self, blocking: bool) -> None:
        """Make the socket block, for use in a thread, or not, for use on the loop."""
        self.sock.setblocking(blocking)

    def shutdown(self) -> None:
        """Wake whoever waits on this connection; it delivers nothing more."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.sock.close()

    def silent(self) -> bool:
        """Whether nothing waits to be read: no end of stream, no bytes beyond the last body."""
        if self._tls is not None and not self._tls.silent:
            return False
        poller = select.poll()
        poller.register(self.sock.fileno(), select.POLLIN | select.POLLHUP)
        return not poller.poll(0)

    async def _shake_hands(self) -> None:
        assert self._tls is not None
        while not self._tls.shaken_hands():
            await self._feed(self._tls)
        await self._send(self._tls.sealed())

    async def _feed(self, tls: Tls) -> None:
        """Send what TLS wants sent and give it what comes."""
        await self._send(tls.sealed())
        tls.receive(self._sealed[: await self._receive(self._sealed)])

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                await _ready(self.sock, write=True)

    async def _receive(self, buffer: memoryview) -> int:
        while True:
            try:
                return self.sock.recv_into(buffer)
            except BlockingIOError:
                await _ready(self.sock, write=False)


def _bytes_of(request: Request) -> bytes:
    """Return the request as sent."""
    parts = urlsplit(request.url)
    target = parts.path or "/"
    if parts.query:
        target = f"{target}?{parts.query}"
    fields = [("Host", parts.netloc), *request.headers]
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    text = "\r\n".join(lines)
    if text.count("\n") != len(fields) or "\0" in text:
        raise BadReferenceError(request.url, "a header or the URL holds a line break")
    return f"{text}\r\n\r\n".encode("latin-1", "replace")


def failed(request: Request, error: OSError) -> ConnectionFailedError:
    """Return the error for `error`, which the network raised."""
    return network_error(request.url, error)


async def _ready(sock: socket.socket, *, write: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    fd = sock.fileno()
    add, remove = (
        (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    )
    add(fd, _settle, ready)
    try:
        await ready
    finally:
        remove(fd)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
