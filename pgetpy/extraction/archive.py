"""An archive that becomes a folder while it arrives: what it is shows in its first bytes."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pgetpy.core.formats import Format, recognise, stem
from pgetpy.core.members import Kind, Member
from pgetpy.core.plan import Window
from pgetpy.core.ranges import Span, Spans
from pgetpy.core.roster import Limits, Roster
from pgetpy.decoders import decoder_for
from pgetpy.errors import ArchiveError, LimitExceededError
from pgetpy.extraction.folder import MemberFile, MemberFolder
from pgetpy.extraction.layout import Layout
from pgetpy.extraction.tar import TarSink
from pgetpy.extraction.unpacking import Output, Unpacking
from pgetpy.sinks.base import Place

# Enough to tell every format by.
_TELLING = 512
_FIRST = 1 << 20


class ArchiveSink:
    """Takes the bytes of an archive of any kind.

    Args:
        root: the empty folder for its members.
        layout: where the rest of a plain tar is kept.
        name: the last component of the object's path.
        limits: on what comes out.
        fold: gives what all names have in common that the file system takes for one.
        algorithm: of the digest to be made of the archive as it was sent.
        noted: is given the spans that a later run can use.

    Attributes:
        held: the bytes that an earlier run left.
        window: how far ahead bytes may come.
        sound: whether nothing was found yet for which the archive has to be refused.
    """

    def __init__(
        self,
        root: Path,
        layout: Layout,
        name: str,
        *,
        limits: Limits,
        fold: Callable[[str], str],
        algorithm: str | None,
        fsync: bool = False,
        noted: Callable[[int, int], None],
    ) -> None:
        self.held = Spans()
        self.window = Window(_FIRST)
        self.sound = True
        self._layout = layout
        self._name = name
        self._limits = limits
        self._folder = MemberFolder(root, fsync=fsync)
        self._roster = Roster(limits, fold)
        self._algorithm = algorithm
        self._noted = noted
        self._digest: hashlib._Hash | None = None
        self._beginning = bytearray()
        self._marked = Spans()
        self._tar: TarSink | None = None
        self._unpacking: Unpacking | None = None
        self._lock = threading.Lock()

    @property
    def decided(self) -> bool:
        """Whether it is known what kind of archive this is."""
        return self._tar is not None or self._unpacking is not None

    @property
    def resumable(self) -> bool:
        """Whether a later run can go on from here: a plain tar's members stand for themselves."""
        return self._tar is not None

    @property
    def members(self) -> tuple[str, ...]:
        """The names of what has been written, in the archive's order."""
        return tuple(self._folder.written)

    @property
    def streamed_digest(self) -> str | None:
        """The hex digest of the archive, where it was made while decoding."""
        return self._digest.hexdigest() if self._digest is not None else None

    def passages(self) -> Iterator[tuple[str, ...]]:
        """See `Roster.expected`."""
        return self._roster.expected()

    def restore(self, held: Spans) -> Spans:
        """Take over what an earlier run left; return what of `held` is there.

        Raises:
            ArchiveError: what was left makes no sense.
        """
        self._tar = self._plain_tar()
        self.held = self._tar.restore(held)
        return self.held

    def place(self, pos: int) -> Place | None:
        return self._tar.place(pos) if self._tar is not None else None

    def write(self, pos: int, data: memoryview) -> None:
        with self._judged():
            if not self.decided:
                with self._lock:
                    if not self.decided:
                        self._begin(pos, data)
                        return
            if self._tar is not None:
                self._tar.write(pos, data)
            elif self._unpacking is not None:
                self._unpacking.write(pos, data)

    def mark(self, start: int, stop: int) -> None:
        if self._unpacking is not None:
            return
        with self._lock:
            if self._tar is None:
                self._marked.add(start, stop)
                return
            marked, self._marked = self._marked, Spans()
        self._tar.mark(start, stop)
        for span in marked:
            self._tar.mark(span.start, span.stop)
        for span in self._tar.settled():
            self._noted(span.start, span.stop)

    def tidy(self, busy: Iterable[Span]) -> None:
        """Finish what is whole; nobody writes but to `busy` spans."""
        if self._tar is not None:
            self._tar.tidy(busy)

    def finish(self, total: int) -> None:
        """All `total` bytes have come.

        Raises:
            ArchiveError: they are no whole archive.
        """
        with self._judged():
            if not self.decided:
                self._decide()
            if self._tar is not None:
                self._tar.finish(total)
            elif self._unpacking is not None:
                self._unpacking.finish(total)
            folders = [(entry.parts, entry.member) for entry in self._roster.folders()]
            if self._roster.top is not None:
                folders.append(((), self._roster.top))
            self._folder.seal(folders)

    def halt(self) -> None:
        """Wake a `finish` that is not wanted any more."""
        if self._unpacking is not None:
            self._unpacking.halt()

    def read(self, pos: int, buffer: memoryview) -> int:
        """Read a plain tar back, see `TarSink.read`."""
        assert self._tar is not None
        return self._tar.read(pos, buffer)

    def close(self) -> None:
        """Let go of everything; nothing is written any more."""
        if self._unpacking is not None:
            self._unpacking.stop()
        if self._tar is not None:
            self._tar.close()

    @contextlib.contextmanager
    def _judged(self) -> Iterator[None]:
        try:
            yield
        except ArchiveError:
            self.sound = False
            raise

    def _begin(self, pos: int, data: memoryview) -> None:
        """Take part of the beginning, and decide once it says enough."""
        # Until it is decided nothing is asked for but the beginning, in order; a second copy of it
        # may come by another way.
        known = len(self._beginning)
        if pos > known:
            raise ArchiveError(f"its beginning is missing, bytes {known} to {pos}")
        self._beginning += data[known - pos :]
        if len(self._beginning) >= _TELLING:
            self._decide()

    def _decide(self) -> None:
        beginning = bytes(self._beginning)
        format_ = recognise(beginning, self._name)
        if format_ is Format.TAR:
            tar = self._plain_tar()
            tar.write(0, memoryview(beginning))
            self._tar = tar
            return
        if format_ is Format.ZIP:
            raise ArchiveError("it is a zip, which cannot be extracted yet", hint="download it")
        if format_ is Format.UNKNOWN:
            start = beginning[:40].decode("ascii", "backslashreplace")
            raise ArchiveError(f"it is of no known format; it begins {start!r}")
        decoder = decoder_for(format_)
        if self._algorithm is not None:
            self._digest = hashlib.new(self._algorithm, usedforsecurity=False)
        output = Decoded(self._decoded_output(format_))
        self._unpacking = Unpacking(decoder, output, self.window, self._limits, self._digest)
        self._unpacking.write(0, memoryview(beginning))

    def _plain_tar(self) -> TarSink:
        return TarSink(
            self._folder,
            self._roster,
            self.window,
            self._layout,
            readable=self._algorithm is not None,
        )

    def _decoded_output(self, format_: Format) -> Callable[[bytes], Output]:
        def choose(beginning: bytes) -> Output:
            if recognise(beginning, "") is Format.TAR:
                return TarSink(self._folder, self._roster, Window(0), parallel=False)
            return SingleFile(self._folder, self._roster, stem(self._name, format_))

        return choose


class Decoded:
    """What comes out of a decoder, which is a tar or a single file.

    Args:
        choose: gives, from the first bytes, what takes them all.
    """

    def __init__(self, choose: Callable[[bytes], Output]) -> None:
        self._choose = choose
        self._beginning = bytearray()
        self._output: Output | None = None

    def write(self, pos: int, data: memoryview) -> None:
        """Take `data`, the decoded bytes from `pos` on."""
        if self._output is not None:
            self._output.write(pos, data)
            return
        self._beginning += data
        if len(self._beginning) >= _TELLING:
            self._start()

    def finish(self, total: int) -> None:
        """All `total` bytes have come."""
        if self._output is None:
            self._start()
        assert self._output is not None
        self._output.finish(total)

    def close(self) -> None:
        """Let go of what is open."""
        if self._output is not None:
            self._output.close()

    def _start(self) -> None:
        beginning = bytes(self._beginning)
        self._output = self._choose(beginning)
        self._output.write(0, memoryview(beginning))


class SingleFile:
    """One file that was compressed by itself."""

    def __init__(self, folder: MemberFolder, roster: Roster, name: str) -> None:
        self._folder = folder
        entry = roster.admit(Member(name, Kind.FILE, mode=0o666, mtime=time.time_ns()))
        assert entry is not None
        file = folder.make(entry, large=False)
        assert file is not None
        self._file: MemberFile = file
        self._most = roster.limits.total_bytes

    def write(self, pos: int, data: memoryview) -> None:
        """Take `data`, the file's bytes from `pos` on."""
        if self._most is not None and pos + len(data) > self._most:
            raise LimitExceededError("total_bytes", self._most, pos + len(data))
        self._file.write(pos, data)

    def finish(self, total: int) -> None:
        """All bytes have come."""
        self._folder.finish(self._file)

    def close(self) -> None:
        """Close the file as it is."""
        self._folder.close(self._file)
