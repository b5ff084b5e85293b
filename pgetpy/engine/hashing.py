"""A digest of an object while it arrives: read behind the front, from the page cache.

Bytes land in any order, mostly moved by the kernel, so that no code here sees them; a digest needs
them in order. But everything up to the front has been written, and is still in the page cache:

    0             position          front                     total
    |== hashed =====|== to be read ===|   holes, later ranges   |

`advance` moves the front. At most one job in a thread reads from `position` to the front, and ends
there: a thread is never kept waiting for bytes. The next move of the front starts a new job, once
there is a block to read. When the last byte lands, little is left to hash.

`_lock` makes "nothing is due, so this job ends" and "something is due and no job runs" exclude each
other; without it the front could move just after a job has looked, and stay unhashed.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from typing import Any

from pgetpy.core.http.sink import Sink
from pgetpy.core.references.checksums import Digest
from pgetpy.destinations.base import ReadBack
from pgetpy.system.threads import Workers

_BLOCK = 1 << 20
# Seconds between two reports on a digest that is being finished.
_REPORT_EVERY = 0.1


class _Crc:
    """A checksum that is continued from the value so far, `size` bytes long."""

    def __init__(self, add: Callable[[Any, int], int], size: int) -> None:
        self._add = add
        self._size = size
        self._value = 0

    def update(self, data: memoryview) -> None:
        self._value = self._add(data, self._value)

    def hexdigest(self) -> str:
        return self._value.to_bytes(self._size, "big").hex()


def new_hash(algorithm: str, prefix: bytes = b"") -> Digest | None:
    """Return an object that computes `algorithm`; None if that takes an extra that is not there.

    Args:
        algorithm: of hashlib, or crc32, crc32c or crc64nvme.
        prefix: bytes to hash before all others.
    """
    if algorithm == "crc32":
        # isal's is several times as fast as the standard library's.
        from isal.isal_zlib import crc32

        return _Crc(crc32, 4)
    if algorithm in ("crc32c", "crc64nvme"):
        try:
            from awscrt import checksums
        except ImportError:
            return None
        return _Crc(getattr(checksums, algorithm), 4 if algorithm == "crc32c" else 8)
    return hashlib.new(algorithm, prefix, usedforsecurity=False)


class FileDigest:
    """Hashes what `read` reads back, from its beginning, as far as it is known to be written, by
    `made`.

    The methods are called on the event loop.

    Attributes:
        position: bytes hashed so far.
    """

    def __init__(self, read: ReadBack, made: Digest, workers: Workers) -> None:
        self.position = 0
        self._read = read
        self._hash = made
        self._workers = workers
        self._front = 0
        self._total: int | None = None
        self._stopped = False
        # Guards `_front` and `_running` together.
        self._lock = threading.Lock()
        self._running = False
        self._done: asyncio.Future[None] | None = None

    def advance(self, front: int) -> None:
        """Tell that every byte before `front` has been written; hash them if they are enough."""
        with self._lock:
            self._front = max(self._front, front)
        self._go_on()

    def take(self, pos: int, data: memoryview) -> None:
        """Hash `data`, the bytes from `pos` on, if they are the next; in any thread.

        Other bytes are read back later, like all that were not passed here.
        """
        with self._lock:
            if self._running or self._stopped or pos != self.position:
                return
            self._running = True
        try:
            self._hash.update(data)
            self.position += len(data)
        finally:
            self._running = False

    async def finish(self, total: int) -> str:
        """Return the hex digest of the file's `total` bytes, all of them written.

        Raises:
            OSError: the file cannot be read, or is shorter.
            CancelledError: `stop` was called before the end was reached.
        """
        with self._lock:
            self._front = self._total = total
        while self.position < total or self._running:
            if self._stopped:
                # No job will start again, and waiting for one that is done yields to nothing.
                raise asyncio.CancelledError
            self._go_on()
            if self._done is not None:
                # Shielded: cancelling this must not detach the thread from its result.
                await asyncio.shield(self._done)
        return self._hash.hexdigest()

    async def finish_reporting(self, total: int, report: Callable[[int, int], object]) -> str:
        """As `finish`; `report` is told from time to time how many bytes of `total` are hashed."""
        if self.position == total and not self._running:
            return self._hash.hexdigest()
        finishing = asyncio.ensure_future(self.finish(total))
        while not finishing.done():
            report(self.position, total)
            await asyncio.wait([finishing], timeout=_REPORT_EVERY)
        return finishing.result()

    async def stop(self) -> None:
        """Stop hashing; when this returns the file is not read any more."""
        self._stopped = True
        if self._done is not None:
            await asyncio.wait([self._done])
            if not self._done.cancelled():
                self._done.exception()

    def _go_on(self) -> None:
        """Start a job for what has landed since the last one, if it is enough and none runs."""
        with self._lock:
            failed = self._done is not None and self._done.done() and self._done.exception()
            if self._running or self._stopped or failed or not self._due():
                return
            self._running = True
        self._done = self._workers.submit(self._run)

    def _due(self) -> int:
        """How far to hash; 0 where that is less than a block and not the end. Needs the lock."""
        left = self._front - self.position
        worth = left >= _BLOCK or (self._total is not None and left > 0)
        return self._front if worth else 0

    def _run(self) -> None:
        """Digest until nothing is due, in a thread."""
        buffer = memoryview(bytearray(_BLOCK))
        try:
            while not self._stopped:
                with self._lock:
                    front = self._due()
                    if not front:
                        self._running = False
                        return
                self._hash_up_to(front, buffer)
        finally:
            self._running = False

    def _hash_up_to(self, front: int, buffer: memoryview) -> None:
        """Digest the bytes before `front`, a block at a time, unless stopped."""
        while self.position < front and not self._stopped:
            want = min(_BLOCK, front - self.position)
            count = self._read(self.position, buffer[:want])
            if not count:
                raise OSError(f"the file ended at byte {self.position}, before {front}")
            self._hash.update(buffer[:count])
            self.position += count


class HashingSink(Sink):
    """Writes to `sink` and hashes what passes, in the thread that has received it.

    For files of moderate size: reading them back takes another thread, which costs more than its
    help is worth where many files arrive at a time.
    """

    hashes = True

    def __init__(self, sink: Sink, digest: FileDigest) -> None:
        self._sink = sink
        self._digest = digest

    def write(self, pos: int, data: memoryview) -> None:
        self._sink.write(pos, data)
        self._digest.take(pos, data)

    def mark(self, start: int, stop: int) -> None:
        self._sink.mark(start, stop)
