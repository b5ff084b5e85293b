"""Folders of a service become jobs, one for each of their files.

The names come from the service, and become paths below the destination. So they are judged like
the members of an archive (`core/archives/member_policy`): `../`, absolute paths, names that collide
on a file system without upper and lower case, and names that are listed twice are refused before
the first byte is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from pgetpy.core.archives.member_policy import MemberPolicy
from pgetpy.core.archives.members import Kind, Member
from pgetpy.core.references.jobs import Job
from pgetpy.core.references.reference import Reference
from pgetpy.core.report.results import DownloadResult, summed_sources
from pgetpy.engine.engine import Engine
from pgetpy.errors import BadReferenceError, UnsafeMemberError
from pgetpy.errors.redact import redact
from pgetpy.settings import Settings
from pgetpy.sources.base import RemoteFile
from pgetpy.sources.table import parse_reference
from pgetpy.system.filesystem import fold_of

# From the weakest to the strongest: a folder's result promises what its weakest file does.
_VALIDATORS = ("none", "weak", "strong")


async def expand_folders(jobs: Sequence[Job], engine: Engine, settings: Settings) -> list[Job]:
    """Return `jobs` with each that names a folder replaced by jobs for its files.

    Raises:
        PgetError: a folder cannot be listed, or holds a name that is not safe below a directory.
    """
    found: list[Job] = []
    for job in jobs:
        reference = job.reference or parse_reference(job.url, settings=settings.sources)
        if reference.is_folder:
            found += await _files_of(job, reference, engine, settings)
        else:
            found.append(replace(job, reference=reference))
    return found


async def _files_of(
    job: Job, reference: Reference, engine: Engine, settings: Settings
) -> list[Job]:
    """Return a job for each file of one folder.

    Raises:
        PgetError: see `expand_folders`; also for options that only make sense for one file.
    """
    if job.extract or job.checksum is not None or job.dest in (None, "-"):
        raise BadReferenceError(str(reference), "it is a folder; give a directory to put it in")
    if settings.policy is not None:
        settings.policy.check_reference(reference)
    located = await engine.locate(reference)
    folder = Path(job.dest or ".")
    # The destination may not exist yet; its nearest parent is on the same file system.
    near = next(path for path in (folder, *folder.parents) if path.is_dir())
    policy = MemberPolicy(settings.limits, fold_of(near))
    return [_job_for(each, job, reference, folder, policy) for each in located.objects]


def _job_for(
    remote: RemoteFile, job: Job, reference: Reference, folder: Path, policy: MemberPolicy
) -> Job:
    """Return the job for one file, whose name `policy` admits.

    Raises:
        UnsafeMemberError: it does not.
    """
    entry = policy.admit(Member(remote.name, Kind.FILE, remote.size or 0))
    if entry is None or entry.replaces:
        raise UnsafeMemberError(remote.name, "it is listed twice")
    return replace(
        job,
        url=remote.url,
        dest=str(folder.joinpath(*entry.parts)),
        checksum=remote.digest,
        reference=reference,
        link=remote.link,
        name=remote.name,
        version=remote.etag,
    )


def sum_results(job: Job, done: Sequence[DownloadResult], seconds: float) -> DownloadResult:
    """Return one result for all files of a folder.

    Args:
        job: that named the folder.
        done: the results of its files.
        seconds: that all of them together took.
    """
    # Files that were there already do not count as speed.
    fetched = sum(each.size for each in done if not each.skipped)
    url, folder = redact(str(job.reference or job.url)), job.dest or "."
    return DownloadResult(
        url,
        url,
        folder,
        sum(each.size for each in done),
        None,
        seconds,
        fetched / seconds if seconds else 0.0,
        retries=sum(each.retries for each in done),
        connections=max((each.connections for each in done), default=0),
        validator=min((each.validator for each in done), key=_VALIDATORS.index, default="none"),
        members=tuple(PurePath(each.dest).relative_to(folder).as_posix() for each in done),
        requests=sum(each.requests for each in done),
        skipped=bool(done) and all(each.skipped for each in done),
        bytes_by_source=summed_sources(each.bytes_by_source for each in done),
    )
