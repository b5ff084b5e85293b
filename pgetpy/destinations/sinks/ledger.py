"""The journal of a part file on disk, which is also the lock of its destination.

The lock is a flock on the journal's inode, not on its name. The kernel releases it when its process
dies, so there are no stale locks. A run that waits keeps the file open, and can read it even after
its name is gone. That is how it learns what became of the other run:

    the lock is free, and the name ...     the run that held it
    -----------------------------------    ----------------------------------------------
    still leads to this inode              was killed or failed: continue from what it wrote
    is gone or leads elsewhere: `orphaned`
        and the last line is `p`           has published: nothing is left to be done
        and it is not                      has thrown everything away: open the name again

The same test closes the race between opening a journal and its removal by a run that ends.

A run that starts over (`forget`) puts a new file in the journal's place. It keeps the old one open
and locked as well, and writes `p` into both when it publishes: others may wait for either.

A lock saves work; correctness does not depend on it. If locks are seen not to exclude (some network
file systems accept them and do nothing), no ledger is used, and every run has a part file of its
own. Where that cannot be seen (two machines, each with locks of its own), two runs may hold one
journal; `FileSink` says why that does no harm.

Lines are only appended. A line that was cut off, by a kill or a full disk, would hide all that
follow, so nothing is appended behind one: `begin` truncates it, and `_append` stops for good.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from pgetpy.core.destinations.journal import (
    Journal,
    Subject,
    flushed_line,
    moving_line,
    parse_journal,
    published_line,
    subject_line,
    written_line,
)
from pgetpy.core.destinations.names import LOCK, journal_path
from pgetpy.core.http.ranges import Span, Spans
from pgetpy.system.file_locks import try_lock
from pgetpy.system.filesystem import closing_fd, sync_file

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class Ledger:
    """An open journal; ours once `acquire` has returned True. Threads may note spans in it.

    Attributes:
        path: the journal's name; it need not lead to our file, see `orphaned`.
        journal: what it said when it was acquired, or when it was begun anew since.
    """

    def __init__(self, dest: Path) -> None:
        self.path = journal_path(dest)
        self.journal = Journal()
        try:
            self._fd = os.open(self.path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            self._fresh = True
        except FileExistsError:
            self._fd = os.open(self.path, _FLAGS | os.O_CREAT, 0o600)
            self._fresh = False
        # Journals that ours has replaced. Other runs may be waiting for their locks.
        self._former: list[int] = []
        self._lock = threading.Lock()
        self._written = Spans()
        self._broken = False

    def acquire(self) -> bool:
        """Take the lock and read the journal; False if another run holds it. May be called again.

        Raises:
            OSError: the file system has no locks, or none left.
        """
        if not try_lock(self._fd):
            return False
        self.journal = parse_journal(os.pread(self._fd, os.fstat(self._fd).st_size, 0))
        return True

    @property
    def orphaned(self) -> bool:
        """Whether the name is gone or leads to another file: the run that held this one is over."""
        try:
            return not os.path.samestat(os.fstat(self._fd), os.stat(self.path))
        except FileNotFoundError:
            return True

    def begin(self, subject: Subject, held: Spans) -> None:
        """Start the journal anew, about `subject`, of which `held` is already there.

        If it says just that, it stays as it is: a kill between truncating and writing would lose
        what it says.
        """
        with self._lock:
            self._written = Spans(held)
            if self.journal.subject == subject and self.journal.written == held:
                # Only a line that was cut off goes: nothing behind it would be read.
                os.ftruncate(self._fd, self.journal.size)
                return
            self._fresh = False
            flushed = Spans(s for s in self.journal.flushed if held.covers(s.start, s.stop))
            lines = [subject_line(subject)]
            lines += [written_line(span.start, span.stop) for span in held]
            lines += [flushed_line(span.start, span.stop) for span in flushed]
            self._reset(Journal(subject, Spans(held), flushed, size=sum(map(len, lines))))
            self._append(b"".join(lines))

    def forget(self) -> None:
        """Empty the journal: the bytes in the part file are worthless.

        It becomes a new file. A run whose lock cannot be seen from here may still append to the old
        one, and must not vouch for bytes of ours.
        """
        with self._lock:
            self._written = Spans()
            if self._fresh:
                return
            # A power cut must not bring back what had been flushed.
            stable = bool(self.journal.flushed)
            self._reset(Journal())
            if stable:
                sync_file(self._fd, str(self.path))
            self._replace()

    def note_written(self, start: int, stop: int) -> None:
        """Note that the bytes from `start` up to `stop` have been written."""
        with self._lock:
            self._written.add(start, stop)
            self._append(written_line(start, stop))

    def snapshot(self) -> tuple[Journal, list[Span]]:
        """Return the journal as begun last, and what has been written since; for `note_flushed`."""
        with self._lock:
            return self.journal, list(self._written)

    def note_flushed(self, snapshot: tuple[Journal, list[Span]]) -> None:
        """Note that what was in `snapshot` is on stable storage."""
        journal, spans = snapshot
        with self._lock:
            if journal is not self.journal:
                return  # begun anew during the flush: those bytes are gone
            for span in spans:
                journal.flushed.add(span.start, span.stop)
            self._append(b"".join(flushed_line(span.start, span.stop) for span in spans))
        os.fsync(self._fd)

    def note_moving(self) -> None:
        """Note that an archive's members are being moved: a later run has to finish that."""
        with self._lock:
            self._append(moving_line())
            sync_file(self._fd, str(self.path))

    def note_published(self) -> None:
        """Tell the runs that wait for the lock that the file is at its destination."""
        with self._lock:
            self._append(published_line())
            subject = self.journal.subject
            lines = subject_line(subject) + published_line() if subject is not None else b""
            for fd in self._former:
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, 0)
                    os.write(fd, lines)

    def remove(self) -> None:
        """Remove the journal's name, then release the lock: in this order, see `orphaned`."""
        with contextlib.suppress(FileNotFoundError):
            if not self.orphaned:
                os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Release the locks; the journal stays for the next run."""
        for fd in (*self._former, self._fd):
            if fd >= 0:
                os.close(fd)
        self._former, self._fd = [], -1

    def _replace(self) -> None:
        """Put a new file, which is locked already, in the journal's place.

        The old one stays locked as long as the new one: a run that opened it a moment ago, and
        lost the race for its lock, waits there to be told whether the file has been published.
        """
        path = self.path.with_name(f".{os.urandom(8).hex()}{LOCK}")
        with closing_fd(os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)) as fd:
            try_lock(fd)
            os.replace(path, self.path)
            self._former.append(os.dup(self._fd))
            os.dup2(fd, self._fd, inheritable=False)
            self._fresh = True

    def _reset(self, journal: Journal) -> None:
        os.ftruncate(self._fd, 0)
        self.journal = journal
        self._broken = False

    def _append(self, lines: bytes) -> None:
        # On a full disk the journal stops where it is: what it says stays true, the rest is fetched
        # again. A line after a torn one would not be read.
        if self._broken:
            return
        try:
            self._broken = os.write(self._fd, lines) != len(lines)
        except OSError:
            self._broken = True
