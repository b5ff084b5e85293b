"""What is on this machine already, brought to where a cache can take it over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pgetpy.archives.local import unpack
from pgetpy.cache.contents import digest_of
from pgetpy.core.archives.member_policy import Limits
from pgetpy.core.http.answers import Identity
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.local_urls import file_path, is_data, parse_data
from pgetpy.core.references.reference import Reference, Wanted
from pgetpy.errors import (
    BadReferenceError,
    DigestMismatchError,
    InterruptedTransferError,
    ObjectChangedError,
    PgetError,
)
from pgetpy.system.filesystem import disk_error, remove_tree

_BLOCK = 1 << 20


def local_identity(reference: Reference) -> Identity | None:
    """Return which version is there of what is on this machine; None where there is none."""
    if is_data(reference.text):
        data = parse_data(reference.text)
        return Identity(len(data.content), f'"{data.sha256}"')
    try:
        status = Path(file_path(reference.text)).stat()
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
    """Bring what is on this machine, or what is in it, to `dest`; return its version."""
    identity = local_identity(reference)
    given = is_data(reference.text)
    source = dest.with_name("given") if given else Path(file_path(reference.text))
    if identity is None or not (given or source.is_file()):
        raise BadReferenceError(str(reference), "there is no such file")
    admit(identity)
    try:
        if given:
            source.write_bytes(parse_data(reference.text).content)
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
    finally:
        if given:
            source.unlink(missing_ok=True)
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
