"""Whether a file at the destination is the one that was asked for, so that nothing is fetched.

    at the destination     with a checksum                    without one
    --------------------   --------------------------------   --------------------------
    nothing                fetch                              fetch
    a file that matches    skip                               skip if skip_existing, else
    a file that does not   an error; fetch if force and not   fetch, which refuses to
                           skip_existing                      overwrite it without force
    a folder, to extract   skip if skip_existing and it is not empty

Digests are kept in memory with the file's inode, size and times: the command line asks before the
call that it makes, and 10 GB should not be read twice. They are forgotten with the process.

No request is made here, so a mirror that has gone, or a token that has expired, does not matter for
a file that exists.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from pgetpy.archives.staging import check_empty
from pgetpy.core.destinations.names import name_from_url
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.results import DownloadResult
from pgetpy.errors import DestinationError
from pgetpy.errors.redact import redact
from pgetpy.settings import Settings
from pgetpy.system.filesystem import closing_fd, disk_errors

_BLOCK = 4 << 20
# Digests of files, by algorithm and version (inode, size, times).
_MOST_KNOWN = 10_000
_SETTLED = 5 * 10**9
_KNOWN: dict[tuple[object, ...], str] = {}
_STREAMS = frozenset({"-", "/dev/stdout"})


def result_of_existing(
    job: Job, settings: Settings, hashed: Callable[[int, int], object]
) -> DownloadResult | None:
    """Return the result of `job` if nothing need be fetched for it, else None.

    Args:
        job: what is wanted, and where it goes.
        settings: `skip_existing` and `force` count here.
        hashed: is called with the bytes hashed so far and the file's size; raise in it to give up.

    Raises:
        DestinationError: a file with another checksum is there, and may not be replaced.
    """
    path = _path_of(job)
    if path is None:
        return None
    with disk_errors(path):
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if job.extract:
            skip = settings.skip_existing and stat.S_ISDIR(status.st_mode) and not _is_free(path)
            return skipped(job, str(path), 0) if skip else None
        if not stat.S_ISREG(status.st_mode):
            return None
        digest = None
        if job.checksum is not None:
            digest = digest_of(path, job.checksum, hashed)
            if digest != str(job.checksum):
                if settings.force and not settings.skip_existing:
                    return None
                raise _conflict(job, path, digest)
        if digest is None and not settings.skip_existing:
            return None
        return skipped(job, str(path), status.st_size, digest)


def skipped(job: Job, dest: str, size: int, digest: str | None = None) -> DownloadResult:
    """Return the result of a job for which nothing had to be fetched."""
    url = redact(job.url)
    return DownloadResult(url, url, dest, size, digest, 0.0, 0.0, skipped=True)


def digest_of(path: Path, checksum: Checksum, hashed: Callable[[int, int], object]) -> str:
    """Return the digest of the file at `path`, of the kind that `checksum` is.

    A file that has not changed since is not read again.
    """
    with closing_fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as fd:
        before = _version_of(fd, checksum)
        if before not in _KNOWN:
            found = _hash(fd, checksum, hashed)
            # A file that changed a moment ago may change again within one tick of its times, so
            # its digest is not kept.
            settled = time.time_ns() - os.fstat(fd).st_ctime_ns > _SETTLED
            if before == _version_of(fd, checksum) and settled:
                if len(_KNOWN) >= _MOST_KNOWN:
                    _KNOWN.clear()
                _KNOWN[before] = found
            return found
        return _KNOWN[before]


def _version_of(fd: int, checksum: Checksum) -> tuple[object, ...]:
    """Return what changes with the file's content; the ctime cannot be set back by programs."""
    there = os.fstat(fd)
    return (
        checksum.algorithm,
        there.st_dev,
        there.st_ino,
        there.st_size,
        there.st_mtime_ns,
        there.st_ctime_ns,
    )


def _hash(fd: int, checksum: Checksum, hashed: Callable[[int, int], object]) -> str:
    found = hashlib.new(checksum.algorithm, checksum.prefix, usedforsecurity=False)
    buffer = memoryview(bytearray(_BLOCK))
    total, done = os.fstat(fd).st_size, 0
    while count := os.preadv(fd, [buffer], done):
        found.update(buffer[:count])
        done += count
        hashed(done, max(done, total))
    return f"{checksum.algorithm}:{found.hexdigest()}"


def _path_of(job: Job) -> Path | None:
    """Return where `job` goes; None if only the server can name the file.

    For a folder the URL's name is a guess: the server's Content-Disposition would go before it. A
    file of that name with the right checksum is the object all the same.
    """
    if job.dest is None or job.dest in _STREAMS:
        return None
    path = Path(job.dest)
    if job.extract or not (job.dest.endswith("/") or path.is_dir()):
        return path
    name = job.name or name_from_url(job.url)
    return path / name if name else None


def _is_free(folder: Path) -> bool:
    try:
        check_empty(folder)
    except DestinationError:
        return False
    return True


def _conflict(job: Job, path: Path, digest: str) -> DestinationError:
    reason = f"already exists{job.place} and has another checksum, {digest}"
    return DestinationError(str(path), reason, hint="use -f to overwrite it", code=errno.EEXIST)
