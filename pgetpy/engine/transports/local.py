"""Files of this machine, and data: URIs, carried as if a server had them.

A head is made up for them, with an ETag of the file's inode, size and time, and goes through the
same judge. So destinations, archives, checksums and resuming work as for any other URL, without a
line of code of their own.

This module reads any file that it is asked for. Whether that is allowed is decided where
`core.http.urls.local_link` is called.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pgetpy.core.http.answers import Identity
from pgetpy.core.http.heads import Head
from pgetpy.core.http.ranges import Span
from pgetpy.core.references.local_urls import file_path, is_data, parse_data
from pgetpy.engine.transports.base import BLOCK, Exchange
from pgetpy.errors import BadReferenceError, ConnectionFailedError, ObjectChangedError
from pgetpy.errors.reasons import system_reason
from pgetpy.system.event_loop import wait_uncancelled
from pgetpy.system.filesystem import closing_fd
from pgetpy.system.threads import Workers

# Reads into a buffer from a position on; returns the number of bytes.
_Read = Callable[[int, memoryview], int]


@dataclass(frozen=True)
class LocalTransport:
    """Carries exchanges for file and data URLs.

    Attributes:
        workers: threads that read; a disk may block, and a network file system for long.
    """

    workers: Workers

    async def carry(self, exchange: Exchange) -> None:
        """See `Transport.carry`."""

        def stop() -> None:
            exchange.cancelled = True

        work = _carry_data if is_data(exchange.request.url) else _carry_file
        # It never waits for a network: a slow disk or reader must not count as a stall.
        exchange.part.waiting = False
        await wait_uncancelled(self.workers.submit(lambda: work(exchange), long=True), stop)

    async def close(self) -> None:
        """There is nothing to close."""


def version_at(url: str) -> Identity | None:
    """Return the version that is at a file or data URL, as its answers would say; None if the file
    is not there."""
    if is_data(url):
        data = parse_data(url)
        return Identity(len(data.content), f'"{data.sha256}"')
    try:
        status = os.stat(file_path(url))
    except (OSError, ValueError):
        return None
    return Identity(status.st_size, _etag(status))


def _carry_file(exchange: Exchange) -> None:
    """Carry a file; one that changes while it is read is refused, as a torn copy is of no version.

    Raises:
        ObjectChangedError: it has changed.
    """
    url = exchange.request.url
    with _open(url) as (fd, before):
        headers = {"etag": _etag(before)}
        _pour(exchange, headers, before.st_size, lambda pos, buffer: os.preadv(fd, [buffer], pos))
        now = os.fstat(fd)
        if _etag(now) != _etag(before):
            raise ObjectChangedError(url, headers["etag"], _etag(now))


def _carry_data(exchange: Exchange) -> None:
    """Carry the content of a data: URI; its hash is its version."""
    data = parse_data(exchange.request.url)
    content = memoryview(data.content)

    def read(pos: int, buffer: memoryview) -> int:
        piece = content[pos : pos + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    _pour(exchange, {"etag": f'"{data.sha256}"'}, len(content), read)


def _pour(exchange: Exchange, headers: dict[str, str], size: int, read: _Read) -> None:
    """Have the head judged and the bytes moved.

    Raises:
        ConnectionFailedError: the file has become shorter since it was opened.
    """
    _, sink = exchange.judge(_head(headers, exchange.asked, size))
    part = exchange.part
    buffer = memoryview(bytearray(min(exchange.block, BLOCK, max(part.rest, 1))))
    try:
        while part.rest and not exchange.cancelled:
            count = read(part.pos, buffer[: part.rest])
            if not count:
                reason = f"the file ends {part.rest} bytes early"
                raise ConnectionFailedError(exchange.request.url, reason)
            exchange.store(sink, buffer[:count])
    finally:
        exchange.mark()


def _head(headers: dict[str, str], asked: Span | None, size: int) -> Head:
    """Return the head that a server would send for a GET of `asked` (RFC 9110, 14 and 15)."""
    if asked is None:
        return Head(200, {**headers, "content-length": str(size)})
    if asked.start >= size:
        return Head(416, {**headers, "content-range": f"bytes */{size}"})
    stop = min(asked.stop, size)
    content_range = f"bytes {asked.start}-{stop - 1}/{size}"
    length = str(stop - asked.start)
    return Head(206, {**headers, "content-range": content_range, "content-length": length})


@contextmanager
def _open(url: str) -> Iterator[tuple[int, os.stat_result]]:
    """Open the file of a URL; a FIFO or a device, which may never end, is refused.

    Raises:
        BadReferenceError: there is no such file, or it cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer.
        fd = os.open(file_path(url), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise BadReferenceError(url, "there is no such file") from None
    except OSError as error:
        raise BadReferenceError(url, f"it cannot be read: {system_reason(error)}") from None
    except ValueError as error:  # a null character
        raise BadReferenceError(url, f"it cannot be read: {error}") from None
    with closing_fd(fd):
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise BadReferenceError(url, "it is not a regular file")
        if status.st_size == 0 and _has_content(fd):
            raise BadReferenceError(url, "its size is not known, as of all files in /proc")
        yield fd, status


def _has_content(fd: int) -> bool:
    """Whether a file that is said to be empty is not."""
    try:
        return bool(os.pread(fd, 1, 0))
    except OSError:
        return True


def _etag(status: os.stat_result) -> str:
    """Return an ETag for the version of a file: every write changes its mtime."""
    return f'"{status.st_dev:x}-{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"'
