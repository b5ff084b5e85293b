"""The sha256 of files, computed once as long as they are the same."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from pgetpy.cache.contents import digest_of
from pgetpy.errors import IntegrityError
from pgetpy.errors.reasons import system_reason

# Device, inode, size, and the times of the last change of content and of status.
_Identity = tuple[int, int, int, int, int]


class FileDigests:
    """Hashes files, and remembers for this process what they hashed to.

    A file counts as the same while its inode, size and times are: a program cannot set the time of
    the last change of status.
    """

    def __init__(self) -> None:
        self._known: dict[_Identity, str] = {}
        self._lock = threading.Lock()

    def sha256(self, path: Path) -> str:
        """Return the sha256 of a file in hex.

        Raises:
            IntegrityError: it cannot be read, or changes while it is.
        """
        try:
            before = _identity(path)
            with self._lock:
                if before in self._known:
                    return self._known[before]
            found = (digest_of(path) or "").partition(":")[2]
            if _identity(path) != before:
                raise IntegrityError(f"{path.name} changed while it was read")
        except OSError as error:
            raise IntegrityError(f"{path.name} cannot be read: {system_reason(error)}") from None
        with self._lock:
            self._known[before] = found
        return found


def _identity(path: Path) -> _Identity:
    status = os.stat(path)
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
