"""What every destination is: where one transfer ends up, and what an earlier run left there."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pgetpy.core.destinations.journal import Journal, Subject
from pgetpy.core.destinations.names import journal_path
from pgetpy.core.http.answers import Answer, Identity
from pgetpy.core.http.ranges import Span, Spans
from pgetpy.core.http.sink import Sink
from pgetpy.destinations.sinks.ledger import Ledger
from pgetpy.settings import Settings
from pgetpy.system.file_locks import locks_exclude
from pgetpy.system.filesystem import ReservedPaths, check_room, disk_errors

# Reads into a buffer from a position on: the bytes read.
ReadBack = Callable[[int, memoryview], int]


class DestinationLock:
    """The ledger at `anchor`, taken for this run or waited for.

    Attributes:
        ledger: once it is ours; None where locks exclude nobody.
        published: the journal of the run that was waited for, if that has published.
    """

    def __init__(self, anchor: Path) -> None:
        self.ledger: Ledger | None = None
        self.published: Journal | None = None
        self._anchor = anchor
        self._awaited: Ledger | None = None

    @property
    def pending(self) -> bool:
        """Whether another run was found to hold it, or has left something."""
        return self._awaited is not None or journal_path(self._anchor).exists()

    def take(self) -> bool:
        """Take it; False where another run holds it, for which it waits."""
        self.published = None
        while self.published is None:
            if self._awaited is None and not locks_exclude(self._anchor.parent):
                break
            ledger = self._awaited = self._awaited or Ledger(self._anchor)
            if not ledger.acquire():
                return False
            self._awaited = None
            if not ledger.orphaned:
                self.ledger = ledger
                break
            self.published = ledger.journal if ledger.journal.published else None
            ledger.close()
        return True

    def leave(self, *, remove: bool = False) -> None:
        """Give it up, and wait no more; `remove` takes the journal away."""
        ledger, self.ledger = self.ledger, None
        if ledger is not None:
            (ledger.remove if remove else ledger.close)()
        if self._awaited is not None:
            self._awaited.close()
            self._awaited = None


class BusyError(Exception):
    """Another run works on this destination."""


class ResumeError(Exception):
    """An earlier run left something at this destination that was not known before: begin there."""


@dataclass(eq=False)
class Destination(ABC):
    """One transfer's end. `begin` is called from any thread, the rest from the engine.

    Attributes:
        label: what to call it.
        held: what an earlier run left, `expected` the version that it is of.
        finished: the version that another run has published here while this one waited.
        obstacle: what `prepare` waits for, a clause.
        blocks: whether who writes may have to wait for a reader.
    """

    obstacle: ClassVar[str]
    blocks: ClassVar[bool]

    label: str
    held: Spans = field(default_factory=Spans, init=False)
    expected: Identity | None = field(default=None, init=False)
    finished: Identity | None = field(default=None, init=False)

    @property
    def keeps(self) -> bool | None:
        """Whether a later run could go on from what is written; None for not known yet."""
        return False

    @property
    def remark(self) -> str:
        """What should be known of how it is done, a clause; empty for nothing."""
        return ""

    @property
    def oddities(self) -> tuple[str, ...]:
        """What is odd about what came and was taken all the same, clauses; see `settle`."""
        return ()

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the members that have been extracted."""
        return ()

    @property
    def slow(self) -> bool:
        """Whether publishing may take its time."""
        return False

    @property
    @abstractmethod
    def path(self) -> Path:
        """The path to name in an error."""

    @abstractmethod
    def prepare(self) -> bool:
        """Look for what an earlier run left; False where it has to wait, see `obstacle`."""

    @abstractmethod
    def begin(
        self, answer: Answer, held: Spans, hold: Callable[[], int], *, resumable: bool
    ) -> Sink:
        """Return the sink for the object that `answer` began, of which `held` is there.

        `hold` gives the first byte that will still be read back.
        """

    @property
    def streamed_digest(self) -> str | None:
        """The hex digest of what has been written, where that cannot be read back."""
        return None

    def readable(self) -> ReadBack | None:
        """Return what reads the bytes back, None where there is nothing yet."""
        return None

    def tidy(self, busy: Iterable[Span]) -> None:  # noqa: B027  most have nothing to do
        """Finish what is whole; of what follows nobody writes but to `busy` spans."""

    def settle(self, size: int) -> None:  # noqa: B027
        """All `size` bytes have come: wait for what is done behind them. Called in a thread."""

    def halt(self) -> None:  # noqa: B027
        """Wake a `settle` that is not wanted any more."""

    @abstractmethod
    def publish(self, size: int) -> None:
        """The object is whole and verified: give it its name."""

    @abstractmethod
    def keep(self) -> None:
        """Close it; leave what the next run can use."""

    def discard(self) -> None:  # noqa: B027
        """What has been written is worthless."""

    def flush(self) -> None:  # noqa: B027
        """Bring what has been written to stable storage."""


class ResumableDestination(Destination):
    """One with a journal, by which runs wait for one another, and go on from what another left.

    `anchor` is the path by which the journal goes, `key` what it calls the object.
    """

    def __init__(self, label: str, key: str, anchor: Path, settings: Settings) -> None:
        super().__init__(label)
        self._key = key
        self._settings = settings
        self._lock = DestinationLock(anchor)

    @abstractmethod
    def _has_published(self, identity: Identity) -> bool:
        """Whether what another run says that it has published is here, and all that is wanted."""

    @abstractmethod
    def _take_over(self, ledger: Ledger) -> None:
        """It is ours: see what an earlier run left."""

    def _own_subject(self, journal: Journal) -> Subject | None:
        """What `journal` is about, if that is the object that we bring."""
        subject = journal.subject
        return subject if subject is not None and subject.key == self._key else None

    def _make_folder(self, folder: Path, needed: int) -> None:
        """Make `folder` unless it is there, or there is no room for what goes into it."""
        if folder.is_dir():
            return
        check_room(self.path, needed, self._settings.min_free)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None

    def _acquire(self) -> bool:
        """Take the destination for this run and see what is there; False where another has it."""
        with disk_errors(self.path):
            if not self._lock.take():
                return False
            if self._lock.published is not None:
                subject = self._own_subject(self._lock.published)
                if subject is None or not self._has_published(subject.identity):
                    return self._acquire()
                self.finished = subject.identity
            elif self._lock.ledger is not None:
                self._take_over(self._lock.ledger)
        return True

    def _acquire_fresh(self) -> None:
        """Take the destination, in which nothing was seen to stand.

        Raises:
            BusyError, ResumeError: see there.
        """
        if not self._acquire():
            raise BusyError
        if self.held or self.finished is not None:
            raise ResumeError


@dataclass(frozen=True)
class DestinationOptions:
    """What a transfer wants of its destination.

    Attributes:
        url, key: the object, and the hash of what its URL names.
        algorithm: of the digest that will be asked for.
        extract: whether the object is an archive to be extracted.
        name: what a service calls it.
        paths: those of the call.
    """

    url: str
    key: str
    algorithm: str | None
    paths: ReservedPaths
    extract: bool = False
    name: str = ""
