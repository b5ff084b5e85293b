"""The digest of a file that no one has given one for, computed while it arrives.

    landed |====================|                    a thread hashes behind, in order
    hashed |==============| - - - ->
                                  | published: the rest is left to `finish`

The hash is that of the bytes that landed, so it may begin before the file is checked and published:
if another program changes the file meanwhile, the digest does not match it, and `verify` says so.
Without this, the end of a process waits until everything has been read again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from pgetpy.core.http.ranges import Spans
from pgetpy.core.references.jobs import Follower
from pgetpy.destinations.sinks.page_cache import memory_limit

_BLOCK = 1 << 20
# The thread is woken for so much, not for each block.
_WORTH = 8 << 20


class ArrivingDigest(Follower):
    """Follows one file.

    A file that memory has no room for is not read: its pages are dropped as they are written.

    Args:
        due: is told when there is enough for `advance`, which another thread calls.
    """

    def __init__(self, due: Callable[[ArrivingDigest], None]) -> None:
        self._due = due
        self._file: _ArrivingFile | None = None
        self._told = 0

    def began(self, fd: int, size: int) -> None:
        if _WORTH < size < memory_limit():
            self._file = _ArrivingFile(fd, size)

    def landed(self, spans: Spans) -> None:
        file = self._file
        first = next(iter(spans), None)
        if file is None or first is None or first.start:
            return
        file.front = first.stop
        if file.front - self._told >= _WORTH:
            self._told = file.front
            self._due(self)

    def lost(self) -> None:
        self._file, self._told = None, 0

    def verified(self, path: Path) -> None:
        pass

    def advance(self, stop: Callable[[], bool]) -> None:
        """Hash what has landed. Only one thread may call this, and `finish`, at a time."""
        file = self._file
        while file is not None and file is self._file and not stop() and file.hash_block():
            pass

    def finish(self, stop: Callable[[], bool]) -> str | None:
        """Return `sha256:HEX` of the whole file, all of which has landed; None if `stop` says so,
        or if nothing was followed."""
        self.advance(stop)
        file, self._file = self._file, None
        if file is None or file.position < file.size:
            return None
        return f"sha256:{file.digest.hexdigest()}"


class _ArrivingFile:
    """A file that is being written, and how far it is hashed.

    It is closed with its last reference, as the thread may still read it when it is lost.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self.front = 0
        self.position = 0
        self.digest = hashlib.sha256()
        self._fd = os.dup(fd)
        self._buffer = memoryview(bytearray(_BLOCK))

    def hash_block(self) -> bool:
        """Hash the next block; False if it has not landed yet, or cannot be read."""
        want = min(_BLOCK, self.front - self.position)
        if want <= 0 or (want < _BLOCK and self.front < self.size):
            return False
        try:
            count = os.preadv(self._fd, [self._buffer[:want]], self.position)
        except OSError:
            return False
        self.digest.update(self._buffer[:count])
        self.position += count
        return count > 0

    def __del__(self) -> None:
        os.close(self._fd)
