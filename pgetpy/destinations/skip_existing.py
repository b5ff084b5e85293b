"""Jobs that are done without a request, because the file is there already.

Before a job is handed to the engine, `settle` asks two questions:

    the manifest's journal   did an earlier run finish this line, and is the file unchanged?
    the file itself          does it match the checksum, or is skip_existing set?

One case is found only afterwards. If the server names the file, a file in the way is noticed by the
engine, as a failure. `Renumbering` and `HoldingBack` keep that event back, and `reconsider` asks
the second question again, now with the name: the failure may turn into a skip.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgetpy.core.lazy_dataclass import replace
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import Event, Failed, Finished, Queued, Report, Verifying
from pgetpy.core.report.results import DownloadFailure, DownloadResult
from pgetpy.errors import DestinationError
from pgetpy.errors.redact import redact
from pgetpy.settings import Settings
from pgetpy.sources.table import parse_reference
from pgetpy.system.event_loop import wait_uncancelled
from pgetpy.system.filesystem import disk_errors
from pgetpy.system.threads import WORKERS

if TYPE_CHECKING:
    from pgetpy.destinations.manifest_journal import ManifestJournal


async def settle(
    number: int, job: Job, settings: Settings, journal: ManifestJournal, report: Report
) -> DownloadResult | DownloadFailure | None:
    """Return the outcome of a job that needs no request, or may make none; None to fetch it.

    Args:
        number: the job's place in the call.
        job: what is wanted, and where it goes.
        settings: of the call.
        journal: of the manifest.
        report: gets the job's `Finished` or `Failed`.
    """
    from pgetpy.destinations.existing import skipped

    found: DownloadResult | None = None
    try:
        noted = journal.finished(number)
        if noted is not None and journal.is_certain(noted):
            journal.tidy(noted)
            digest = str(job.checksum) if job.checksum else None
            found = skipped(job, _label(job, noted.path), noted.size, digest)
        elif noted is not None:
            with disk_errors(Path(noted.path)):
                journal.forget(noted)
        if found is None:
            found = await find_existing(job, settings, number, report)
    except DestinationError as error:
        report(Failed(number, redact(job.url), job.dest or "", error))
        return DownloadFailure(redact(job.url), job.dest or "", error)
    if found is not None:
        report(Finished(number, found))
    return found


def _label(job: Job, path: str) -> str:
    """Return the name by which results call the file at `path`, as if it had been fetched."""
    dest = job.dest or ""
    folder = not job.extract and (dest.endswith("/") or os.path.isdir(dest))
    return str(Path(dest) / os.path.basename(path)) if folder else str(Path(dest))


async def reconsider(
    number: int,
    job: Job,
    outcome: DownloadResult | DownloadFailure,
    settings: Settings,
    hear: Renumbering,
) -> DownloadResult | DownloadFailure:
    """Return the outcome of a job that failed on an existing file that only the server could name.

    Jobs with any other `outcome` keep it. The event that was held back is reported either way.
    """
    event = hear.held_back.pop(number, None)
    if event is None:
        return outcome
    error = event.error
    assert isinstance(error, DestinationError)
    found = None
    with contextlib.suppress(DestinationError):
        found = await find_existing(replace(job, dest=error.dest), settings, number, hear.report)
    hear.report(event if found is None else Finished(number, found))
    return outcome if found is None else found


async def find_existing(
    job: Job, settings: Settings, number: int, report: Report
) -> DownloadResult | None:
    """Call `result_of_existing` in a thread, since it may read large files.

    The policy is asked before that: a reference that is refused learns nothing about the disk.
    """
    if job.checksum is None and not settings.skip_existing:
        return None
    if settings.policy is not None:
        reference = job.reference or parse_reference(job.url, settings=settings.sources)
        settings.policy.check_reference(reference)
    from pgetpy.destinations.existing import result_of_existing

    loop, stopped = asyncio.get_running_loop(), threading.Event()

    def hashed(done: int, total: int) -> None:
        if stopped.is_set():
            raise InterruptedError
        event = Verifying(number, job.dest or "", done, total)
        loop.call_soon_threadsafe(report, event)

    work = WORKERS.submit(lambda: result_of_existing(job, settings, hashed), long=True)
    return await wait_uncancelled(work, stopped.set)


class HoldingBack:
    """Passes events on, but holds back failures because of an existing file: see the module."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._held: list[Event] = []

    def __call__(self, event: Event) -> None:
        (self._held.append if _says_exists(event) else self._report)(event)

    def release(self) -> None:
        for event in self._held:
            self._report(event)


class Renumbering:
    """Passes events on under the jobs' numbers in the call, and notes what is finished.

    The engine numbers the jobs that it was handed; some of the call were settled before.

    Attributes:
        report: gets the events.
        held_back: failures because of an existing file, by number, for `reconsider`.
    """

    def __init__(self, numbers: Sequence[int], journal: ManifestJournal, report: Report) -> None:
        self.report = report
        self.held_back: dict[int, Failed] = {}
        self._numbers = numbers
        self._journal = journal

    def __call__(self, event: Event) -> None:
        if isinstance(event, Queued):
            return
        number = self._numbers[event.key]
        event = event if number == event.key else replace(event, key=number)
        if isinstance(event, Finished):
            self._journal.note_finished(number, event.result)
        if isinstance(event, Failed) and _says_exists(event):
            self.held_back[number] = event
        else:
            self.report(event)


def _says_exists(event: Event) -> bool:
    error = event.error if isinstance(event, Failed) else None
    return isinstance(error, DestinationError) and error.errno == errno.EEXIST
