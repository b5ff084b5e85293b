"""A file that appears at its destination when it is whole, and not before."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from pgetpy.core.destinations.journal import Subject
from pgetpy.core.destinations.names import part_name
from pgetpy.core.http.ranges import Spans
from pgetpy.core.http.sink import Place, Sink
from pgetpy.destinations.sinks.ledger import Ledger
from pgetpy.destinations.sinks.page_cache import WriteBack, memory_limit
from pgetpy.errors import DestinationError
from pgetpy.system.file_locks import boot_id
from pgetpy.system.filesystem import check_room, sync_folder, write_all

_ENDLESS = 1 << 62


class FileSink(Sink):
    """Writes a part file beside the destination and publishes it by rename.

    With a ledger the part file has a known name and is kept for the next run; without one it has a
    name of its own and goes when the transfer fails.

    Should another run, whose lock cannot be seen, be at work on the part file too, both write the
    same bytes to it: what belongs to another version is never overwritten but left to its owner,
    and what is published is a file that has been ours to the end.

    Attributes:
        resumable: whether what is written is of use to the next run.
    """

    def __init__(self, dest: Path, ledger: Ledger | None) -> None:
        self.dest = dest
        self.ledger = ledger
        own = part_name(dest.name) if ledger else part_name(f"{dest.name}.{secrets.token_hex(4)}")
        self.part = dest.with_name(own)
        # What an earlier run left stays until this one has something better.
        self.resumable = ledger is not None and bool(ledger.journal.written)
        self._write_back: WriteBack | None = None
        try:
            self.fd = self._create()
            self._fresh = True
        except FileExistsError:
            if ledger is None:
                raise
            # A link that others have put there does not lead us to their victim.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self.fd = os.open(self.part, flags, 0o666)
            self._fresh = False

    def load_held(self) -> Spans:
        """Return what the part file holds from an earlier run, seen from this boot."""
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

        Raises:
            DiskFullError: there is no room for the rest of it.
        """
        total = subject.identity.total
        if not held:
            self._forget()
        if total is not None:
            # Blocks that it has already are needed no more; not every system tells of them.
            there = getattr(os.fstat(self.fd), "st_blocks", 0) * 512
            check_room(self.dest, max(0, total - there), min_free)
            if memory_limit() < total:
                self._write_back = WriteBack(self.fd, hold)
        self._fresh = False
        if resumable and self.ledger is not None:
            self.ledger.begin(subject, held)
        if total is not None and self.ledger is not None:
            # Now that the journal says no more than is there: a file of full size is believed.
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
        """Bring what has been marked to stable storage, and note that."""
        if self.ledger is None or not self.resumable:
            return
        snapshot = self.ledger.snapshot()
        os.fdatasync(self.fd) if hasattr(os, "fdatasync") else os.fsync(self.fd)
        self.ledger.note_flushed(snapshot)

    def publish(self, size: int, *, fsync: bool = False) -> None:
        """Give the file, `size` bytes and whole, its name."""
        actual = os.fstat(self.fd).st_size
        if actual != size:
            raise DestinationError(str(self.part), f"has {actual} bytes instead of {size}")
        if self._write_back is not None:
            self._write_back.finish()
        if fsync:
            os.fsync(self.fd)
        self._rename()
        if fsync:
            sync_folder(self.dest.parent)
        if self.ledger is not None:
            self.ledger.note_published()
            self.ledger.remove()
        os.close(self.fd)

    def keep(self) -> None:
        """Close it; what is written stays for the next run, if that can go on from it."""
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
        """What stands there belongs to another object: its room is free again."""
        self.resumable = False
        # The journal first, or a kill in between would leave it to speak for bytes that are gone.
        if self.ledger is not None:
            self.ledger.forget()
        if not self._fresh:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.part)
            fd = self._create()
            os.dup2(fd, self.fd, inheritable=False)
            os.close(fd)

    def _create(self) -> int:
        """Make the part file."""
        return os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def _rename(self) -> None:
        """Give the part file the destination's name, unless another run was faster or took it."""
        if self.ledger is not None and not self._stands_at(self.part):
            if self._stands_at(self.dest):
                return  # by a run that wrote to the same file
            if self.part.exists():
                reason = "has been taken by another run"
                raise DestinationError(str(self.part), reason, hint="run it again")
        os.replace(self.part, self.dest)

    def _stands_at(self, path: Path) -> bool:
        try:
            return os.path.samestat(os.fstat(self.fd), os.lstat(path))
        except FileNotFoundError:
            return False
