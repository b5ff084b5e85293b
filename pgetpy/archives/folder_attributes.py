"""The permissions and times that folders will get, kept on disk while members are moved into them.

Moving members changes the time of the folder they leave and of the one they enter, and a folder
that may not be written has to be opened for it. After a kill in the middle, neither can be read off
the folder any more. So they are recorded before the first move, in a file of the staged folder:
one line of JSON for each folder, `[path, mode, mtime]`.
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

# In a staged folder whose members go to a folder that exists. No member may have this name.
RECORD = ".pgetpy-folders"
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
# Set-ID and sticky bits: an existing folder keeps its own and a new one those that it inherits,
# as with GNU tar.
_LOCAL_BITS = 0o7000
# The errors if we are not the owner, or the file system does not keep such attributes.
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
    """A folder's permission bits, and its time in nanoseconds; None leaves the time alone."""

    mode: int
    mtime: int | None

    def apply(self, folder: int) -> None:
        """Set them on the folder open at `folder`; a refusal by the system is ignored."""
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
