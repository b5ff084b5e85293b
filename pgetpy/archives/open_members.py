"""The files of an archive that still get bytes, and where in the archive the bytes of each are.

A file is here from its header to the moment when it is `ready`: all bytes have landed, and its
content has been checked, if the archive states a CRC. The two may come in either order, so both
lead to the same question, asked by `finish_ready` and after each small write.

Where the archive will be read back (for a digest of it as it was sent), extents stay after their
file is closed, and the bytes are read from the member again. If a later member replaces that file,
`pin` keeps the old one readable by a descriptor.
"""

from __future__ import annotations

from pgetpy.archives.checking import MemberVerifier
from pgetpy.archives.extents import DiskExtents
from pgetpy.archives.member_file import MemberFile
from pgetpy.archives.member_folder import MemberFolder
from pgetpy.archives.spool import Spool
from pgetpy.core.archives.member_policy import AdmittedMember
from pgetpy.core.http.range_request import LARGE_FILE
from pgetpy.core.http.ranges import Span, Spans


class OpenMembers:
    """Keeps files from their header to their last byte; one thread at a time may call it.

    Args:
        folder: makes and closes the files.
        spool: holds deflated members; None where there are none.
        readable: whether the archive will be read back, so that files stay findable once closed.

    Attributes:
        extents: of the open files, in the archive's order; of all where it will be read back.
        verifier: makes and checks content as bytes land; any thread may call it.
    """

    def __init__(self, folder: MemberFolder, spool: Spool | None, *, readable: bool) -> None:
        self.extents = DiskExtents()
        self.verifier = MemberVerifier(folder, spool, sparing=not readable)
        self._folder = folder
        self._spool = spool
        self._readable = readable
        self._open: dict[MemberFile, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def make(self, entry: AdmittedMember, *, large: bool) -> None:
        """Make `entry`, but for the content of a file, whose bytes are still to come.

        Raises:
            DestinationError, OSError: see `MemberFolder.make`.
        """
        file: MemberFile | None
        if entry.member.compression is not None:
            assert self._spool is not None
            file = self._folder.defer(entry, self._spool.fd, large=large)
        else:
            file = self._folder.make(entry, large=large)
        if file is not None:
            self.add(file)
            self.check_behind(file)

    def large_spans(self) -> tuple[Span, ...]:
        """Return the spans of the archive that are all of a large file each, see `Window.files`."""
        extents = (file.entry.member.extents for file in self._open if not file.spooled)
        large = (each[0] for each in extents if len(each) == 1 and each[0].size >= LARGE_FILE)
        return tuple(Span(extent.start, extent.stop) for extent in large)

    def add(self, file: MemberFile) -> None:
        """Take in `file`, whose bytes are still to come."""
        self.extents.add(file)
        self._open[file] = None

    def add_closed(self, file: MemberFile) -> None:
        """Take in `file`, all of whose bytes are there."""
        if self._readable:
            self.extents.add(file)

    def check_behind(self, file: MemberFile) -> None:
        """Make and check the content of `file` as its bytes land, if it can be checked."""
        if not file.checked:
            self.verifier.submit(file)

    def check_all_behind(self) -> None:
        """Do the same with all open files."""
        for file in self._open:
            self.check_behind(file)

    def land(self, file: MemberFile, start: int, stop: int) -> None:
        """The archive's bytes from `start` up to `stop` are in `file` now."""
        file.land(start, stop)
        if not file.checked:
            self.verifier.notify()

    def pin(self, parts: tuple[str, ...]) -> None:
        """Keep the file at `parts` readable: another member is about to take its place."""
        if not self._readable:
            return
        for extent in self.extents:
            if extent.file.entry.parts == parts:
                extent.file.pin()

    def finish(self, file: MemberFile) -> None:
        """Close `file`, which has all its bytes."""
        if file.spooled:
            self._folder.close(file)
        else:
            self._folder.finish(file)
        del self._open[file]
        if not self._readable:
            self.extents.drop(file)

    def finish_ready(self, busy: Spans) -> None:
        """Close the files that are complete, except those with bytes in `busy` spans."""
        for file in [file for file in self._open if file.ready]:
            if not any(busy.overlaps(e.start, e.stop) for e in file.entry.member.extents):
                self.finish(file)

    def finish_all(self) -> None:
        for file in list(self._open):
            self.finish(file)

    def close(self) -> None:
        """Close all files as they are."""
        for file in self._open:
            self._folder.close(file)
        for extent in self.extents:
            extent.file.unpin()
