"""What folders are to look like in the end, kept on disk while members are moved into them.

A folder's own time changes as its members leave it or come into it, and its permissions where it
has to be opened for them. So neither can be read off it once that has begun.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

# Stands in a staged folder that goes to one that exists. No member may have this name.
RECORD = ".pgetpy-folders"
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
# An existing folder keeps these, and a new one those that it inherits: GNU tar does the same.
_LOCAL_BITS = 0o7000
# By who is not the owner, or by a file system that does not keep such things.
_REFUSED = (
    errno.EPERM,
    errno.EACCES,
    errno.EROFS,
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
)

Parts = tuple[str, ...]


class Attributes(NamedTuple):
    """A folder's permission bits, and its time in nanoseconds: None for whatever it becomes."""

    mode: int
    mtime: int | None

    def apply(self, folder: int) -> None:
        """Give them to the folder of that descriptor, unless only others may do that."""
        if self.mtime is not None:
            with _unless_refused():
                os.utime(folder, ns=(self.mtime, self.mtime))
        with _unless_refused():
            os.fchmod(folder, with_local_bits(self.mode, os.fstat(folder)))


@contextlib.contextmanager
def _unless_refused() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise


def with_local_bits(mode: int, there: os.stat_result) -> int:
    """Return the permissions to set where `mode` is wanted of a folder that is `there`."""
    return stat.S_IMODE(there.st_mode) & _LOCAL_BITS | mode


def write_record(root: str | Path, found: Mapping[Parts, Attributes]) -> None:
    """Note in the staged folder `root` what folders below it, by their paths, will look like."""
    path = os.path.join(root, RECORD)
    # Others may have put something in its place.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, _FLAGS | os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "w", encoding="ascii") as file:
        for parts, attributes in found.items():
            file.write(f"{json.dumps([parts, *attributes])}\n")


def read_record(root: str | Path) -> dict[Parts, Attributes]:
    """Return what `write_record` noted in `root`."""
    fd = os.open(os.path.join(root, RECORD), _FLAGS | os.O_RDONLY)
    with open(fd, encoding="ascii") as file:
        records = [json.loads(line) for line in file]
    return {tuple(parts): Attributes(mode, mtime) for parts, mode, mtime in records}


def has_record(root: str | Path) -> bool:
    """Whether `root` goes to a folder that exists."""
    return os.path.lexists(os.path.join(root, RECORD))
