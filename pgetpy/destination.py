"""Where one transfer ends up: a file, a stream, or nowhere; and what an earlier run left there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pgetpy.core.answers import Answer, Identity
from pgetpy.core.journal import Subject
from pgetpy.core.names import name_from_disposition, name_from_url
from pgetpy.core.ranges import Spans
from pgetpy.errors import DestinationError, PgetError
from pgetpy.settings import Settings
from pgetpy.sinks.base import Sink
from pgetpy.sinks.file import FileSink, check_room, disk_error
from pgetpy.sinks.ledger import Ledger, boot_id, locks_exclude
from pgetpy.sinks.null import NullSink
from pgetpy.sinks.ordered import OrderedSink

# Up to here an object comes in one answer, and going on from half of it would save nothing.
SMALL = 1 << 20


class Claims:
    """The paths that the files of one call go to: one file each."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._lock = threading.Lock()

    def take(self, path: Path) -> None:
        """Claim `path`.

        Raises:
            DestinationError: another file of the call has it.
        """
        real = os.path.realpath(path)
        with self._lock:
            if real in self._taken:
                raise DestinationError(
                    str(path),
                    "is the destination of another file of this call",
                    hint="give each its own name",
                    code=errno.EEXIST,
                )
            self._taken.add(real)


class BusyError(Exception):
    """Another run works on this destination."""


class ResumeError(Exception):
    """An earlier run left something at this destination that was not known before: begin there."""


class Destination(Protocol):
    """One transfer's end. `begin` is called from any thread, the rest from the engine.

    Attributes:
        label: what to call it.
        held: what an earlier run left, `expected` the version that it is of.
        finished: the version that another run has published here while this one waited.
        obstacle: what `prepare` waits for, a clause.
        blocks: whether who writes may have to wait for a reader.
    """

    label: str
    held: Spans
    expected: Identity | None
    finished: Identity | None
    obstacle: str
    blocks: bool

    @property
    def keeps(self) -> bool:
        """Whether a later run could go on from what is written."""

    @property
    def slow(self) -> bool:
        """Whether publishing may take its time."""

    @property
    def path(self) -> Path:
        """The path to name in an error."""

    def prepare(self) -> bool:
        """Look for what an earlier run left; False where it has to wait, see `obstacle`."""

    def begin(
        self, answer: Answer, held: Spans, hold: Callable[[], int], *, resumable: bool
    ) -> Sink:
        """Return the sink for the object that `answer` began, of which `held` is there.

        `hold` gives the first byte that will still be read back.
        """

    @property
    def streamed_digest(self) -> str | None:
        """The hex digest of what has been written, where that cannot be read back."""

    def readable(self) -> int | None:
        """Return the descriptor to read the bytes back from, None where there is none yet."""

    def publish(self, size: int) -> None:
        """The object is whole and verified: give it its name."""

    def keep(self) -> None:
        """Let go; leave what the next run can use."""

    def discard(self) -> None:
        """What has been written is worthless."""

    def flush(self) -> None:
        """Bring what has been written to stable storage."""


@dataclass(frozen=True)
class Wish:
    """What a transfer wants of its destination.

    Attributes:
        url, key: the object, and the hash of what its URL names.
        algorithm: of the digest that will be asked for.
        claims: those of the call.
    """

    url: str
    key: str
    algorithm: str | None
    claims: Claims


def open_destination(dest: str | None, wish: Wish, settings: Settings) -> Destination:
    """Return the destination that `dest` names (see `Job.dest`).

    Raises:
        DestinationError: something stands in the way.
    """
    if dest is None:
        return StreamDestination(None, "(nowhere)", wish.algorithm)
    if dest in ("-", "/dev/stdout"):
        wish.claims.take(Path("/dev/stdout"))
        return StreamDestination(1, "-", wish.algorithm)
    path = Path(dest)
    kind = _kind(path)
    if stat.S_ISCHR(kind):
        return StreamDestination(path, dest, wish.algorithm)
    if stat.S_ISFIFO(kind):
        wish.claims.take(path)
        return StreamDestination(path, dest, wish.algorithm)
    if stat.S_ISDIR(kind) or dest.endswith("/"):
        return FileDestination(path, None, wish, settings)
    wish.claims.take(path)
    _check_overwrite(path, kind, settings)
    # A symbolic link stays; what it points to is replaced.
    resolved = Path(os.path.realpath(path)) if path.is_symlink() else path
    return FileDestination(resolved.parent, resolved.name, wish, settings)


class FileDestination:
    """A file, which appears by rename; its part file and journal stand beside it until then."""

    obstacle = "another run works on this file"
    blocks = False

    def __init__(self, folder: Path, name: str | None, wish: Wish, settings: Settings) -> None:
        self.label = str(folder / name) if name else f"{folder}/"
        self.held = Spans()
        self.expected: Identity | None = None
        self.finished: Identity | None = None
        self._folder = folder
        self._name = name
        self._wish = wish
        self._key = wish.key
        self._settings = settings
        self._ledger: Ledger | None = None
        self._sink: FileSink | None = None
        self._awaited: Ledger | None = None
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
        if self._awaited is None and not Ledger.path_for(self.path).exists():
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
        with self._disk_errors():
            self._make_folder(answer.identity.total or 0)
            sink = self._sink or self._opened(answer)
            sink.begin(
                Subject(self._key, answer.identity, boot_id()),
                held,
                min_free=self._settings.min_free,
                resumable=resumable and answer.ranged,
                hold=hold,
            )
        return sink

    @property
    def streamed_digest(self) -> None:
        return None

    def readable(self) -> int | None:
        """See `Destination.readable`."""
        if self._sink is not None:
            return self._sink.fd
        if self._others is None and self.path.is_file():
            # What another run has published is read from where it stands.
            self._others = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._others

    def publish(self, size: int) -> None:
        """See `Destination.publish`."""
        assert self._sink is not None
        with self._disk_errors():
            self._sink.publish(size, fsync=self._settings.fsync)
        self._sink = self._ledger = None

    def keep(self) -> None:
        """See `Destination.keep`."""
        if self._sink is not None:
            self._sink.keep()
        if self._awaited is not None:
            self._awaited.close()
        if self._others is not None:
            os.close(self._others)
        self._sink = self._ledger = self._awaited = self._others = None

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
        with self._disk_errors():
            if self._awaited is None and not locks_exclude(self._folder):
                return True
            ledger = self._awaited = self._awaited or Ledger(self.path)
            if not ledger.acquire():
                return False
            self._awaited = None
            if ledger.orphaned:
                self.finished = self._published_by(ledger)
                ledger.close()
                return True if self.finished else self._acquire()
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

    def _published_by(self, ledger: Ledger) -> Identity | None:
        """The version that the run which held `ledger` has published, if it is there."""
        subject = ledger.journal.subject
        if subject is None or subject.key != self._key or not ledger.journal.published:
            return None
        there = self.path.exists() and self.path.stat().st_size == subject.identity.total
        return subject.identity if there else None

    def _opened(self, answer: Answer) -> FileSink:
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
        name = name_from_disposition(answer.name) if answer.name else None
        name = name or name_from_url(self._wish.url)
        if name is None:
            raise DestinationError(
                str(self._folder),
                "is a folder and neither the URL nor the server names a file",
                hint="give a file name",
                code=errno.EISDIR,
            )
        path = self._folder / name
        self._wish.claims.take(path)
        _check_overwrite(path, _kind(path), self._settings)
        self._name = name
        self.label = str(self.path)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, PgetError):
                raise
            raise disk_error(error, self.path) from error


class StreamDestination:
    """A stream that takes the bytes in order, or (target None) nothing at all."""

    obstacle = "nobody reads from it yet"
    blocks = True

    def __init__(self, target: Path | int | None, label: str, algorithm: str | None) -> None:
        self.label = label
        self.held = Spans()
        self.expected: Identity | None = None
        self.finished: Identity | None = None
        self._algorithm = algorithm
        self._digest = self._fresh_digest()
        self._target = target
        self._fd = -1
        self._sink: OrderedSink | None = None
        self._version: Identity | None = None

    @property
    def path(self) -> Path:
        return Path(self.label)

    @property
    def keeps(self) -> bool:
        return False

    @property
    def slow(self) -> bool:
        return False

    def prepare(self) -> bool:
        """See `Destination.prepare`."""
        if isinstance(self._target, Path) and self._fd < 0:
            return self._open(self._target)
        return True

    @property
    def streamed_digest(self) -> str | None:
        return self._digest.hexdigest() if self._digest is not None else None

    def readable(self) -> int | None:
        """See `Destination.readable`."""
        return None

    def begin(
        self, answer: Answer, held: Spans, hold: Callable[[], int], *, resumable: bool
    ) -> Sink:
        """See `Destination.begin`.

        Raises:
            DestinationError: what a reader has had cannot be taken back.
        """
        if self._target is None and self._digest is None:
            return NullSink()
        if self._sink is None:
            if self._fd < 0:
                self._fd = self._target if isinstance(self._target, int) else _nowhere()
            self._sink = OrderedSink(self._fd, digest=self._digest)
        elif self._target is None and not held:
            self._digest = self._fresh_digest()
            self._sink = OrderedSink(self._fd, digest=self._digest)
        elif self._sink.front > 0 and not (held or self._is_same(answer)):
            raise DestinationError(
                self.label,
                "has had the beginning of another version already and cannot be started over",
                hint="download to a file",
                code=errno.ESPIPE,
            )
        self._version = answer.identity
        return self._sink

    def _is_same(self, answer: Answer) -> bool:
        """Whether `answer` brings again, from its beginning, what has been written before."""
        known = self._version
        return known is not None and known.strong and known.agrees(answer.identity)

    def publish(self, size: int) -> None:
        """See `Destination.publish`."""
        self._close()

    def keep(self) -> None:
        """See `Destination.keep`."""
        self._close()

    def discard(self) -> None:
        """See `Destination.discard`. What a reader has had cannot be taken back."""

    def flush(self) -> None:
        """See `Destination.flush`."""

    def _open(self, target: Path) -> bool:
        """Open the target; False as long as it is a FIFO that nobody reads."""
        try:
            fd = os.open(target, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENXIO and target.is_fifo():
                return False
            raise disk_error(error, target) from error
        os.set_blocking(fd, True)
        self._fd = fd
        return True

    def _fresh_digest(self) -> hashlib._Hash | None:
        if self._algorithm is None:
            return None
        return hashlib.new(self._algorithm, usedforsecurity=False)

    def _close(self) -> None:
        if self._sink is not None:
            self._sink.stop()
        if self._fd > 2:
            os.close(self._fd)
        self._fd = -1


def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _check_overwrite(path: Path, kind: int, settings: Settings) -> None:
    if kind and not stat.S_ISREG(kind):
        raise DestinationError(str(path), "is no regular file, folder or FIFO", code=errno.EINVAL)
    if kind and not settings.force:
        raise DestinationError(
            str(path), "already exists", hint="use -f to overwrite it", code=errno.EEXIST
        )


def _kind(path: Path) -> int:
    """The mode of what stands at `path` (through links), 0 for nothing."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise disk_error(error, path) from error
