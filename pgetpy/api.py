"""The Python calls, each as a coroutine (`NAME_async`) and as a plain function (`NAME`).

Plain functions run the coroutine on the engine thread (system/event_loop). So they work anywhere,
even while the caller's own event loop is running.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgetpy.core.destinations.names import check_unicode
from pgetpy.core.lazy_dataclass import replace
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import Finished, Report, ignore_event
from pgetpy.core.report.results import DownloadFailure, DownloadResult
from pgetpy.engine.engine import Engine
from pgetpy.errors import DestinationError, UsageError
from pgetpy.errors.redact import redact_text
from pgetpy.settings import Settings
from pgetpy.settings.command_options import hub_cache_dir
from pgetpy.settings.folders import expand_user
from pgetpy.sources.table import parse_reference
from pgetpy.system.event_loop import plain
from pgetpy.system.filesystem import disk_errors

if TYPE_CHECKING:
    from pgetpy.core.report.uploads import UploadResult
    from pgetpy.sources.s3 import S3
    from pgetpy.weights.options import Secret

PathLike = os.PathLike[str]
Chosen = str | Sequence[str] | None


async def download_async(  # noqa: PLR0913  all but two are options of a single call
    url: str,
    dest: str | PathLike,
    *,
    checksum: str | None = None,
    headers: Mapping[str, str] | None = None,
    mirrors: Sequence[str] = (),
    force: bool | None = None,
    settings: Settings | None = None,
    s3: S3 | None = None,
    progress: Report | None = None,
) -> DownloadResult:
    """Download `url` to `dest`.

    Args:
        url: an http or https URL, which may contain a user and password; or a reference to a
            service, such as `hf://OWNER/NAME/FILE`.
        dest: a path. The file appears there when it is complete. For an existing folder, or a path
            with a trailing slash, the name comes from the server or the URL. `-` is standard
            output.
        checksum: the expected `sha256:HEX`; sha1, md5 and blake2b work as well.
        headers: extra request headers. They are not sent to another host after a redirect.
        mirrors: further URLs of the same bytes, tried in order if `url` fails.
        force: overwrite `dest` if it exists.
        settings: how to download; by default what the environment variables (PGET_*) say.
        s3: how s3:// is reached; what it leaves out comes from `settings`.
        progress: is called with the events of `pgetpy.core.report.events` on the event loop's
            thread, so it must return quickly. If it raises, the download stops, what was received
            is kept for the next run, and the exception is raised to the caller.

    Returns:
        What was done. Sizes are in bytes, times in seconds.

    Raises:
        UsageError: an argument is invalid.
        TransferError: the server or the network failed.
        IntegrityError: the bytes do not match the checksum or the size.
        DestinationError: `dest` exists or cannot be written.
        DiskFullError: the disk is full.
    """
    job = _job(url, dest, checksum, mirrors)
    chosen = _settings(settings, headers, force, s3)
    return await download_job_async(job, settings=chosen, progress=progress)


download = plain(download_async)


async def extract_async(  # noqa: PLR0913  see `download_async`
    url: str,
    folder: str | PathLike,
    *,
    checksum: str | None = None,
    headers: Mapping[str, str] | None = None,
    mirrors: Sequence[str] = (),
    force: bool | None = None,
    settings: Settings | None = None,
    s3: S3 | None = None,
    progress: Report | None = None,
) -> DownloadResult:
    """Extract the archive at `url` into `folder` while it arrives.

    Formats: zip; tar, plain or compressed with gzip, bzip2, xz, zstd, lz4 or LZMA; and a single
    file compressed with one of these.

    Args:
        url: see `download_async`.
        folder: appears when all members have been extracted. If it exists, the members are moved
            into it then; unless it is empty that needs `force`.
        checksum: of the archive itself; see `download_async`.
        headers: see `download_async`.
        mirrors: see `download_async`.
        force: merge the members into what `folder` already holds.
        settings: see `download_async`. Its `limits` bound what may come out of the archive.
        s3: see `download_async`.
        progress: see `download_async`.

    Returns:
        What was done; `members` lists the names of the extracted members.

    Raises:
        ArchiveError: it is not an archive, is damaged or cut off, or has a member that is refused.
            Nothing has been written to `folder` then.
        UsageError: see `download_async`.
        TransferError: see `download_async`.
        IntegrityError: see `download_async`.
        DestinationError: see `download_async`.
        DiskFullError: see `download_async`.
    """
    job = replace(_job(url, folder, checksum, mirrors), extract=True)
    chosen = _settings(settings, headers, force, s3)
    return await download_job_async(job, settings=chosen, progress=progress)


extract = plain(extract_async)


async def download_many_async(
    files: Iterable[tuple[str, str | PathLike] | Job],
    *,
    fail_fast: bool = False,
    headers: Mapping[str, str] | None = None,
    force: bool | None = None,
    settings: Settings | None = None,
    s3: S3 | None = None,
    progress: Report | None = None,
) -> tuple[DownloadResult | DownloadFailure, ...]:
    """Download several files at a time, over shared connections.

    Args:
        files: pairs of URL and destination, or `Job` objects.
        fail_fast: raise the first failure and stop the other downloads. By default the others
            continue, and failures are returned.
        headers: see `download_async`.
        force: see `download_async`.
        settings: see `download_async`.
        s3: see `download_async`.
        progress: see `download_async`.

    Returns:
        A `DownloadResult` or `DownloadFailure` for each file, in the order of `files`.

    Raises:
        UsageError: an argument is invalid, or two files have the same destination.
        PgetError: with `fail_fast`, the first failure.
    """
    chosen = _settings(settings, headers, force, s3)
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
    """Download a repository of the Hugging Face Hub into huggingface_hub's own cache.

    `from_pretrained` and `hf_hub_download` find it there without a request. Layout and locks are
    those of huggingface_hub (huggingface.co/docs/huggingface_hub, "Understand caching").

    Args:
        reference: `hf://OWNER/NAME[@REVISION]`, the URL of the repository's page, or a folder of
            it.
        allow_patterns: download only files that match one of these, such as `*.safetensors`.
        ignore_patterns: skip files that match one of these.
        hf_api_token: the token to use instead of the one in the settings; empty for none.
        cache_dir: the Hub's cache; by default where huggingface_hub looks (HF_HUB_CACHE, HF_HOME).
        settings: see `download_async`.
        progress: see `download_async`.

    Returns:
        The folder of the snapshot, to pass to `from_pretrained`; `OWNER/NAME` finds the same files.

    Raises:
        UsageError: the reference is not a repository of the Hub, or a pattern is invalid.
        ServiceError: the Hub refused access.
        TransferError: the Hub or the network failed.
        IntegrityError: the bytes do not match what the Hub lists.
        DestinationError: the cache cannot be written.
        DiskFullError: the disk is full.
    """
    from pgetpy.weights.hub_cache import snapshot as fetch_snapshot
    from pgetpy.weights.options import named

    # A policy drops the operator's tokens, but not the one that the caller passes.
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
    return await fetch_snapshot(found, folder, chosen, progress or ignore_event)


snapshot = plain(snapshot_async)


async def upload_async(
    path: str | PathLike,
    target: str,
    *,
    if_absent: bool = False,
    content_type: str = "",
    cache_control: str = "",
    settings: Settings | None = None,
    s3: S3 | None = None,
    progress: Report | None = None,
) -> UploadResult:
    """Upload a file to an object store, or all files below a directory.

    Large files go in parts, in parallel; an interrupted call continues where it stopped.

    Args:
        target: `s3://BUCKET/KEY`; with a slash at the end the file's own name is put behind it.
        if_absent: fail if there is such an object already.
        content_type: the object's media type; chosen by its name if it is empty.
        cache_control: the Cache-Control header that the object is served with.
        settings, s3, progress: see `download_async`.

    Raises:
        ObjectExistsError: `if_absent`, and there is one.
        UsageError: an argument makes no sense.
        TransferError: the store or the network failed.
        DestinationError: the file cannot be read, or changed meanwhile.
    """
    from pgetpy.core.text.values import read_header_value
    from pgetpy.engine.uploads.options import UploadOptions
    from pgetpy.engine.uploads.paths import upload_path

    options = UploadOptions(
        if_absent,
        read_header_value(content_type, "content_type"),
        read_header_value(cache_control, "cache_control"),
    )
    chosen = _settings(settings, None, None, s3)
    report = progress or ignore_event
    return await upload_path(os.fspath(path), target, options, chosen, report, os.environ)


upload = plain(upload_async)


async def download_job_async(
    job: Job, *, settings: Settings, progress: Report | None = None
) -> DownloadResult:
    """Run one job with exactly these settings, without reading the environment."""
    report = progress or ignore_event
    reference = job.reference or parse_reference(job.url, settings=settings.sources)
    job = replace(job, reference=reference)
    if reference.several and reference.is_folder:
        return await _run_folder(job, settings, report)
    if job.checksum is None and not settings.skip_existing:
        return await _download(job, settings, report)
    from pgetpy.destinations.skip_existing import HoldingBack, find_existing

    found = await find_existing(job, settings, 0, report)
    if found is None:
        hear = HoldingBack(report)
        try:
            return await _download(job, settings, hear)
        except DestinationError as error:
            # The name in the folder was known only after the server's answer.
            if error.errno == errno.EEXIST:
                found = await find_existing(replace(job, dest=error.dest), settings, 0, report)
            if found is None:
                hear.release()
                raise
    report(Finished(0, found))
    return found


async def _run_folder(job: Job, settings: Settings, report: Report) -> DownloadResult:
    """Fetch the files of a folder, and return one result for all of them."""
    from pgetpy.engine.folders import sum_results
    from pgetpy.engine.jobs import run_jobs

    started = time.monotonic()
    results = await run_jobs([job], settings, report, os.environ, fail_fast=True)
    done = [each for each in results if isinstance(each, DownloadResult)]
    return sum_results(job, done, time.monotonic() - started)


async def _download(job: Job, settings: Settings, report: Report) -> DownloadResult:
    async with Engine(settings) as engine:
        return await engine.download(job, report)


async def download_jobs_async(
    jobs: Sequence[Job],
    *,
    settings: Settings,
    progress: Report | None = None,
    fail_fast: bool = False,
) -> tuple[DownloadResult | DownloadFailure, ...]:
    """Run several jobs with exactly these settings; see `engine.jobs.run_jobs`."""
    from pgetpy.engine.jobs import run_jobs

    return await run_jobs(jobs, settings, progress or ignore_event, os.environ, fail_fast=fail_fast)


download_job = plain(download_job_async)
download_jobs = plain(download_jobs_async)


def _job(url: str, dest: str | PathLike, checksum: str | None, mirrors: Sequence[str]) -> Job:
    parsed = None
    if checksum is not None:
        from pgetpy.core.references.checksums import Checksum

        parsed = Checksum.parse(checksum, name="checksum")
    for mirror in mirrors:
        check_unicode(mirror)
    return Job(url, os.fspath(dest), parsed, tuple(mirrors))


def _jobs(files: Iterable[tuple[str, str | PathLike] | Job]) -> list[Job]:
    return [file if isinstance(file, Job) else _job(*_pair(file), None, ()) for file in files]


def _pair(file: tuple[str, str | PathLike]) -> tuple[str, str | PathLike]:
    """Check that `file` is a pair. A text is a sequence, too, and a tuple may hold a checksum."""
    if isinstance(file, str) or len(file) != 2:
        got = redact_text(repr(file))
        raise UsageError(f"expected pairs of URL and destination, or Jobs, got {got}")
    return file


def _settings(
    settings: Settings | None,
    headers: Mapping[str, str] | None,
    force: bool | None,
    s3: S3 | None = None,
) -> Settings:
    chosen = settings if settings is not None else Settings.from_environment(os.environ)
    if headers:
        chosen = chosen.with_headers(list(headers.items()), "headers")
    if s3 is not None:
        chosen = replace(chosen, sources=s3.applied_to(chosen.sources))
    return chosen if force is None else replace(chosen, force=force)
