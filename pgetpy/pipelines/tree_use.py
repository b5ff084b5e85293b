"""Who uses a tree: locks that keep it from being removed. They save work alone."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pgetpy.core.pipelines.build_manifest import BuildManifest
from pgetpy.system import polling
from pgetpy.system.file_locks import try_lock
from pgetpy.system.filesystem import closing_fd

_HOLD_SECONDS = 1.0


class PipelineTree:
    """A tree in use. A context manager; eviction leaves it alone until it is closed.

    Attributes:
        path: the folder for loaders.
        manifest: what it is.
    """

    def __init__(self, path: Path, manifest: BuildManifest, fd: int) -> None:
        self.path = path
        self.manifest = manifest
        self._fd: int | None = fd

    def close(self) -> None:
        """End the use. Calling it again has no effect."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __enter__(self) -> PipelineTree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def hold(fd: int) -> None:
    """Show that a tree is in use. A lock that is held by a removal, or a listing, ends soon."""
    with contextlib.suppress(OSError):  # a file system without locks
        until = time.monotonic() + _HOLD_SECONDS
        while not try_lock(fd, shared=True) and time.monotonic() < until:
            time.sleep(polling.SLICE)


@contextlib.contextmanager
def alone_with(place: Path) -> Iterator[bool]:
    """Keep others from opening the tree at `place`; False if a process is using it."""
    try:
        fd = os.open(place / "used", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield True  # damaged, or gone
        return
    with closing_fd(fd):
        try:
            alone = try_lock(fd)
        except OSError:  # a file system without locks
            alone = True
        yield alone
