"""The calls of the Python interface, each as a coroutine and as a plain function.

Plain functions run on the engine thread (system/event_loop), so they work anywhere, inside a
running loop too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pgetpy.core.destinations.names import check_unicode
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import (
    Event,
    Finished,
    Queued,
    Report,
)
from pgetpy.core.report.results import DownloadFailure, DownloadResult
from pgetpy.destinations.manifest_journal import ManifestJournal
from pgetpy.destinations.skip_existing import (
    HoldingBack,
    Renumbering,
    find_existing,
    reconsider,
    settle,
)
from pgetpy.engine.engine import Engine
from pgetpy.errors import DestinationError, InterruptedTransferError, PgetError
from pgetpy.settings import Settings
from pgetpy.settings.command_options import hub_cache_dir
from pgetpy.settings.folders import expand_user
from pgetpy.sources.table import check_settings
from pgetpy.system.event_loop import plain
from pgetpy.system.filesystem import disk_errors

if TYPE_CHECKING:
    from pgetpy.weights.options import Secret

PathLike = os.PathLike[str]
Chosen = str | Sequence[str] | None


async def download_async(
    url: str,
    dest: str | PathLike,
    *,
    checksum: str | None = None,
    headers: Mapping[str, str] | None = None,
    mirrors: Sequence[str] = (),
    force: bool | None = None,
    settings: Settings | None = None,
    progress: Report | None = None,
) -> DownloadResult:
    """Download `url` to `dest`.

    Args:
        url: an http or https URL; user and password may be in it.
        dest: a file, which appears when it is whole; an existing folder, or a path with a trailing
            slash, takes the file's name from the server or the URL; `-` is standard output.
        checksum: `sha256:HEX` (or sha1, md5, blake2b) that the bytes must have.
        headers: more request headers; other hosts do not see them after a redirect.
        mirrors: URLs of the same bytes, tried in order when `url` fails.
        force: overwrite what stands at `dest`.
        settings: how; by default what the environment (PGET_*) says.
        progress: is called with the events of `pgetpy.core.report.events` in the thread of the
            loop, which it should not hold up. An exception from it ends the call, keeps what
            was received, and is raised to the caller.

    Returns:
        What was done; sizes in bytes, times in seconds.

    Raises:
        UsageError: an argument makes no sense.
        TransferError: the server or the network failed.
        IntegrityError: the bytes are not those that were meant.
        DestinationError, DiskFullError: `dest` cannot be written.
    """
    job = _job(url, dest, checksum, mirrors)
    chosen = _settings(settings, headers, force)
    return await download_job_async(job, settings=chosen, progress=progress)


download = plain(download_async)


async def extract_async(
    url: str,
    folder: str | PathLike,
    *,
    checksum: str | None = None,
    headers: Mapping[str, str] | None = None,
    mirrors: Sequence[str] = (),
    force: bool | None = None,
    settings: Settings | None = None,
    progress: Report | None = None,
) -> DownloadResult:
    """Extract the archive at `url` into `folder` while it arrives.

    Args:
        url: of a zip, of a tar, plain or compressed by gzip, bzip2, xz, zstd, lz4 or LZMA, or of a
            single file compressed by one of these.
        folder: appears when all members are there; an existing one gets them then, which needs
            `force` unless it is empty.
        checksum: of the archive as it is sent.
        force: put the members among what `folder` holds already.
        settings: how; its `limits` are on what comes out.
        headers, mirrors, progress: see `download_async`.

    Returns:
        What was done; `members` are the names of what was written.

    Raises:
        ArchiveError: it is no archive, is damaged or cut off, or one of its members is refused;
            nothing has been written to `folder` then.
        UsageError, TransferError, IntegrityError, DestinationError, DiskFullError: see
            `download_async`.
    """
    job = replace(_job(url, folder, checksum, mirrors), extract=True)
    chosen = _settings(settings, headers, force)
    return await download_job_async(job, settings=chosen, progress=progress)


extract = plain(extract_async)


async def download_many_async(
    files: Iterable[tuple[str, str | PathLike] | Job],
    *,
    fail_fast: bool = False,
    headers: Mapping[str, str] | None = None,
    force: bool | None = None,
    settings: Settings | None = None,
    progress: Report | None = None,
) -> tuple[DownloadResult | DownloadFailure, ...]:
    """Download several files side by side over shared connections.

    Args:
        files: pairs of URL and destination, or `Job`s.
        fail_fast: raise the first failure and stop the rest, instead of going on without it.
        headers, force, settings, progress: see `download_async`.

    Returns:
        What became of each file, in the order of `files`.
    """
    chosen = _settings(settings, headers, force)
    return await download_jobs_async(
        _jobs(files), settings=chosen, progress=progress, fail_fast=fail_fast
    )


download_many = plain(download_many_async)


async def snapshot_async(
    reference: str,
    *,
    allow_patterns: Chosen = None,
    ignore_patterns: Chosen = None,
    hf_api_token: str | Secret | None = None,
    cache_dir: str | PathLike | None = None,
    settings: Settings | None = None,
    progress: Report | None = None,
) -> Path:
    """Bring a repository of the Hugging Face Hub into huggingface_hub's own cache.

    Args:
        reference: `hf://OWNER/NAME[@REVISION]`, the URL of its page, or a folder of it.
        allow_patterns: only files that match one of these, as `*.safetensors`.
        ignore_patterns: no file that matches one of these.
        hf_api_token: opens it, instead of the settings' own; empty for none.
        cache_dir: the Hub's cache; by default where huggingface_hub has it (HF_HUB_CACHE, HF_HOME).
        settings, progress: see `download_async`.

    Returns:
        The folder of the snapshot, which `from_pretrained` takes; by `OWNER/NAME` the same is found
        without asking anybody.

    Raises:
        UsageError: it is no repository of the Hub, or a pattern makes no sense.
        ServiceError, TransferError: the Hub or the network failed.
        IntegrityError: the bytes are not those that the Hub lists.
        DestinationError, DiskFullError: the cache cannot be written.
    """
    from pgetpy.weights.hub_cache import snapshot as fetch_snapshot
    from pgetpy.weights.options import named

    # The policy takes away the operator's tokens, and not those of the caller.
    chosen = _settings(settings, None, None).under_policy()
    found = named(
        reference,
        chosen.sources,
        wanted="folder",
        allow_patterns=allow_patterns,
        ignore_patterns=ignore_patterns,
        hf_api_token=hf_api_token,
    )
    folder = Path(cache_dir) if cache_dir is not None else hub_cache_dir(os.environ)
    with disk_errors(folder):
        folder = expand_user(str(folder), "cache_dir").absolute()
    return await fetch_snapshot(found, folder, chosen, progress or _ignore)


snapshot = plain(snapshot_async)


async def download_job_async(
    job: Job, *, settings: Settings, progress: Report | None = None
) -> DownloadResult:
    """Run one job with exactly these settings."""
    report = progress or _ignore
    if job.checksum is None and not settings.skip_existing:
        return await _download(job, settings, report)
    found = await find_existing(job, settings, 0, report)
    if found is None:
        hear = HoldingBack(report)
        try:
            return await _download(job, settings, hear)
        except DestinationError as error:
            # Only the server knew what the file in the folder is called.
            if error.errno == errno.EEXIST:
                found = await find_existing(replace(job, dest=error.dest), settings, 0, report)
            if found is None:
                hear.release()
                raise
    report(Finished(0, found))
    return found


async def _download(job: Job, settings: Settings, report: Report) -> DownloadResult:
    engine = Engine(settings)
    try:
        return await engine.download(job, report)
    finally:
        await engine.close()


async def download_jobs_async(
    jobs: Sequence[Job],
    *,
    settings: Settings,
    progress: Report | None = None,
    fail_fast: bool = False,
) -> tuple[DownloadResult | DownloadFailure, ...]:
    """Run several jobs with exactly these settings.

    Nothing is fetched for what has the checksum that is asked for, nor for what an earlier run of
    the same jobs finished that did not get to its end.
    """
    report = progress or _ignore
    journal = ManifestJournal(jobs, os.environ, settings)
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
        left = [number for number in range(len(jobs)) if number not in outcomes]
        followed = [journal.followed(jobs[number], number) for number in left]
        hear = Renumbering(left, journal, report)
        engine = Engine(settings)
        try:
            found = await engine.download_all(followed, hear, fail_fast=fail_fast)
        finally:
            await engine.close()
        for number, outcome in zip(left, found, strict=True):
            outcomes[number] = await reconsider(number, jobs[number], outcome, settings, hear)
        interrupted = False
    except PgetError as error:
        interrupted = isinstance(error, InterruptedTransferError)
        raise
    finally:
        done = [each for each in outcomes.values() if isinstance(each, DownloadResult)]
        journal.close(finished=len(done) == len(jobs), interrupted=interrupted)
    return tuple(outcomes[number] for number in range(len(jobs)))


download_job = plain(download_job_async)
download_jobs = plain(download_jobs_async)


def _job(url: str, dest: str | PathLike, checksum: str | None, mirrors: Sequence[str]) -> Job:
    parsed = Checksum.parse(checksum, name="checksum") if checksum is not None else None
    for mirror in mirrors:
        check_unicode(mirror)
    return Job(url, os.fspath(dest), parsed, tuple(mirrors))


def _jobs(files: Iterable[tuple[str, str | PathLike] | Job]) -> list[Job]:
    return [file if isinstance(file, Job) else _job(*file, None, ()) for file in files]


def _settings(
    settings: Settings | None, headers: Mapping[str, str] | None, force: bool | None
) -> Settings:
    chosen = settings if settings is not None else Settings.from_environment(os.environ)
    if headers:
        chosen = chosen.with_headers(list(headers.items()), "headers")
    check_settings(chosen.sources)
    return chosen if force is None else replace(chosen, force=force)


def _ignore(event: Event) -> None:
    """No progress is wanted."""
