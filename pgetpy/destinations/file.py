"""A file, which appears by rename; its part file and journal are beside it until then.

The name may be known only when a server has answered (`model/` as a destination): then `begin`
chooses it, and everything that `prepare` does for known names is done there.

Objects up to `SMALL` have neither journal nor lock. They come in one answer, and a journal for each
of thousands would cost more than fetching one of them again. The same holds up to `MODERATE` where
the caller keeps other runs away: for minutes after files were deleted, ext4 takes up to a
millisecond to make one.

What is at the path decides how the file gets there:

    nothing, a file      a part file beside it, then a rename
    a file that cannot be renamed over (a mount)    written in place from the complete part file
    a FIFO or device     not this module: `stream`, which can neither resume nor start over
    a folder             an error, unless a name inside it was meant
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from pgetpy.core.destinations.journal import Subject
from pgetpy.core.destinations.names import (
    name_from_disposition,
    name_from_service,
    name_from_url,
)
from pgetpy.core.http.answers import Answer, Identity
from pgetpy.core.http.ranges import Spans
from pgetpy.core.http.sink import Sink
from pgetpy.destinations.base import (
    DestinationLock,
    DestinationOptions,
    ReadBack,
    ResumableDestination,
)
from pgetpy.destinations.sinks.file import FileSink
from pgetpy.destinations.sinks.ledger import Ledger
from pgetpy.errors import DestinationError
from pgetpy.settings import Settings
from pgetpy.system.file_locks import boot_id
from pgetpy.system.filesystem import disk_error, disk_errors

# Objects up to this size come in one answer; resuming one would save nothing.
SMALL = 1 << 20
# The same, for the files of a folder that no other run works on.
MODERATE = 8 << 20


class FileDestination(ResumableDestination):
    """A file at `folder / name`; a `name` of None is chosen by the URL or the server.

    Thousands of small files are made one after the other, so paths are strings here.

    Args:
        absent: whether nothing is at the path.
    """

    obstacle = "another run works on this file"
    blocks = False

    def __init__(
        self,
        folder: str,
        name: str | None,
        options: DestinationOptions,
        settings: Settings,
        *,
        absent: bool = False,
    ) -> None:
        self._path = os.path.join(folder, name or "")
        label = self._path if name else f"{folder}/"
        super().__init__(label, options.key, self._path, settings)
        self._folder = folder
        self._name = name
        self._options = options
        self._sink: FileSink | None = None
        self._others: int | None = None
        self._absent = absent

    @property
    def path(self) -> Path:
        return Path(self._path)

    @property
    def keeps(self) -> bool:
        return self._sink is not None and self._sink.resumable

    @property
    def slow(self) -> bool:
        # Small files without a ledger are published on the loop: a thread would cost more.
        has_ledger = self._sink is not None and self._sink.ledger is not None
        return has_ledger or self._settings.fsync

    def prepare(self) -> bool:
        """See `Destination.prepare`."""
        begun = self._name is None or self._sink is not None
        return begun or not self._lock.pending or self._acquire()

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
        with disk_errors(self._path):
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
        if self._others is None and os.path.isfile(self._path):
            # Another run has published it: read that, to verify it.
            self._others = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return _reading(self._others) if self._others is not None else None

    def publish(self, size: int) -> None:
        """See `Destination.publish`."""
        assert self._sink is not None
        with disk_errors(self._path):
            self._sink.publish(size, fsync=self._settings.fsync)
        self._sink = None

    def keep(self) -> None:
        """See `Destination.keep`."""
        if self._sink is not None:
            self._sink.keep()
        self._lock.leave()
        if self._others is not None:
            os.close(self._others)
        self._sink = self._others = None

    def discard(self) -> None:
        """See `Destination.discard`."""
        if self._sink is not None:
            self._sink.discard()
        self._sink = None

    def flush(self) -> None:
        """See `Destination.flush`."""
        if self._sink is not None:
            self._sink.flush()

    def _take_over(self, ledger: Ledger) -> None:
        """Open the part file with its journal, which the sink closes or removes from now on."""
        self._lock.ledger = None  # from here on it is the sink's
        try:
            self._sink = FileSink(self._path, ledger)
        except OSError:
            (ledger.close if ledger.journal.written else ledger.remove)()
            raise
        subject = self._own_subject(ledger.journal)
        if subject is not None and self._settings.resume:
            self.held = self._sink.load_held()
            self.expected = subject.identity if self.held else None

    def _has_published(self, identity: Identity) -> bool:
        return self.path.exists() and self.path.stat().st_size == identity.total

    def _open_sink(self, answer: Answer) -> FileSink:
        """Take the lock if the object is large enough for one, and open the part file."""
        total = answer.identity.total
        if total is None or total > (MODERATE if self._options.claimed else SMALL):
            self._make_folder(Path(self._folder), total or 0)
            self._acquire_fresh()
        if self._sink is None:  # it is small, or locks do not work here
            try:
                self._sink = FileSink(self._path, None, absent=self._absent)
            except (FileNotFoundError, NotADirectoryError):
                self._make_folder(Path(self._folder), total or 0)
                self._sink = FileSink(self._path, None, absent=self._absent)
        return self._sink

    def _choose_name(self, answer: Answer) -> None:
        """Name the file: by its service, else by Content-Disposition, else by the URL.

        The name may be another file's destination, or taken on disk. Both are checked here, since
        nothing could be checked before the answer.
        """
        name = name_from_service(self._options.name)
        if name is None and answer.name:
            name = name_from_disposition(answer.name)
        name = name or name_from_url(self._options.url)
        if name is None:
            raise DestinationError(
                self._folder,
                "is a folder, and neither the URL nor the server gives a file name",
                hint="give a file name",
                code=errno.EISDIR,
            )
        path = os.path.join(self._folder, name)
        self._options.paths.take(path)
        check_overwrite(path, look_at(path)[0], self._settings)
        self._name = name
        self._path = self.label = path
        self._lock = DestinationLock(path)


def _reading(fd: int) -> ReadBack:
    return lambda pos, buffer: os.preadv(fd, [buffer], pos)


def check_overwrite(path: str | Path, kind: int, settings: Settings) -> None:
    """Raise DestinationError if what is at `path`, of mode `kind`, may not be replaced."""
    if kind and not stat.S_ISREG(kind):
        raise DestinationError(
            str(path), "is not a regular file, folder or FIFO", code=errno.EINVAL
        )
    if kind and not settings.force:
        raise DestinationError(
            str(path), "already exists", hint="use -f to overwrite it", code=errno.EEXIST
        )


def look_at(path: str | Path) -> tuple[int, bool]:
    """Return the mode of what is at `path` (through links), 0 for nothing, and whether the path
    itself is a link."""
    is_link = False
    try:
        mode = os.lstat(path).st_mode
        if is_link := stat.S_ISLNK(mode):
            mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0, is_link
    except OSError as error:
        raise disk_error(error, path) from error
    return mode, is_link
