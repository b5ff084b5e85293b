"""Bytes of an archive that have to be on disk before they can be made into members.

These are a zip's deflated members, which come in any order and are inflated in order, and whatever
comes before a zip's directory is known. In memory they would need as much as the archive is large.

They keep their positions in the archive, so the file is sparse and needs no index. What has been
inflated is given back by punching a hole, and the disk holds little more than the content:

    | inflated: a hole | landed | not yet come: a hole | landed | ...

On file systems that cannot punch holes the room stays taken until the end.
"""

from __future__ import annotations

import os
from pathlib import Path

from pgetpy.system.filesystem import system_call, write_all

# linux/falloc.h
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
# A stored block's header and length; the length is followed by its complement.
_TELLING = 5


class Spool:
    """The file at `path`, which is made when it is needed; what an earlier run left is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    @property
    def fd(self) -> int:
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self.path, flags, 0o600)
        return self._fd

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def write(self, pos: int, data: memoryview) -> None:
        """Write `data`, the archive's bytes from `pos` on."""
        write_all(self.fd, pos, data)

    def read(self, pos: int, buffer: memoryview) -> int:
        """Read into `buffer` from archive position `pos` on; 0 behind the last byte written."""
        return os.preadv(self.fd, [buffer], pos)

    def holds(self, start: int, stop: int) -> bool:
        """Whether the deflate stream from `start` up to `stop` was not released.

        A hole reads as zeros. A deflate stream cannot begin with five of them: that would be a
        stored block whose length and its complement are both 0 (RFC 1951, 3.2.4).
        """
        return any(os.pread(self.fd, min(_TELLING, stop - start), start))

    def release(self, start: int, stop: int) -> None:
        """Give the room of the bytes from `start` up to `stop` back to the file system."""
        punch = system_call("fallocate", 32, 32, 64, 64)
        if punch is not None:
            punch(self.fd, _KEEP_SIZE | _PUNCH_HOLE, start, stop - start)

    def forget(self) -> None:
        """Throw everything away."""
        if self._fd >= 0 or self.path.exists():
            os.ftruncate(self.fd, 0)

    def close(self) -> None:
        """Close it; the file stays for the next run."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
