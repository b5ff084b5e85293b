"""A member of an archive that is a file, while its bytes arrive.

Bytes land in any order, while the check of a CRC needs them in order. So two things are kept:
`landed`, the set of spans, which says when all are there, and `front`, up to where a checker may
read:

    archive    start .............. front .......................... stop
               | landed, no gap     | gap | landed | gap | landed    |
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from pgetpy.core.archives.member_policy import AdmittedMember
from pgetpy.core.http.ranges import Spans
from pgetpy.errors import DestinationError
from pgetpy.errors.reasons import system_reason
from pgetpy.system.filesystem import FULL, write_all

# Files of this size on are written by the kernel from the connection. For smaller ones one buffer
# that holds several of them costs less than the system calls for each.
LARGE = 512 * 1024
_HINTS = {
    errno.ENAMETOOLONG: "extract to a folder with a shorter path, or on another file system",
    errno.EFBIG: "extract to a file system, or under a limit, that allows files of its size",
}


@dataclass(eq=False, slots=True)
class MemberFile:
    """A file under way: `landed` are the archive's bytes that it has got, of `wanted` many.

    Attributes:
        path: where it is, or will be made.
        entry: the member, as it was admitted.
        fd: -1 once it is closed.
        large: whether bytes may be written to `fd` by others.
        spooled: whether its bytes are not yet its content, and `fd` is the spool's, where they
            wait, at their positions in the archive; `path` is made later.
        front: all its bytes before this position in the archive have landed.
        checked: whether the content is known to be right, as far as it can be known.
        pinned: reads the file when it has lost its name; -1 where it has not.
    """

    path: str
    entry: AdmittedMember
    fd: int
    large: bool
    spooled: bool = False
    checked: bool = field(init=False)
    pinned: int = field(default=-1, init=False)
    landed: Spans = field(default_factory=Spans, init=False)
    wanted: int = field(init=False)
    front: int = field(init=False)

    def __post_init__(self) -> None:
        self.checked = self.entry.member.crc32 is None
        self.wanted = sum(extent.size for extent in self.entry.member.extents)
        self.front = self.start

    @property
    def start(self) -> int:
        extents = self.entry.member.extents
        return extents[0].start if extents else 0

    @property
    def stop(self) -> int:
        extents = self.entry.member.extents
        return extents[-1].stop if extents else 0

    @property
    def whole(self) -> bool:
        return self.landed.size >= self.wanted

    @property
    def ready(self) -> bool:
        """Whether all bytes are there and checked, so that it can be closed."""
        return self.checked and self.whole

    def offset_of(self, pos: int) -> int:
        """Where in `fd` byte `pos` of the archive is, for a file in one piece."""
        return pos if self.spooled else pos - self.start

    def land(self, start: int, stop: int) -> None:
        """The archive's bytes from `start` up to `stop` have been written."""
        self.landed.add(start, stop)
        if not self.checked:
            gap = next(self.landed.missing(self.front, self.stop), None)
            self.front = gap.start if gap is not None else self.stop

    def pin(self) -> None:
        """Keep the file readable: its name is about to go to another."""
        if self.pinned < 0:
            self.pinned = self.open_again()

    def open_again(self) -> int:
        """Return a descriptor of the caller's own to read the file by, open or closed."""
        fd = self.fd if self.fd >= 0 else self.pinned
        if fd >= 0:
            return os.dup(fd)
        return os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def unpin(self) -> None:
        """The file will not be read any more."""
        if self.pinned >= 0:
            os.close(self.pinned)
            self.pinned = -1

    def write(self, offset: int, data: memoryview) -> None:
        """Write `data` at `offset` of the file."""
        with member_errors(self.entry):
            write_all(self.fd, offset, data)


@contextlib.contextmanager
def member_errors(entry: AdmittedMember) -> Iterator[None]:
    """Raise the disk's errors with the member's name; a full disk is not one member's error."""
    try:
        yield
    except OSError as error:
        raise_member_error(entry, error)


def raise_member_error(entry: AdmittedMember, error: OSError) -> NoReturn:
    """Raise what `member_errors` makes of `error`."""
    if isinstance(error, DestinationError) or error.errno in FULL:
        raise error
    code = error.errno or 0
    reason = f"(a member of the archive) cannot be made: {system_reason(error)}"
    name = "/".join(entry.parts)
    raise DestinationError(name, reason, hint=_HINTS.get(code, ""), code=code) from error
