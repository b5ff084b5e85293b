"""A folder that gets an archive's members: all of them, or none.

Four things of a run are on disk while it works; their names come from `Staging`:

    journal         which bytes of the archive have landed (`Ledger`); also the lock
    staged folder   the members, complete or not
    layout          headers and padding, to know which bytes are whose
    spool           bytes of a zip that are not content yet

A later run needs all of them, and finds one of these states:

    the journal has `m`    moving had begun: finish it (`_finish_moving`), or, if it may not be
                           believed, go on with what is staged
    it has bytes           `_restore`: parse the layout, compare the staged files, fetch the rest
    neither                start over: clear everything

Nothing is flushed on the way, so after a power cut an extraction starts over: a million small files
cannot be flushed in reasonable time.

The order at the end is what makes "all or nothing" true. `m` is noted before the first rename, `p`
after the last one, and the journal, which is the lock too, goes last of all. The next run that gets
the lock therefore finds one of the states above, and never a folder that is half old and half new
without a note that says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from pgetpy.archives.base import ArchiveExtractor
from pgetpy.archives.layout import ArchiveLayout
from pgetpy.archives.sink import ArchiveSink
from pgetpy.archives.spool import Spool
from pgetpy.archives.staging import Staging, check_empty
from pgetpy.core.destinations.journal import Subject
from pgetpy.core.destinations.names import name_from_url
from pgetpy.core.http.answers import Answer, Identity
from pgetpy.core.http.ranges import Span, Spans
from pgetpy.core.http.sink import Sink
from pgetpy.destinations.base import DestinationOptions, ReadBack, ResumableDestination
from pgetpy.destinations.sinks.ledger import Ledger
from pgetpy.errors import ArchiveError, DestinationError
from pgetpy.settings import Settings
from pgetpy.system.file_locks import boot_id
from pgetpy.system.filesystem import check_room, disk_errors, fold_of


class TreeDestination(ResumableDestination):
    """Extracts into `folder`, which need not exist; links on the way to it are resolved already."""

    obstacle = "another run works on this folder"
    blocks = True
    slow = True

    def __init__(self, folder: Path, options: DestinationOptions, settings: Settings) -> None:
        self._staging = Staging(folder)
        # `+x`: a plain download of the same URL to the same name has a journal, too.
        super().__init__(str(folder), f"{options.key}+x", self._staging.anchor, settings)
        self._folder = folder
        self._options = options
        self._sink: ArchiveSink | None = None
        self._layout: ArchiveLayout | None = None
        self._resumable = False
        self._moving = False
        self._check_folder()

    @property
    def path(self) -> Path:
        return self._folder

    @property
    def _extractor(self) -> ArchiveExtractor | None:
        return self._sink.extractor if self._sink is not None else None

    @property
    def keeps(self) -> bool | None:
        extractor = self._extractor
        return extractor.resumable and self._resumable if extractor is not None else None

    @property
    def remark(self) -> str:
        if self._extractor is not None and self._extractor.spooled:
            return f"{self._extractor.spooled}: the zip is stored as a whole before it is extracted"
        return ""

    @property
    def oddities(self) -> tuple[str, ...]:
        return self._sink.remarks if self._sink is not None else ()

    @property
    def members(self) -> tuple[str, ...]:
        return self._sink.members if self._sink is not None else ()

    @property
    def streamed_digest(self) -> str | None:
        return self._sink.streamed_digest if self._sink is not None else None

    def prepare(self) -> bool:
        """See `Destination.prepare`."""
        return self._sink is not None or not self._lock.pending or self._acquire()

    def begin(
        self, answer: Answer, held: Spans, hold: Callable[[], int], *, resumable: bool
    ) -> Sink:
        """See `Destination.begin`.

        Raises:
            BusyError, ResumeError: see there.
            DestinationError, DiskFullError: the folder cannot be made.
        """
        with disk_errors(self._folder):
            total = answer.identity.total or 0
            if self._sink is None or not held:
                self._open_sink(total)
            check_room(self._folder, total - held.size, self._settings.min_free)
            ledger = self._lock.ledger
            self._resumable = resumable and answer.ranged and ledger is not None
            if ledger is not None and self._resumable:
                ledger.begin(Subject(self._key, answer.identity, boot_id()), held)
        assert self._sink is not None
        self._sink.total = answer.identity.total if answer.ranged else None
        self._sink.delimited = answer.delimited or self.new_digest is not None
        return self._sink

    def readable(self) -> ReadBack | None:
        """See `Destination.readable`."""
        extractor = self._extractor
        return extractor.read if extractor is not None and extractor.resumable else None

    def tidy(self, busy: Iterable[Span]) -> None:
        """See `Destination.tidy`."""
        if self._sink is not None:
            with disk_errors(self._folder):
                self._sink.tidy(busy)

    def settle(self, size: int) -> None:
        """See `Destination.settle`.

        Raises:
            ArchiveError: what arrived is not a whole archive.
        """
        if self._sink is not None:
            with disk_errors(self._folder):
                self._sink.finish(size)

    def halt(self) -> None:
        """See `Destination.halt`."""
        if self._extractor is not None:
            self._extractor.halt()

    def publish(self, size: int) -> None:
        """See `Destination.publish`."""
        assert self._sink is not None
        with disk_errors(self._folder):
            self._sink.close()
            self._staging.check(self._sink.passages())
            # From here on the staged folder is no longer complete by itself: keep it whatever
            # happens, so that a later run can finish the move.
            self._moving = True
            if self._lock.ledger is not None:
                self._lock.ledger.note_moving()
            self._staging.publish()
            self._withdraw()

    def keep(self) -> None:
        """See `Destination.keep`."""
        if self._layout is not None and self._sink is not None:
            self._sink.close()
            if not self._moving and not (self.keeps and self._sink.sound):
                return self.discard()
            self._layout.close()
            self._layout = None
        self._lock.leave()
        return None

    def discard(self) -> None:
        """See `Destination.discard`."""
        if self._sink is not None:
            self._sink.close()
        if self._layout is not None:
            self._remove_staged()
        self._lock.leave(remove=True)

    def _check_folder(self) -> None:
        """Raise DestinationError where the folder may not be written to."""
        with disk_errors(self._folder):
            if os.path.lexists(self._folder) and not self._folder.is_dir():
                raise DestinationError(
                    self.label, "is not a folder", hint="choose another", code=errno.ENOTDIR
                )
            if not self._settings.force:
                check_empty(self._folder)

    def _take_over(self, ledger: Ledger) -> None:
        (self._finish_moving if ledger.journal.moving else self._restore)(ledger)

    def _has_published(self, identity: Identity) -> bool:
        # With a checksum wanted, the members of another run cannot prove the archive's digest.
        return self._folder.is_dir() and not self._options.verified

    def _finish_moving(self, ledger: Ledger) -> None:
        """Finish what an earlier run began: it was killed while it moved the members.

        If its work cannot be believed (a reboot, a checksum of which nothing is known here), what
        is staged is restored like any other unfinished extraction, or thrown away.
        """
        journal = ledger.journal
        subject = self._own_subject(journal)
        # After a power cut staged members may have a name and no content.
        certain = journal.subject is not None and journal.subject.boot == boot_id() != ""
        staged = self._staging.ready
        there = certain and (journal.published or staged or self._staging.appeared)
        # A digest of the archive cannot be made of members that have been moved.
        if there and not (subject is not None and self._options.verified):
            if staged:
                self._staging.check(())
                self._staging.publish()
            self._withdraw()
            if subject is not None:
                self.finished = subject.identity
                return
        else:
            # What is staged will change from here on: withdraw the `m` first.
            held = journal.trusted(boot_id())
            ledger.forget()
            if subject is not None:
                ledger.begin(subject, held)
                self._restore(ledger)
                return
        if not self._settings.force:
            check_empty(self._folder)

    def _withdraw(self) -> None:
        """The members are in their places: remove everything else of ours, the lock at the end."""
        if self._settings.fsync:
            self._staging.sync()
        if self._lock.ledger is not None:
            self._lock.ledger.note_published()
        self._remove_staged()
        self._lock.leave(remove=True)
        self._staging.seal()

    def _restore(self, ledger: Ledger) -> None:
        """Take over what an earlier run staged, if it is of the same object.

        What cannot be explained is an ArchiveError of the restoring, and means to start over.
        """
        subject = self._own_subject(ledger.journal)
        held = ledger.journal.trusted(boot_id())
        if subject is None or not held or not self._settings.resume:
            return
        try:
            self._sink = self._make_sink()
            self.held = self._sink.restore(held, subject.identity.total)
        except ArchiveError:
            self.held = Spans()
        if self.held:
            self.expected = subject.identity
        elif self._sink is not None:
            self._sink.close()
            self._sink = None

    def _open_sink(self, total: int) -> None:
        """Open a sink for an archive of `total` bytes, and clear whatever is staged."""
        if self._sink is not None:
            self._sink.close()
        elif self._lock.ledger is None:
            self._make_folder(self._staging.anchor.parent, total)
            self._acquire_fresh()
        if self._lock.ledger is not None:
            self._lock.ledger.forget()
        elif self._sink is None:
            self._staging.make_private()
        self._staging.clear()
        self._open_layout().forget()
        self._sink = self._make_sink()

    def _open_layout(self) -> ArchiveLayout:
        if self._layout is None:
            spool, indexed = Spool(self._staging.spool), self.new_digest is not None
            self._layout = ArchiveLayout(self._staging.layout, spool, indexed=indexed)
        return self._layout

    def _make_sink(self) -> ArchiveSink:
        """Return a sink over the staged folder, which is made if need be."""
        self._staging.make()
        return ArchiveSink(
            self._staging.root,
            self._open_layout(),
            self._options.name or name_from_url(self._options.url) or "data",
            limits=self._settings.limits,
            fold=fold_of(self._staging.root),
            new_digest=self.new_digest,
            fsync=self._settings.fsync,
            noted=self._note,
        )

    def _note(self, start: int, stop: int) -> None:
        """Journal a span whose bytes are where a later run finds them."""
        if self._resumable and self._lock.ledger is not None:
            self._lock.ledger.note_written(start, stop)

    def _remove_staged(self) -> None:
        """Remove everything staged but the journal, which goes last, with the lock."""
        self._staging.clear()
        if self._layout is not None:
            self._layout.close()
            self._layout = None
        for path in (self._staging.layout, self._staging.spool):
            path.unlink(missing_ok=True)
