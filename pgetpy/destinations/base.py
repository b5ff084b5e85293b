"""What all destinations have in common, and how runs that share one wait for each other.

Two runs may be given one destination at the same time: two replicas that start on one volume, or a
retry beside a run that still hangs. One of them works and the others wait. When it is their turn,
they find one of four things (`DestinationLock.take` and `_acquire`):

    the other has published this object    nothing to do: `finished`
    it has published something else        begin anew, with a new journal
    it was killed or has failed            continue from what it left: `held`
    it left nothing that can be used       begin at 0

A transfer asks for the lock as late as possible. If `prepare` sees no journal, it takes none, and
`begin` takes it between the head and the body of the first answer. If it then turns out that
another run was faster, `BusyError` and `ResumeError` send the transfer back to `prepare`.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pgetpy.core.destinations.journal import Journal, Subject
from pgetpy.core.destinations.names import journal_name
from pgetpy.core.http.answers import Answer, Identity
from pgetpy.core.http.ranges import Span, Spans
from pgetpy.core.http.sink import Sink
from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.core.references.jobs import Job
from pgetpy.destinations.sinks.ledger import Ledger
from pgetpy.settings import Settings
from pgetpy.system.file_locks import locks_exclude
from pgetpy.system.filesystem import ReservedPaths, check_room, disk_errors

if TYPE_CHECKING:
    from pgetpy.core.references.checksums import Digest

# Reads into a buffer from a position on; returns how many bytes.
ReadBack = Callable[[int, memoryview], int]


class DestinationLock:
    """The ledger at `anchor`, taken for this run or waited for.

    Attributes:
        ledger: None before it is ours, and if locks do not work here. Then every run has a part
            file of its own, and the last rename wins.
        published: the journal of the run that was waited for, if that has published.
    """

    def __init__(self, anchor: str | Path) -> None:
        self.ledger: Ledger | None = None
        self.published: Journal | None = None
        self._anchor = anchor
        self._awaited: Ledger | None = None

    @property
    def pending(self) -> bool:
        """Whether another run holds the lock, or has left a journal."""
        folder, name = os.path.split(self._anchor)
        journal = os.path.join(folder, journal_name(name))
        return self._awaited is not None or os.access(journal, os.F_OK)

    def take(self) -> bool:
        """Take the lock; False if another run holds it. Call again to wait.

        The loop is for journals without a name: their run is over, so the next journal is opened.
        """
        self.published = None
        while self.published is None:
            anchor = Path(self._anchor)
            if self._awaited is None and not locks_exclude(anchor.parent):
                break
            ledger = self._awaited = self._awaited or Ledger(anchor)
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
        """Release the lock, or stop waiting for it; `remove` deletes the journal as well."""
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
        label: what results and errors call it.
        held: the bytes that an earlier run left.
        expected: the version of the object to which those belong.
        new_digest: makes what takes the bytes as they pass, if they have to be verified. To be set
            before `prepare`.
        finished: the version that another run has published here while this one waited.
        obstacle: what `prepare` waits for, a clause.
        passes_on: whether what is written cannot be taken back.
        blocks: whether a write may wait for long, for a reader or a decoder.
    """

    obstacle: ClassVar[str]
    blocks: ClassVar[bool]
    passes_on: ClassVar[bool] = False

    label: str
    held: Spans = field(default_factory=Spans, init=False)
    expected: Identity | None = field(default=None, init=False)
    finished: Identity | None = field(default=None, init=False)
    new_digest: Callable[[], Digest] | None = field(default=None, init=False)

    @property
    def keeps(self) -> bool | None:
        """Whether a later run could continue from what is written; None for not known yet."""
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
        """Look for what an earlier run left; False if it has to be called again, see `obstacle`."""

    @abstractmethod
    def begin(
        self, answer: Answer, held: Spans, hold: Callable[[], int], *, resumable: bool
    ) -> Sink:
        """Return the sink for the object whose first answer was believed.

        Args:
            answer: the head of that answer, as it was judged.
            held: the bytes that need not be fetched.
            hold: returns the first byte that will still be read back, by a digest.
            resumable: whether a later run may continue from what this one writes.

        Raises:
            BusyError, ResumeError: another run was faster; call `prepare` again.
        """

    @property
    def streamed_digest(self) -> str | None:
        """The hex digest of what has been written, where that cannot be read back."""
        return None

    def readable(self) -> ReadBack | None:
        """Return what reads the bytes back, None where there is nothing yet."""
        return None

    def tidy(self, busy: Iterable[Span]) -> None:  # noqa: B027  most have nothing to do
        """Finish what is complete; `busy` are the spans that are being written to."""

    def settle(self, size: int) -> None:  # noqa: B027
        """All `size` bytes have come: wait for work in the background. Called in a thread."""

    def halt(self) -> None:  # noqa: B027
        """Have a `settle` that waits in another thread give up."""

    @abstractmethod
    def publish(self, size: int) -> None:
        """The object is whole and verified: give it its name."""

    @abstractmethod
    def keep(self) -> None:
        """Close it; leave what the next run can use."""

    def discard(self) -> None:  # noqa: B027
        """Throw away what has been written: another version, or damaged."""

    def flush(self) -> None:  # noqa: B027
        """Flush what has been written to stable storage, for a run after a power cut."""


class ResumableDestination(Destination):
    """A destination with a journal: runs wait for each other and continue each other's work.

    Args:
        label: what results and errors call it.
        key: a hash of the object's URL. A journal about another object is not used.
        anchor: the path from which the journal's name is made.
        settings: whether to resume, to flush, how much room to leave.
    """

    def __init__(self, label: str, key: str, anchor: str | Path, settings: Settings) -> None:
        super().__init__(label)
        self._key = key
        self._settings = settings
        self._lock = DestinationLock(anchor)

    @abstractmethod
    def _has_published(self, identity: Identity) -> bool:
        """Whether what another run has published is here and is all that this one wants."""

    @abstractmethod
    def _take_over(self, ledger: Ledger) -> None:
        """The lock is ours: see what an earlier run left. Sets `held` and `expected`."""

    def _own_subject(self, journal: Journal) -> Subject | None:
        """Return what `journal` is about, if that is our object."""
        subject = journal.subject
        return subject if subject is not None and subject.key == self._key else None

    def _make_folder(self, folder: Path, needed: int) -> None:
        """Make `folder`, checking first that there is room for `needed` bytes in it."""
        if os.path.isdir(folder):
            return
        check_room(self.path, needed, self._settings.min_free)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None

    def _acquire(self) -> bool:
        """Take the lock and see what is there; False if another run holds it."""
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
        """Take the lock although `prepare` saw no journal, so that nothing should be here.

        Raises:
            BusyError, ResumeError: another run has begun since, or even ended.
        """
        if not self._acquire():
            raise BusyError
        if self.held or self.finished is not None:
            raise ResumeError


@dataclass(frozen=True)
class DestinationOptions:
    """What a transfer wants of its destination.

    Attributes:
        url: of the object; names the file where nothing else does.
        key: a hash of the URL without user, password and signature.
        verified: whether the caller gave a checksum.
        extract: whether the object is an archive to be extracted.
        name: the file's name by its service; empty for none.
        paths: the destinations of the call, so that no two of its files go to one.
        claimed: whether the caller keeps other runs away from the destination.
    """

    url: str
    key: str
    verified: bool
    paths: ReservedPaths
    extract: bool = False
    name: str = ""
    claimed: bool = False

    @classmethod
    def of(cls, job: Job, key: str, paths: ReservedPaths) -> DestinationOptions:
        """Return what `job` asks of its destination."""
        verified = job.checksum is not None
        return cls(job.url, key, verified, paths, job.extract, job.name, job.claimed)
