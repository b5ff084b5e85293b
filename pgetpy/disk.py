"""What several parts do to a disk: free bytes, trees taken away, names made stable, all written."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any


def free_bytes(path: Path) -> int:
    """Return the bytes that this user may still write on the file system of `path`."""
    try:
        status = os.statvfs(path.parent)
    except (FileNotFoundError, NotADirectoryError):
        status = os.statvfs(next(folder for folder in path.absolute().parents if folder.exists()))
    return status.f_bavail * status.f_frsize


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to stable storage."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_tree(path: str | Path) -> None:
    """Take away what stands at `path`, whatever that is, also folders that may not be written."""
    mode = mode_at(path)
    if stat.S_ISDIR(mode):
        os.chmod(path, 0o700)
        for folder, names, _ in os.walk(path):
            for name in names:
                below = os.path.join(folder, name)
                if not os.path.islink(below):
                    os.chmod(below, 0o700)
        import shutil

        shutil.rmtree(path)
    elif mode:
        os.unlink(path)


def mode_at(path: str | Path) -> int:
    """Return the mode of what stands at `path`, a link itself; 0 where nothing does."""
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def write_all(fd: int, offset: int, data: memoryview) -> None:
    """Write `data` to `fd` from `offset` on."""
    while data:
        count = os.pwrite(fd, data, offset)
        offset += count
        data = data[count:]


@lru_cache(maxsize=4)
def system_call(name: str, *sizes: int) -> Callable[..., int] | None:
    """Return a call of the C library that Python lacks, None where there is none.

    `sizes` are the bits of its arguments, integers all; it returns an int.
    """
    import ctypes

    try:
        function: Any = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (AttributeError, OSError):
        return None
    function.argtypes = [ctypes.c_int64 if bits == 64 else ctypes.c_int for bits in sizes]
    function.restype = ctypes.c_int
    call: Callable[..., int] = function
    return call
