"""The files of a tar that lie in a received block as a whole, header and content: the fast way.

An archive of many small files costs as much time as Python takes for each of them. Here headers are
read where they were received, and nothing is kept of a file that has been written. Whatever is not
a plain small file is left to `random_access`.
"""

from __future__ import annotations

from pgetpy.archives.layout import ArchiveLayout
from pgetpy.archives.member_file import LARGE
from pgetpy.archives.member_folder import MemberFolder
from pgetpy.archives.open_members import OpenMembers
from pgetpy.archives.reading import Admit, Reader
from pgetpy.core.http.ranges import Spans


class SmallMembers:
    """Makes plain small files; one thread at a time may call it.

    Args:
        folder: makes the files.
        reader: reads the headers.
        admit: says which members may be made.
        layout: keeps the headers and padding; None to keep nothing.
        landed: is told which bytes have been dealt with.
        registry: is told of the files where the archive will be read back; None where it will not.
    """

    def __init__(
        self,
        folder: MemberFolder,
        reader: Reader,
        admit: Admit,
        layout: ArchiveLayout | None,
        landed: Spans,
        registry: OpenMembers | None,
    ) -> None:
        self._folder = folder
        self._reader = reader
        self._admit = admit
        self._layout = layout
        self._landed = landed
        self._registry = registry

    def take(self, pos: int, data: memoryview) -> int:
        """Make the files that `data` begins with; return how many bytes they are, padding included.

        `pos` is where `data`, and the next header, begin in the archive.

        Raises:
            ArchiveError: a member is refused.
            DestinationError, OSError: it cannot be made.
        """
        reader, folder, layout = self._reader, self._folder, self._layout
        # Up to where everything is done, and up to where it is in the layout or a file.
        done = kept = 0
        try:
            while (member := reader.feed_file(data[done:], LARGE)) is not None:
                extents = member.extents
                start = extents[0].start - pos if extents else reader.wanted.start - pos
                if layout is not None:
                    # The padding before this header goes into the same record.
                    layout.add(pos + kept, data[kept:start])
                kept = start + member.size
                entry = self._admit(member)
                if entry is not None:
                    if entry.replaces and self._registry is not None:
                        self._registry.pin(entry.parts)
                    folder.put(entry, 0, data[start:kept])
                    if self._registry is not None:
                        self._registry.add_closed(folder.closed_file(entry))
                done = min(reader.wanted.start - pos, len(data))
            if kept < done and layout is not None:
                layout.add(pos + kept, data[kept:done])
        finally:
            self._landed.add(pos, pos + done)
        return done
