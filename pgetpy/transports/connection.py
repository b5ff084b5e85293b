"""One socket to one host: opened, asked and answered on the event loop, then handed to a thread."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from pgetpy.errors import ConnectionFailedError
from pgetpy.transports.base import Address, Request

A = TypeVar("A")
R = TypeVar("R")
# However many addresses there are, each gets this much time.
_SHORTEST_TRY = 0.3


class Connection:
    """A connected socket, not blocking until `block` is called; used by one call at a time.

    Attributes:
        fresh: whether nothing has been asked on it yet.
        idle_since: when its last call ended (monotonic time).
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fresh = True
        self.idle_since = 0.0

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
                opening = _connected(request, address)
                return cls(await asyncio.wait_for(opening, max(_SHORTEST_TRY, share)))
            except asyncio.TimeoutError:
                failure = TimeoutError(errno.ETIMEDOUT, "no answer within the connect timeout")
            except OSError as error:
                failure = error
        raise failed(request, failure) from failure

    @property
    def secure(self) -> bool:
        return isinstance(self.sock, ssl.SSLSocket)

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        view = memoryview(data)
        while view:
            view = view[await _done(self.sock, self.sock.send, view, write=True) :]

    async def receive_into(self, buffer: memoryview) -> int:
        """Receive what there is into `buffer`, waiting for the first byte; 0 at the end."""
        return await _done(self.sock, self.sock.recv_into, buffer)

    def block(self, blocking: bool) -> None:
        """Make the socket block, for use in a thread, or not, for use on the loop."""
        self.sock.setblocking(blocking)

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


def failed(request: Request, error: OSError) -> ConnectionFailedError:
    """Return the error for `error`, which the network raised."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionFailedError(
            request.url,
            f"the certificate was not accepted: {error.verify_message}",
            hint="give the authority's certificate with --cacert",
        )
    reason = error.strerror or str(error) or type(error).__name__
    return ConnectionFailedError(request.url, reason[:1].lower() + reason[1:])


async def _connected(request: Request, address: Address) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        parts = urlsplit(request.url)
        if parts.scheme == "https":
            assert request.tls is not None
            sock = secure = request.tls.wrap_socket(
                sock, server_hostname=parts.hostname, do_handshake_on_connect=False
            )
            await _done(sock, lambda _: secure.do_handshake(), None)
    except BaseException:
        sock.close()
        raise
    return sock


async def _done(
    sock: socket.socket, operation: Callable[[A], R], argument: A, *, write: bool = False
) -> R:
    """Return what `operation` on `sock` returns, as soon as it can be done without blocking.

    `write` says what a plain socket waits for; TLS says itself which way it is stuck.
    """
    while True:
        try:
            return operation(argument)
        except ssl.SSLWantReadError:
            await _ready(sock, write=False)
        except ssl.SSLWantWriteError:
            await _ready(sock, write=True)
        except BlockingIOError:
            await _ready(sock, write=write)


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
