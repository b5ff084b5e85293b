"""An archive that becomes a folder while it arrives: its first bytes say what it is.

The states of an `ArchiveSink`, each with what takes the bytes:

    beginning   `_beginning` gathers 512 bytes, for `recognise`
    survey      `_survey`: a zip of known size whose end is being read; leads to the extractor
    extractor   `extractor`: makes the members, see `pgetpy.archives` for which one

An object that is not recognised but is called `.zip` goes to the survey as well: a zip may have a
program in front of it. `_doubt` keeps the error for the case that there is no zip either.

What is wrong with the archive itself (`ArchiveError`) makes it unsound: what is staged is then
thrown away. After other errors it stays for the next run.

    first bytes      size known    what makes the members
    --------------   -----------   ------------------------------------------------
    tar              -             RandomAccessExtractor: ranges in any order
    zip              yes           DirectoryReader, then RandomAccessExtractor
    zip              no            SpooledZip: stored as a whole, read from its end
    compressed       -             StreamExtractor: decoded in order, then a tar or a single file
    unknown, `.zip`  as for a zip  a program may come before the archive
    unknown          -             an error that quotes the beginning

The content decides, not the name, because names come from URLs (`?download=1`) and servers. The
name only helps where formats begin alike.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pgetpy.archives.base import ArchiveExtractor
from pgetpy.archives.layout import ArchiveLayout
from pgetpy.archives.member_folder import MemberFolder
from pgetpy.archives.random_access import RandomAccessExtractor
from pgetpy.archives.reading import Admit, Reader
from pgetpy.core.archives.detection import recognise
from pgetpy.core.archives.formats import Format, is_named, stem
from pgetpy.core.archives.limits import Limits
from pgetpy.core.archives.member_policy import MemberPolicy
from pgetpy.core.archives.tar import TarReader
from pgetpy.core.http.range_request import Window
from pgetpy.core.http.ranges import Span, Spans
from pgetpy.core.http.reorder_buffer import ReorderBuffer
from pgetpy.core.http.sink import Place, Sink
from pgetpy.core.references.checksums import Digest
from pgetpy.errors import ArchiveError, TruncatedArchiveError

if TYPE_CHECKING:
    from pgetpy.archives.streaming import Output
    from pgetpy.archives.zip import DirectoryReader

# Enough to tell all formats apart: one tar header.
_TELLING = 512
_FIRST = 1 << 20
_ENDLESS = 1 << 62


class ArchiveSink(Sink):
    """Takes the bytes of an archive of any kind.

    Args:
        root: the staged folder for its members.
        layout: for headers and padding; has the spool.
        name: the last component of the object's path, see `recognise`.
        limits: how much may come out.
        fold: maps names to one form where the file system treats them as one, see `fold_of`.
        new_digest: makes what takes the archive as it was sent; None if nothing is verified.
        fsync: whether each file is flushed.
        noted: is called with each span that a later run can use.

    Attributes:
        window: how far ahead bytes may come.
        sound: whether nothing was found for which the archive has to be refused.
        total: the archive's bytes; None if the server serves no ranges of it.
        delimited: whether the end of the archive is known, by its length or by a digest.
        extractor: what makes the members; None in the first two states.
    """

    def __init__(
        self,
        root: Path,
        layout: ArchiveLayout,
        name: str,
        *,
        limits: Limits,
        fold: Callable[[str], str],
        new_digest: Callable[[], Digest] | None,
        fsync: bool = False,
        noted: Callable[[int, int], None],
    ) -> None:
        self.window: Window = Window(_FIRST)
        self.sound = True
        self.total: int | None = None
        self.delimited = True
        self._layout = layout
        self._name = name
        self._limits = limits
        self._folder = MemberFolder(root, fsync=fsync)
        self._policy = MemberPolicy(limits, fold)
        self._new_digest = new_digest
        self._noted = noted
        self._digest: Digest | None = None
        self._beginning = ReorderBuffer()
        self._marked = Spans()
        self.extractor: ArchiveExtractor | None = None
        self._survey: DirectoryReader | None = None
        # The error to raise if an object called `.zip` turns out not to be one.
        self._doubt: ArchiveError | None = None
        self._lock = threading.Lock()

    @property
    def members(self) -> tuple[str, ...]:
        """The names of what has been written, in the archive's order."""
        return tuple(self._folder.written)

    @property
    def remarks(self) -> tuple[str, ...]:
        """See `ArchiveExtractor.remarks`."""
        return self.extractor.remarks if self.extractor is not None else ()

    @property
    def streamed_digest(self) -> str | None:
        """The hex digest of the archive, where it was made while decoding."""
        return self._digest.hexdigest() if self._digest is not None else None

    def passages(self) -> Iterator[tuple[str, ...]]:
        """Yield paths that must not be links in the folder, see `MemberPolicy.expected`."""
        return self._policy.expected()

    def restore(self, held: Spans, total: int | None) -> Spans:
        """Take over what an earlier run left of `total` bytes; return what of `held` is there.

        Raises:
            ArchiveError: what was left makes no sense.
        """
        self.total = total
        format_ = self._recognise(self._layout.record(Span(0, _TELLING)))
        if format_ is Format.ZIP and total is not None:
            self.extractor, there = self._directory_reader(total).restore(held)
        elif format_ is Format.TAR:
            extractor = self.extractor = self._tar()
            there = extractor.restore(held)
        else:
            raise ArchiveError("an earlier run left it without its beginning")
        return there

    def place(self, pos: int) -> Place | None:
        return self.extractor.place(pos) if self.extractor is not None else None

    def write(self, pos: int, data: memoryview) -> None:
        # Looked at twice: once there is an extractor, no thread waits for the lock any more.
        with self._watch_soundness():
            if self.extractor is None:
                with self._lock:
                    if self.extractor is None:
                        return self._begin(pos, data)
            return self.extractor.write(pos, data)

    def mark(self, start: int, stop: int) -> None:
        # What was marked before there was an extractor is handed on with the first mark after it.
        with self._lock:
            if self.extractor is None:
                self._marked.add(start, stop)
                return
            marked, self._marked = self._marked, Spans()
        for span in (Span(start, stop), *marked):
            self.extractor.mark(span.start, span.stop)
        for span in self.extractor.take_settled():
            self._noted(span.start, span.stop)

    def tidy(self, busy: Iterable[Span]) -> None:
        """See `ArchiveExtractor.tidy`."""
        if self.extractor is not None:
            with self._watch_soundness():
                self.extractor.tidy(busy)

    def finish(self, total: int) -> None:
        """See `ArchiveExtractor.finish`."""
        with self._watch_soundness():
            if self.extractor is None and self._survey is None:
                self._decide(self._beginning.read(Span(0, total)) or b"")
            if self.extractor is None:
                raise ArchiveError("its contents cannot be determined")
            self.extractor.finish(total)
            folders = [(entry.parts, entry.member) for entry in self._policy.folders()]
            if self._policy.top is not None:
                folders.append(((), self._policy.top))
            self._folder.seal(folders)

    def close(self) -> None:
        """See `ArchiveExtractor.close`."""
        if self.extractor is not None:
            self.extractor.close()

    @contextlib.contextmanager
    def _watch_soundness(self) -> Iterator[None]:
        try:
            yield
        except ArchiveError as error:
            self.sound = False
            if self._doubt is not None and isinstance(error, TruncatedArchiveError):
                raise self._doubt from None
            raise

    def _begin(self, pos: int, data: memoryview) -> None:
        """Take bytes in the first two states, and move on when there are enough of them."""
        if self._survey is not None:
            self.extractor = self._survey.take(pos, data)
            return
        self._beginning.keep(pos, data)
        beginning = self._beginning.read(Span(0, _TELLING))
        if beginning is not None:
            self._decide(beginning)

    def _decide(self, beginning: bytes) -> None:
        format_ = self._recognise(beginning)
        if format_ is Format.UNKNOWN:
            assert self._doubt is not None
            raise self._doubt
        # Assigned before it gets bytes: if that fails, `close` closes it.
        if format_ is Format.TAR:
            self.extractor = self._tar()
        elif format_ is not Format.ZIP:
            self.extractor = self._stream_extractor(format_)
        elif self.total is not None:
            self._survey = self._directory_reader(self.total)
        else:
            from pgetpy.archives.zip import SpooledZip

            self.extractor = SpooledZip(self.window, self._layout, self._directory_reader)
        while (piece := self._beginning.take(_ENDLESS)) is not None:
            pos, data = piece[0], memoryview(piece[1])
            if self.extractor is not None:
                self.extractor.write(pos, data)
            elif self._survey is not None:
                self.extractor = self._survey.take(pos, data)

    def _recognise(self, beginning: bytes) -> Format:
        format_ = recognise(beginning, self._name)
        if format_ is not Format.UNKNOWN:
            return format_
        start = repr(bytes(beginning[:40])).removeprefix("b")
        what = f"its format is not known; it begins with {start}" if beginning else "it is empty"
        self._doubt = ArchiveError(what)
        # A zip is recognised by its end; a program that extracts it may come before.
        return Format.ZIP if is_named(self._name, Format.ZIP) else Format.UNKNOWN

    def _tar(self) -> RandomAccessExtractor:
        return self._random_access_extractor(self._tar_reader(), self._policy.admit)

    def _tar_reader(self) -> TarReader:
        return TarReader(longest_header=self._limits.header_bytes, delimited=self.delimited)

    def _directory_reader(self, total: int) -> DirectoryReader:
        # Imported here, since a plain tar does not need it.
        from pgetpy.archives.zip import DirectoryReader

        return DirectoryReader(
            total, self._policy, self.window, self._layout, self._random_access_extractor
        )

    def _random_access_extractor(self, reader: Reader, admit: Admit) -> RandomAccessExtractor:
        readable = self._new_digest is not None
        return RandomAccessExtractor(
            self._folder, reader, admit, self.window, self._layout, readable=readable
        )

    def _stream_extractor(self, format_: Format) -> ArchiveExtractor:
        from pgetpy.archives.decoders import decoder_for
        from pgetpy.archives.streaming import StreamExtractor

        decoder = decoder_for(format_)
        if self._new_digest is not None:
            self._digest = self._new_digest()
        choose = partial(self._decoded_output, format_)
        return StreamExtractor(decoder, choose, self.window, self._limits, self._digest)

    def _decoded_output(self, format_: Format, beginning: bytes) -> Output:
        """Return what takes the decoded bytes: those of a tar, or of a single file."""
        from pgetpy.archives.streaming import SingleFile

        if recognise(beginning, "") is Format.TAR:
            reader, admit = self._tar_reader(), self._policy.admit
            return RandomAccessExtractor(self._folder, reader, admit, Window(0), parallel=False)
        return SingleFile(self._folder, self._policy, stem(self._name, format_))
