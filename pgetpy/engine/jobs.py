"""Several jobs from beginning to end: folders, what is there already, the manifest's journal.

    jobs --> folders become their files --> done before? --yes--> outcome, without a request
                                                | no
                                                v
                                             engine --> outcome --> journal

A journal of the whole run exists beside that of each file: a run of a thousand files that is killed
continues with the files that are missing, without a request for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import Queued, Report
from pgetpy.core.report.results import DownloadFailure, DownloadResult
from pgetpy.destinations.manifest_journal import ManifestJournal
from pgetpy.destinations.skip_existing import Renumbering, reconsider, settle
from pgetpy.engine.engine import Engine
from pgetpy.errors import PgetError
from pgetpy.settings import Settings
from pgetpy.sources.table import parse_reference


async def run_jobs(
    jobs: Sequence[Job],
    settings: Settings,
    report: Report,
    environ: Mapping[str, str],
    *,
    fail_fast: bool = False,
) -> tuple[DownloadResult | DownloadFailure, ...]:
    """Run several jobs with exactly these settings; folders count as a job for each of their files.

    Nothing is fetched for a file that has the expected checksum already, nor for one that an
    earlier, unfinished run of the same jobs has completed.

    Args:
        jobs: outcomes are in their order, with folders replaced by their files.
        settings: for all of them.
        report: gets the events, under the number of the job.
        environ: says where the user's folder for state is.
        fail_fast: whether the first failure stops the others.

    Raises:
        PgetError: with `fail_fast`, the first failure.
    """
    jobs = await _expand(jobs, settings)
    journal = ManifestJournal(jobs, environ, settings)
    outcomes: dict[int, DownloadResult | DownloadFailure] = {}
    interrupted = True
    try:
        report(Queued(len(jobs)))
        for number, job in enumerate(jobs):
            outcome = await settle(number, job, settings, journal, report)
            if outcome is not None:
                if fail_fast and isinstance(outcome, DownloadFailure):
                    raise outcome.error
                outcomes[number] = outcome
        # The engine numbers only the jobs that are left; events get their old numbers back.
        left = [number for number in range(len(jobs)) if number not in outcomes]
        followed = [journal.followed(jobs[number], number) for number in left]
        hear = Renumbering(left, journal, report)
        async with Engine(settings) as engine:
            found = await engine.download_all(followed, hear, fail_fast=fail_fast)
        for number, outcome in zip(left, found, strict=True):
            outcomes[number] = await reconsider(number, jobs[number], outcome, settings, hear)
        interrupted = False
    # Whatever else ends this, such as a cancellation, leaves `interrupted` True.
    except PgetError:
        interrupted = False
        raise
    finally:
        done = [each for each in outcomes.values() if isinstance(each, DownloadResult)]
        journal.close(finished=len(done) == len(jobs), interrupted=interrupted)
    return tuple(outcomes[number] for number in range(len(jobs)))


async def _expand(jobs: Sequence[Job], settings: Settings) -> Sequence[Job]:
    """Return `jobs` with folders replaced by their files; without a folder no request is made."""
    references = [
        job.reference or parse_reference(job.url, settings=settings.sources) for job in jobs
    ]
    if not any(reference.is_folder for reference in references):
        return jobs
    from pgetpy.engine.folders import expand_folders

    async with Engine(settings) as engine:
        return await expand_folders(jobs, engine, settings)
