"""What an archive holds beside its members' bytes, kept on disk: headers and padding.

After a kill the members are on disk, but not what would say which bytes they are. The layout keeps
just that: with it a later run parses the headers again without asking for them, and a digest can be
made of the archive as it was sent, members and layout together.

    file      | pos size crc | bytes | pos size crc | bytes | ...     in the order of arrival
    archive   | bytes | member's data, not here | bytes | ...         in the order of `pos`

Records are appended, each with a checksum, so a record that was cut off by a kill is recognised,
and everything behind it is dropped. `_places` finds a record by its position in the archive.

Nothing here is flushed. The journal vouches for bytes only after `write`, see `take_settled` of the
extractor, and after a power cut an extraction starts over.
"""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_right, insort
from pathlib import Path

from pgetpy.archives.spool import Spool
from pgetpy.core.http.ranges import Span, Spans
from pgetpy.system.filesystem import write_all

_RECORD = struct.Struct("<QII")  # position, size, CRC-32 of the bytes
_FLUSH_AT = 128 * 1024
_ENDLESS = 1 << 62


class ArchiveLayout:
    """The bytes between members' data, by their position in the archive.

    Args:
        path: the file; what an earlier run left in it is read.
        spool: holds what else has to be kept for a while; shares the layout's fate.
        indexed: whether what is added will be read before the end of this run.
    """

    def __init__(self, path: Path, spool: Spool, *, indexed: bool) -> None:
        self.path = path
        self.spool = spool
        self._indexed = indexed
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        # Where each record's bytes are: position in the archive, size, place in the file.
        self._places: list[tuple[int, int, int]] = []
        self._noted = Spans()
        self._buffer = bytearray()
        self._size = 0
        self._read()

    def add(self, pos: int, data: memoryview) -> None:
        """Note `data`, the archive's bytes from `pos` on."""
        head = _RECORD.pack(pos, len(data), zlib.crc32(data))
        if self._indexed:
            self._note(pos, len(data), self._size + len(self._buffer) + len(head))
        self._buffer += head
        self._buffer += data
        if len(self._buffer) >= _FLUSH_AT:
            self.write()

    def write(self) -> None:
        """Hand what was noted to the kernel: it now survives the end of this process."""
        data, self._buffer = self._buffer, bytearray()
        # At `_size`, not at the file's end: a full disk may have left part of a record there.
        write_all(self._fd, self._size, memoryview(data))
        self._size += len(data)

    def read(self, pos: int, buffer: memoryview) -> int:
        """Read into `buffer` from archive position `pos` on; return 0 if that byte is not here."""
        index = bisect_right(self._places, (pos, _ENDLESS)) - 1
        if index < 0:
            return 0
        start, size, place = self._places[index]
        if pos >= start + size:
            return 0
        if place + size > self._size:
            self.write()
        count = min(len(buffer), start + size - pos)
        return os.preadv(self._fd, [buffer[:count]], place + pos - start)

    def record(self, span: Span) -> bytes:
        """Return the bytes of `span` up to the first that is not here."""
        data = memoryview(bytearray(span.size))
        filled = 0
        while filled < span.size:
            count = self.read(span.start + filled, data[filled:])
            if not count:
                break
            filled += count
        return bytes(data[:filled])

    def forget(self) -> None:
        """Throw away everything, the spool included: the archive starts over."""
        self.spool.forget()
        os.ftruncate(self._fd, 0)
        self._noted = Spans()
        self._places.clear()
        self._buffer.clear()
        self._size = 0

    def close(self) -> None:
        """Keep it for the next run."""
        self.spool.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _note(self, pos: int, size: int, place: int) -> None:
        for gap in list(self._noted.missing(pos, pos + size)):
            insort(self._places, (gap.start, gap.size, place + gap.start - pos))
        self._noted.add(pos, pos + size)

    def _read(self) -> None:
        """Take in the records of an earlier run, up to the first that was cut off."""
        end = os.fstat(self._fd).st_size
        while len(head := os.pread(self._fd, _RECORD.size, self._size)) == _RECORD.size:
            pos, size, crc = _RECORD.unpack(head)
            place = self._size + _RECORD.size
            if place + size > end or zlib.crc32(os.pread(self._fd, size, place)) != crc:
                break
            self._note(pos, size, place)
            self._size = place + size
        os.ftruncate(self._fd, self._size)
