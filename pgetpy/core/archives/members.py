"""What an archive holds: its members as values, whatever the format.

An extent ties a part of the archive to a part of a file. A plain file has one, a sparse file one
for each part that is not a hole, and an empty file none:

    archive   | header | aaaa | bbbbbb | header | ...
                       start  stop
    file                 aaaa ........ bbbbbb          . is a hole
                         offset 0      offset 12
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pgetpy.core.archives.formats import Format


class Kind(Enum):
    """What a member is."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symbolic link"
    HARDLINK = "hard link"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"
    FIFO = "FIFO"


class Extent(NamedTuple):
    """The archive's bytes `start` up to `stop` are the file's bytes from `offset` on."""

    start: int
    stop: int
    offset: int

    @property
    def size(self) -> int:
        return self.stop - self.start


class Member(NamedTuple):
    """One entry of an archive, as the archive states it; nothing in it is believed yet.

    Attributes:
        name: as stated, bytes that are not UTF-8 as surrogate escapes.
        kind: what it is.
        size: bytes of the file, holes of a sparse one included; 0 for all but files.
        mode: permission bits as stated, set-user-ID and the like included.
        mtime: time of the last change in nanoseconds since the epoch.
        target: what a link points to, as stated; empty for all but links.
        extents: where the bytes of a file are, in order; what lies between them in a sparse file is
            zero.
        crc32: of the content, where the archive states it.
        compression: how the extent holds the content; None where it is the content itself.
        position: where the member's header begins in the archive. Errors name it, and a zip's
            members are told apart by it.
    """

    name: str
    kind: Kind
    size: int = 0
    mode: int = 0o644
    mtime: int = 0
    target: str = ""
    extents: tuple[Extent, ...] = ()
    position: int = 0
    crc32: int | None = None
    compression: Format | None = None
