"""Whether the files of a folder are as they were left: their names, and a hash of their looks."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path


def names_below(folder: Path) -> list[str]:
    """Return the paths of everything in `folder` and below it except folders."""
    names = []
    for path, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(path, name))]
        names += [os.path.relpath(os.path.join(path, name), folder) for name in files + links]
    return names


def fingerprint_of(folder: Path, names: Sequence[str]) -> tuple[str, int]:
    """Return a hash of names, kinds, sizes and times of `names` in `folder`, and their bytes.

    Content is not read: that would take as long as fetching it.
    """
    whole, size = hashlib.sha256(), 0
    for name in names:
        status = os.lstat(folder / name)
        size += status.st_size if stat.S_ISREG(status.st_mode) else 0
        what = (name, stat.S_IFMT(status.st_mode), status.st_size, status.st_mtime_ns)
        whole.update(repr(what).encode(errors="surrogateescape"))
    return whole.hexdigest(), size
