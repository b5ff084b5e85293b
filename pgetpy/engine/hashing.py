"""A digest of an object while it arrives: a thread reads behind the front, from the page cache."""

from __future__ import annotations

import asyncio
import hashlib
import threading

from pgetpy.core.references.checksums import Checksum
from pgetpy.destinations.base import ReadBack
from pgetpy.system.threads import Workers

_BLOCK = 1 << 20


class FileDigest:
    """Hashes what `read` reads back, from its beginning, as far as it is known to be written.

    Attributes:
        position: bytes hashed.
    """

    def __init__(self, read: ReadBack, checksum: Checksum, workers: Workers) -> None:
        self.position = 0
        self._read = read
        self._hash = hashlib.new(checksum.algorithm, checksum.prefix, usedforsecurity=False)
        self._front = 0
        self._stopped = False
        self._moved = threading.Condition()
        self._total: int | None = None
        self._done = workers.submit(self._run)

    def advance(self, front: int) -> None:
        """Every byte before `front` has been written."""
        with self._moved:
            self._front = max(self._front, front)
            self._moved.notify()

    async def finish(self, total: int) -> str:
        """Return the hex digest of the file's `total` bytes, all of them written."""
        with self._moved:
            self._front = self._total = total
            self._moved.notify()
        await asyncio.shield(self._done)
        return self._hash.hexdigest()

    async def stop(self) -> None:
        """Give up; the file is read no more when this returns."""
        with self._moved:
            self._stopped = True
            self._moved.notify()
        await asyncio.wait([self._done])
        if not self._done.cancelled():
            self._done.exception()

    def _run(self) -> None:
        buffer = memoryview(bytearray(_BLOCK))
        while not self._stopped:
            with self._moved:
                while self._front - self.position < _BLOCK and not self._stopped:
                    if self._total is not None:
                        break
                    self._moved.wait()
                front = self._front
            if self.position == self._total:
                return
            self._hash_up_to(front, buffer)

    def _hash_up_to(self, front: int, buffer: memoryview) -> None:
        while self.position < front and not self._stopped:
            want = min(_BLOCK, front - self.position)
            count = self._read(self.position, buffer[:want])
            if not count:
                raise OSError(f"the file ended at byte {self.position}, before {front}")
            self._hash.update(buffer[:count])
            self.position += count
