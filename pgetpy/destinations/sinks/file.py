"""A file that appears at its destination when it is complete, and not before.

Three names are involved, all in one folder, so that the last step is a rename:

    .model.bin.pgetpy-part       the bytes, in any order
    .model.bin.pgetpy-journal    which of them are there (`Ledger`)
    model.bin                    appears when everything has been verified

The order of steps matters, because a kill may come between any two:

    start over   journal emptied, then the part file replaced: the journal never claims bytes of
                 another object
    begin        journal written, then the file stretched to its size: `load_held` believes spans
                 within the file's size
    mark         bytes written, then noted
    publish      rename, then `p` in the journal, then the journal removed

Two runs at once are possible where locks cannot be seen to fail. They do no harm: of one version
both write the same bytes to the same places. A run with another version never writes into a part
file that it found: it makes a new one, and the other keeps its own by its descriptor. And a run
publishes only if the part file's name still leads to the file that it has open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from pgetpy.core.destinations.journal import Subject
from pgetpy.core.destinations.names import part_name
from pgetpy.core.http.ranges import Spans
from pgetpy.core.http.sink import Place, Sink
from pgetpy.destinations.sinks.ledger import Ledger
from pgetpy.destinations.sinks.page_cache import WriteBack, memory_limit
from pgetpy.errors import DestinationError, DiskFullError
from pgetpy.system.file_locks import boot_id
from pgetpy.system.filesystem import (
    MetadataWarnings,
    check_room,
    closing_fd,
    sync_file,
    sync_folder,
    write_all,
)
from pgetpy.system.logs import RoomLog

_ENDLESS = 1 << 62
_COPY_BLOCK = 1 << 20
# The errors of a rename onto a file that is a mount point, as with a bind-mounted file.
_IRREPLACEABLE = (errno.EBUSY, errno.EXDEV)
_LOG = RoomLog("destinations")


class FileSink(Sink):
    """Writes a part file beside the destination and publishes it by rename.

    With a ledger the part file has a known name and is kept for the next run. Without one it has a
    random name and is removed when the transfer fails.

    Args:
        dest: the name that the file will get.
        ledger: see the attributes.
        absent: whether nothing was at `dest` a moment ago. Without a ledger that is not looked for
            again.

    Attributes:
        dest: the name that the file will get.
        part: the part file's name.
        fd: the part file.
        ledger: its journal; None for small files, and if locks do not work here.
        resumable: whether what is written is of use to the next run.
    """

    def __init__(self, dest: str | Path, ledger: Ledger | None, *, absent: bool = False) -> None:
        self.dest = os.fspath(dest)
        self.ledger = ledger
        self._absent = absent and ledger is None
        folder, name = os.path.split(self.dest)
        own = part_name(name) if ledger else part_name(f"{name}.{os.urandom(4).hex()}")
        self.part = os.path.join(folder, own)
        # True from the start if an earlier run left something: a failure before the first byte must
        # not remove it.
        self.resumable = ledger is not None and bool(ledger.journal.written)
        self._write_back: WriteBack | None = None
        try:
            self.fd = self._create()
            self._fresh = True
        except FileExistsError:
            if ledger is None:
                raise
            # O_NOFOLLOW: others may have put a link there, to a file that they cannot write.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self.fd = os.open(self.part, flags, 0o666)
            self._fresh = False

    def load_held(self) -> Spans:
        """Return what the part file holds from an earlier run.

        After a reboot only flushed spans count. Spans behind the end of the file were lost.
        """
        if self.ledger is None:
            return Spans()
        size = os.fstat(self.fd).st_size
        spans = self.ledger.journal.trusted(boot_id())
        held = Spans(span for span in spans if span.stop <= size)
        self.resumable = bool(held)
        return held

    def begin(
        self,
        subject: Subject,
        held: Spans,
        *,
        min_free: int = 0,
        resumable: bool = True,
        hold: Callable[[], int] | None = None,
    ) -> None:
        """Get ready for `subject`, of which `held` is already there.

        Args:
            subject: the object and its version.
            held: the spans that need not be fetched; empty to start over.
            min_free: bytes to leave free on the disk.
            resumable: whether to keep a journal.
            hold: returns the first byte that will still be read back.

        Raises:
            DiskFullError: there is no room for the rest of it.
        """
        total = subject.identity.total
        if not held:
            self._forget()
        if total is not None:
            # Blocks that the file has already need no room. Not every system reports them.
            there = 0 if self._fresh else getattr(os.fstat(self.fd), "st_blocks", 0) * 512
            check_room(self.dest, max(0, total - there), min_free)
            if memory_limit() < total:
                self._write_back = WriteBack(self.fd, hold)
        self._fresh = False
        if resumable and self.ledger is not None:
            self.ledger.begin(subject, held)
        if total is not None and self.ledger is not None:
            # Only now, with the journal correct: spans within the file's size are believed.
            os.ftruncate(self.fd, total)
        self.resumable = resumable and self.ledger is not None

    def place(self, pos: int) -> Place:
        return Place(self.fd, pos, _ENDLESS)

    def write(self, pos: int, data: memoryview) -> None:
        write_all(self.fd, pos, data)

    def mark(self, start: int, stop: int) -> None:
        if self.resumable and self.ledger is not None:
            self.ledger.note_written(start, stop)
        if self._write_back is not None:
            self._write_back.note_written(start, stop)

    def flush(self) -> None:
        """Flush what has been marked to stable storage, and note that.

        The snapshot is taken before the flush: bytes that land during it may not be covered.
        """
        if self.ledger is None or not self.resumable:
            return
        snapshot = self.ledger.snapshot()
        try:
            os.fdatasync(self.fd) if hasattr(os, "fdatasync") else os.fsync(self.fd)
            self.ledger.note_flushed(snapshot)
        except OSError as error:
            # The journal says no more than is certain, and a power cut costs more.
            _LOG.debug("%s cannot be flushed: %s", self.part, error)

    def publish(self, size: int, *, fsync: bool = False) -> None:
        """Give the complete file of `size` bytes its name.

        Raises:
            DestinationError: another process has changed or taken the part file.
            OSError: the rename fails.
        """
        actual = os.fstat(self.fd).st_size
        if actual != size:
            raise DestinationError(self.part, f"has {actual} bytes instead of {size}")
        if self._write_back is not None:
            self._write_back.finish()
        if fsync:
            sync_file(self.fd, self.dest)
        self._keep_attributes()
        self._rename(size, fsync=fsync)
        if fsync:
            sync_folder(os.path.dirname(self.dest) or ".")
        if self.ledger is not None:
            self.ledger.note_published()
            self.ledger.remove()
        os.close(self.fd)

    def keep(self) -> None:
        """Close it, and leave what is written for the next run, if that can use it."""
        if not self.resumable:
            self.discard()
            return
        os.close(self.fd)
        if self.ledger is not None:
            self.ledger.close()

    def discard(self) -> None:
        """Close it and leave nothing behind."""
        if self._stands_at(self.part):
            os.unlink(self.part)
        os.close(self.fd)
        if self.ledger is not None:
            self.ledger.remove()

    def _forget(self) -> None:
        """Drop bytes of another object or version, and begin with a new part file."""
        self.resumable = False
        # The journal first: after a kill in between it must not claim bytes that are gone.
        if self.ledger is not None:
            self.ledger.forget()
        if not self._fresh:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.part)
            try:
                fd = self._create()
            except FileExistsError:  # by a run on another machine, whose locks are not seen here
                raise self._taken() from None
            os.dup2(fd, self.fd, inheritable=False)
            os.close(fd)

    def _create(self) -> int:
        """Make the part file, readable only by users who may read the file that it replaces."""
        there = self._replaced()
        mode = 0o666 if there is None else stat.S_IMODE(there.st_mode) & 0o666
        return os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)

    def _replaced(self) -> os.stat_result | None:
        """The state of the file that is going to be replaced, None where there is none."""
        if self._absent:
            return None
        try:
            there = os.lstat(self.dest)
        except OSError:
            return None
        return there if stat.S_ISREG(there.st_mode) else None

    def _keep_attributes(self) -> None:
        """Give the part file the permissions and the owner of what it replaces, where allowed."""
        there = self._replaced()
        if there is None:
            return
        own = os.fstat(self.fd)
        warnings = MetadataWarnings(self.dest)
        with warnings.tolerate("to keep the owner"):
            if there.st_uid != own.st_uid:
                os.fchown(self.fd, there.st_uid, -1)
        with warnings.tolerate("to keep the group"):
            if there.st_gid != own.st_gid:
                os.fchown(self.fd, -1, there.st_gid)
        # Without set-ID bits: they were given to the old content.
        mode = stat.S_IMODE(there.st_mode) & 0o777
        with warnings.tolerate("to keep the permissions"):
            if mode != stat.S_IMODE(own.st_mode):
                os.fchmod(self.fd, mode)

    def _rename(self, size: int, *, fsync: bool) -> None:
        """Give the part file the destination's name, unless another run did so or replaced it."""
        if self.ledger is not None and not self._stands_at(self.part):
            if self._stands_at(self.dest):
                return  # by a run that wrote to the same file
            if os.path.exists(self.part):
                raise self._taken()
        try:
            os.replace(self.part, self.dest)
        except OSError as error:
            if error.errno not in _IRREPLACEABLE or self._replaced() is None:
                raise
            self._write_in_place(size, fsync=fsync)
            os.unlink(self.part)

    def _taken(self) -> DestinationError:
        return DestinationError(self.part, "has been taken by another run", hint="run it again")

    def _write_in_place(self, size: int, *, fsync: bool) -> None:
        """Copy the part file over a destination that is a mount point and cannot be replaced.

        This is not atomic. If it is cut short, the part file is still there for the next run.
        """
        with closing_fd(os.open(self.dest, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
            disk, there = os.fstatvfs(fd), os.fstat(fd)
            free = disk.f_bavail * disk.f_frsize
            if there.st_dev == os.fstat(self.fd).st_dev or size > there.st_size:
                needed = max(0, size - there.st_blocks * 512)
                if needed > free:
                    raise DiskFullError(self.dest, needed, free)
            buffer = memoryview(bytearray(_COPY_BLOCK))
            done = 0
            while done < size:
                count = os.preadv(self.fd, [buffer], done)
                if not count:
                    raise DestinationError(self.part, "was truncated by another process")
                write_all(fd, done, buffer[:count])
                done += count
            os.ftruncate(fd, size)
            if fsync:
                sync_file(fd, self.dest)
        _LOG.warning("%s is a mount and cannot be replaced: it was written in place", self.dest)

    def _stands_at(self, path: str) -> bool:
        try:
            return os.path.samestat(os.fstat(self.fd), os.lstat(path))
        except FileNotFoundError:
            return False
