"""A folder that is kept open, so that files are created relative to it.

Most files of an archive go to the folder of the one before. Created by their last component alone
they cost the kernel no walk along the path, and land in that folder even if another process puts a
link in its place meanwhile. One folder is open at a time, however many there are.
"""

from __future__ import annotations

import contextlib
import os

# A folder whose path is shorter has room in PATH_MAX for the longest name.
_LONG_PATH = 4096 - 257
# O_PATH, since members are only named relative to it: it need not be readable.
_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class OpenFolder:
    """At most one open folder.

    Attributes:
        parts: its path below the staged folder; None where a new one has to be opened.
        fd: its descriptor, -1 where none is open.
    """

    def __init__(self) -> None:
        self.parts: tuple[str, ...] | None = None
        self.fd = -1

    def open(self, parts: tuple[str, ...], path: str, name: str) -> None:
        """Open the folder `parts`, which is at `path`, for a file `name`; close the one before.

        Raises:
            OSError: it is not there, or not a folder; the path of the file is too long.
        """
        self.close()
        self.fd = os.open(path, _FLAGS)
        if len(os.fsencode(path)) < _LONG_PATH:
            self.parts = parts
            return
        # The system refuses a path that is too long, but not its last part alone: a file that
        # nothing could open by its path would be made.
        with contextlib.suppress(FileNotFoundError):
            os.lstat(f"{path}/{name}")

    def close(self) -> None:
        """Close what is open."""
        if self.fd >= 0:
            os.close(self.fd)
        self.parts, self.fd = None, -1
