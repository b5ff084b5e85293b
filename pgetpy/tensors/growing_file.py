"""A file that is looked at while it is fetched."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from pgetpy.core.http.ranges import Spans
from pgetpy.tensors.base import Descriptor, FileSnapshot, Wakeup


class GrowingFile:
    """Follows one file (see `core.references.jobs.Follower`): what of it has landed so far."""

    def __init__(self, wakeup: Wakeup) -> None:
        self._wakeup = wakeup
        self._lock = threading.Lock()
        self._snapshot: FileSnapshot | None = None
        self._lives = 0

    @property
    def snapshot(self) -> FileSnapshot | None:
        """What is there now; None where nothing is, or it had to begin anew."""
        return self._snapshot

    def began(self, fd: int, size: int) -> None:
        """See `Follower.began`."""
        file = Descriptor.copy(fd)
        with self._lock:
            now = self._snapshot
            if now is not None and _same(now.file.fd, fd):
                return  # another server goes on with it
            self._lives += 1
            self._snapshot = FileSnapshot(file, size, Spans(), self._lives)

    def adopt(self, path: Path) -> FileSnapshot:
        """Go on with all of what stands at `path`: what was followed, or another file that took its
        place."""
        with self._lock:
            now = self._snapshot
            if now is None or not os.path.samestat(os.fstat(now.file.fd), os.stat(path)):
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
        self._wakeup.tell()


def _same(fd: int, other: int) -> bool:
    return os.path.samestat(os.fstat(fd), os.fstat(other))
