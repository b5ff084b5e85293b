"""A file that is read while it is being fetched.

The transfer calls a follower (`core.references.jobs.Follower`) from its own threads:

    began(fd, size)     a file was opened for writing
    landed(spans)       these bytes are on disk now      (many times)
    lost()              the server's object changed: the bytes so far are void
    verified(path)      the file is complete and right

A transfer may begin more than once: it goes on with the same file after a switch to a mirror, and
with a new file after `lost`. Each file is one "life", with a number. A reader that sees the number
change discards everything it made from the earlier life. That is cheaper than a promise that a file
never changes, and no locks are needed between transfer and reader.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from pgetpy.core.http.ranges import Spans
from pgetpy.core.references.jobs import Follower
from pgetpy.tensors.base import Descriptor, FileSnapshot, Wakeup


class GrowingFile(Follower):
    """Follows one file: which file it is, and which of its bytes have landed."""

    def __init__(self, wakeup: Wakeup) -> None:
        self._wakeup = wakeup
        self._lock = threading.Lock()
        self._snapshot: FileSnapshot | None = None
        self._lives = 0
        self._verified = False

    @property
    def snapshot(self) -> FileSnapshot | None:
        """The present file and its landed bytes; None before it began, and after it was lost."""
        return self._snapshot

    def began(self, fd: int, size: int) -> None:
        """See `Follower.began`."""
        file = Descriptor.copy(fd)
        with self._lock:
            now = self._snapshot
            if now is not None and _same(now.file.fd, fd):
                return  # a mirror continues the same file
            self._lives += 1
            self._snapshot = FileSnapshot(file, size, Spans(), self._lives)

    def adopt(self, path: Path) -> FileSnapshot:
        """Switch to the finished file at `path` and return its snapshot.

        Usually this is the inode that was followed, under its final name. The cache stores equal
        files once, so it may also be another inode with the same bytes: if the followed one was
        verified, its tensors stay valid. Otherwise (another process fetched it first) a new life
        begins.
        """
        with self._lock:
            now = self._snapshot
            if now is None or not (self._verified or _is(path, now.file.fd)):
                self._lives += 1
                now = FileSnapshot.whole(Descriptor(path), self._lives)
            self._snapshot = FileSnapshot.whole(now.file, now.life)
            return self._snapshot

    def landed(self, spans: Spans) -> None:
        """See `Follower.landed`."""
        with self._lock:
            now = self._snapshot
            if now is None or spans.size == now.landed.size:
                return
            self._snapshot = FileSnapshot(now.file, now.size, Spans(spans), now.life)
        self._wakeup.tell()

    def lost(self) -> None:
        """See `Follower.lost`."""
        with self._lock:
            self._snapshot = None
            self._verified = False
        self._wakeup.tell()

    def verified(self, path: Path) -> None:
        """See `Follower.verified`."""
        with self._lock:
            now = self._snapshot
            self._verified = now is not None and _is(path, now.file.fd)


def _is(path: Path, fd: int) -> bool:
    return os.path.samestat(os.stat(path), os.fstat(fd))


def _same(fd: int, other: int) -> bool:
    return os.path.samestat(os.fstat(fd), os.fstat(other))
