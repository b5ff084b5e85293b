"""A file, which appears by rename; its part file and journal stand beside it until then."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from pgetpy.core.destinations.journal import Journal, Subject
from pgetpy.core.destinations.names import (
    journal_path,
    name_from_disposition,
    name_from_service,
    name_from_url,
)
from pgetpy.core.http.answers import Answer, Identity
from pgetpy.core.http.ranges import Spans
from pgetpy.core.http.sink import Sink
from pgetpy.destinations.base import (
    BusyError,
    Destination,
    DestinationLock,
    DestinationOptions,
    ReadBack,
    ResumeError,
)
from pgetpy.destinations.sinks.file import FileSink
from pgetpy.destinations.sinks.ledger import Ledger
from pgetpy.errors import DestinationError
from pgetpy.settings import Settings
from pgetpy.system.file_locks import boot_id
from pgetpy.system.filesystem import check_room, disk_error, disk_errors

# Up to here an object comes in one answer, and going on from half of it would save nothing.
SMALL = 1 << 20


class FileDestination(Destination):
    """A file, which appears by rename; its part file and journal stand beside it until then."""

    obstacle = "another run works on this file"
    blocks = False

    def __init__(
        self, folder: Path, name: str | None, options: DestinationOptions, settings: Settings
    ) -> None:
        super().__init__(str(folder / name) if name else f"{folder}/")
        self._folder = folder
        self._name = name
        self._options = options
        self._key = options.key
        self._settings = settings
        self._ledger: Ledger | None = None
        self._sink: FileSink | None = None
        self._lock: DestinationLock | None = None
        self._others: int | None = None

    @property
    def path(self) -> Path:
        return self._folder / (self._name or "")

    @property
    def keeps(self) -> bool:
        return self._sink is not None and self._sink.resumable

    @property
    def slow(self) -> bool:
        return self._ledger is not None or self._settings.fsync

    def prepare(self) -> bool:
        """See `Destination.prepare`."""
        if self._name is None or self._sink is not None:
            return True
        waits = self._lock is not None and self._lock.waits
        if not waits and not journal_path(self.path).exists():
            return True
        return self._acquire()

    def begin(
        self, answer: Answer, held: Spans, hold: Callable[[], int], *, resumable: bool
    ) -> Sink:
        """See `Destination.begin`.

        Raises:
            BusyError, ResumeError: see there.
            DestinationError, DiskFullError: the file cannot be made.
        """
        if self._name is None:
            self._choose_name(answer)
        with disk_errors(self.path):
            self._make_folder(answer.identity.total or 0)
            sink = self._sink or self._open_sink(answer)
            sink.begin(
                Subject(self._key, answer.identity, boot_id()),
                held,
                min_free=self._settings.min_free,
                resumable=resumable and answer.ranged,
                hold=hold,
            )
        return sink

    def readable(self) -> ReadBack | None:
        """See `Destination.readable`."""
        if self._sink is not None:
            return _reading(self._sink.fd)
        if self._others is None and self.path.is_file():
            # What another run has published is read from where it stands.
            self._others = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return _reading(self._others) if self._others is not None else None

    def publish(self, size: int) -> None:
        """See `Destination.publish`."""
        assert self._sink is not None
        with disk_errors(self.path):
            self._sink.publish(size, fsync=self._settings.fsync)
        self._sink = self._ledger = None

    def keep(self) -> None:
        """See `Destination.keep`."""
        if self._sink is not None:
            self._sink.keep()
        if self._lock is not None:
            self._lock.leave()
        if self._others is not None:
            os.close(self._others)
        self._sink = self._ledger = self._lock = self._others = None

    def discard(self) -> None:
        """See `Destination.discard`."""
        if self._sink is not None:
            self._sink.discard()
        self._sink = self._ledger = None

    def flush(self) -> None:
        """See `Destination.flush`."""
        if self._sink is not None:
            self._sink.flush()

    def _acquire(self) -> bool:
        """Take the destination for this run and see what is there; False where another has it."""
        with disk_errors(self.path):
            lock = self._lock = self._lock or DestinationLock(self.path)
            if not lock.take():
                return False
            if lock.published is not None:
                self.finished = self._published_by(lock.published)
                return True if self.finished else self._acquire()
            # From here on it is the sink's.
            ledger, lock.ledger = lock.ledger, None
            if ledger is None:
                return True
            try:
                self._sink = FileSink(self.path, ledger)
            except OSError:
                (ledger.close if ledger.journal.written else ledger.remove)()
                raise
            self._ledger = ledger
        subject = ledger.journal.subject
        if subject is not None and subject.key == self._key and self._settings.resume:
            self.held = self._sink.trusted()
            self.expected = subject.identity if self.held else None
        return True

    def _published_by(self, journal: Journal) -> Identity | None:
        """The version that the run of `journal` has published, if it is there."""
        subject = journal.subject
        if subject is None or subject.key != self._key:
            return None
        there = self.path.exists() and self.path.stat().st_size == subject.identity.total
        return subject.identity if there else None

    def _open_sink(self, answer: Answer) -> FileSink:
        total = answer.identity.total
        if total is not None and total <= SMALL:
            self._sink = FileSink(self.path, None)
        elif not self._acquire():
            raise BusyError
        elif self.held or self.finished is not None:
            raise ResumeError
        if self._sink is None:  # locks do not work here
            self._sink = FileSink(self.path, None)
        return self._sink

    def _make_folder(self, needed: int) -> None:
        """Make the folder unless it is there, or there is no room for what goes into it."""
        if self._folder.is_dir():
            return
        check_room(self.path, needed, self._settings.min_free)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None

    def _choose_name(self, answer: Answer) -> None:
        name = name_from_service(self._options.name)
        if name is None and answer.name:
            name = name_from_disposition(answer.name)
        name = name or name_from_url(self._options.url)
        if name is None:
            raise DestinationError(
                str(self._folder),
                "is a folder and neither the URL nor the server names a file",
                hint="give a file name",
                code=errno.EISDIR,
            )
        path = self._folder / name
        self._options.paths.take(path)
        check_overwrite(path, kind_of(path), self._settings)
        self._name = name
        self.label = str(self.path)


def _reading(fd: int) -> ReadBack:
    return lambda pos, buffer: os.preadv(fd, [buffer], pos)


def check_overwrite(path: Path, kind: int, settings: Settings) -> None:
    if kind and not stat.S_ISREG(kind):
        raise DestinationError(str(path), "is no regular file, folder or FIFO", code=errno.EINVAL)
    if kind and not settings.force:
        raise DestinationError(
            str(path), "already exists", hint="use -f to overwrite it", code=errno.EEXIST
        )


def kind_of(path: Path) -> int:
    """The mode of what stands at `path` (through links), 0 for nothing."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise disk_error(error, path) from error
