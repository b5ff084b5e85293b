"""A file of this machine, brought to where a cache can take it over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pgetpy.cache.contents import digest_of
from pgetpy.core.answers import Identity
from pgetpy.core.digests import Checksum
from pgetpy.core.references import Reference, Wanted
from pgetpy.core.roster import Limits
from pgetpy.disk import remove_tree
from pgetpy.errors import (
    BadReferenceError,
    DigestMismatchError,
    InterruptedTransferError,
    ObjectChangedError,
    PgetError,
)
from pgetpy.extraction.local import unpack
from pgetpy.sinks.file import disk_error

_BLOCK = 1 << 20


def _local_path(reference: Reference) -> Path:
    return Path(unquote(urlsplit(reference.text).path, errors="surrogateescape"))


def local_identity(reference: Reference) -> Identity | None:
    """Return which version of a local file is there; None where there is none."""
    try:
        status = _local_path(reference).stat()
    except OSError:
        return None
    return Identity(status.st_size, f'"{status.st_ino:x}-{status.st_mtime_ns:x}"')


def copied(
    reference: Reference,
    dest: Path,
    admit: Callable[[Identity], object],
    digest: Checksum | None,
    limits: Limits,
    stop: Callable[[], bool],
) -> Identity:
    """Bring a local file, or what is in it, to `dest`; return its version."""
    source = _local_path(reference)
    identity = local_identity(reference)
    if identity is None or not source.is_file():
        raise BadReferenceError(str(reference), "there is no such file")
    admit(identity)
    try:
        found = digest_of(source, stop) if digest is not None else None
        if reference.wanted is Wanted.FILE:
            _copy(source, dest, stop)
        else:
            remove_tree(dest)
            dest.mkdir()
            unpack(source, dest, limits, stop)
    except OSError as error:
        if isinstance(error, PgetError):
            raise
        raise disk_error(error, Path(error.filename or source)) from error
    if digest is not None and found != str(digest):
        raise DigestMismatchError(str(reference), str(digest), found or "")
    now = local_identity(reference)
    if now is not None and not now.agrees(identity):
        raise ObjectChangedError(str(reference), str(identity), str(now))
    return identity


def _copy(source: Path, dest: Path, stop: Callable[[], bool]) -> None:
    block = memoryview(bytearray(_BLOCK))
    with source.open("rb", buffering=0) as file, dest.open("wb", buffering=0) as copy:
        while count := file.readinto(block):
            if stop():
                raise InterruptedTransferError(str(dest), copy.tell(), None)
            written = 0
            while written < count:
                written += copy.write(block[written:count])
