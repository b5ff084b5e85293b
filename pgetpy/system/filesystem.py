"""What several parts do to a disk, and what it means when that fails."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pgetpy.errors import CacheError, DestinationError, DiskFullError, PgetError
from pgetpy.errors.reasons import system_reason
from pgetpy.system.logs import RoomLog

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# What FUSE, SMB and some NFS say of permissions, times, owners and flushes that they do not keep.
_LOG = RoomLog("system")
_REFUSED = frozenset(
    {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)


def free_bytes(path: Path) -> int:
    """Return the bytes that this user may still write on the file system of `path`."""
    try:
        status = os.statvfs(path.parent)
    except (FileNotFoundError, NotADirectoryError):
        status = os.statvfs(next(folder for folder in path.absolute().parents if folder.exists()))
    return status.f_bavail * status.f_frsize


def check_room(dest: Path, needed: int, min_free: int) -> None:
    """Raise DiskFullError where `needed` more bytes at `dest` would leave less than `min_free`."""
    free = free_bytes(dest)
    if needed + min_free > free:
        raise DiskFullError(str(dest), needed, free, keep=min_free)


@contextlib.contextmanager
def map_os_errors(meaning: Callable[[OSError], PgetError]) -> Iterator[None]:
    """Raise `meaning` of what the system says; errors of ours stay as they are."""
    try:
        yield
    except OSError as error:
        if isinstance(error, PgetError):
            raise
        raise meaning(error) from error


def disk_errors(path: Path) -> contextlib.AbstractContextManager[None]:
    """Raise what the disk says of destination `path` as an error of ours."""
    return map_os_errors(lambda error: disk_error(error, path))


def disk_error(error: OSError, dest: Path) -> DiskFullError | DestinationError:
    """Return what `error` means for destination `dest`."""
    # Of a stream, such as /dev/full, there is no disk to look at.
    if error.errno in FULL and not _is_stream(dest):
        try:
            return DiskFullError(str(dest), None, free_bytes(dest))
        except OSError:
            return DiskFullError(str(dest), None, 0)
    reason = f"cannot be written: {system_reason(error)}"
    return DestinationError(str(dest), reason, code=error.errno or 0)


def _is_stream(path: Path) -> bool:
    try:
        return str(path) == "-" or stat.S_ISCHR(path.stat().st_mode)
    except OSError:
        return False


def cache_error(error: OSError, root: Path) -> CacheError:
    """Return what `error` means for the cache at `root`."""
    at = f" at {error.filename}" if error.filename else ""
    reason = f"cannot be used{at}: {system_reason(error)}"
    return CacheError(str(root), reason, code=error.errno or errno.EIO)


@dataclass(eq=False)
class ReservedPaths:
    """The paths that the files of one call go to: one file each."""

    _taken: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, path: Path) -> None:
        """Reserve `path`.

        Raises:
            DestinationError: another file of the call has it, or it cannot be looked up.
        """
        with disk_errors(path):
            real = os.path.realpath(path)
        with self._lock:
            if real in self._taken:
                raise DestinationError(
                    str(path),
                    "is the destination of another file of this call",
                    hint="give each its own name",
                    code=errno.EEXIST,
                )
            self._taken.add(real)

    def clear(self) -> None:
        """Nothing is on its way any more."""
        with self._lock:
            self._taken.clear()


@contextlib.contextmanager
def closing_fd(fd: int) -> Iterator[int]:
    """Close descriptor `fd` at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


class MetadataWarnings:
    """Lets what a file system refuses to set be: content decides. Each kind is warned of once.

    Args:
        label: what the warnings call the files.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._told: set[str] = set()

    @contextlib.contextmanager
    def tolerate(self, what: str) -> Iterator[None]:
        """Warn where the system refuses what the block does to `what`, such as "times"."""
        try:
            yield
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            if what not in self._told:
                self._told.add(what)
                _LOG.warning(
                    "%s: the file system refuses %s: %s", self._label, what, system_reason(error)
                )


def sync_file(fd: int, label: str) -> bool:
    """Bring what was written to `fd` to stable storage; False where the file system has no way."""
    with MetadataWarnings(label).tolerate("to flush a file"):
        os.fsync(fd)
        return True
    return False


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to stable storage, where the file system has a way."""
    with (
        MetadataWarnings(str(folder)).tolerate("to flush a folder"),
        closing_fd(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd,
    ):
        os.fsync(fd)


def remove_tree(path: str | Path) -> None:
    """Take away what stands at `path`, whatever that is, also folders that may not be written."""
    mode = mode_at(path)
    if stat.S_ISDIR(mode):
        _open_up(path)
        for folder, names, _ in os.walk(path):
            for name in names:
                below = os.path.join(folder, name)
                if not os.path.islink(below):
                    _open_up(below)
        import shutil

        shutil.rmtree(path)
    elif mode:
        os.unlink(path)


def _open_up(folder: str | Path) -> None:
    # Where this is refused the folder may be open as it is, or what follows says why not.
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)


def mode_at(path: str | Path) -> int:
    """Return the mode of what stands at `path`, a link itself; 0 where nothing does."""
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def fold_of(folder: Path) -> Callable[[str], str]:
    """Return what says which names the file system of `folder` takes for one.

    It is tried out on a file of our own.
    """
    import unicodedata

    probe = f".{os.urandom(8).hex()}-\u00e9.pgetpy-probe"
    path = folder / probe
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        cased = os.path.lexists(folder / probe.upper())
        normalised = os.path.lexists(folder / unicodedata.normalize("NFD", probe))
    finally:
        os.unlink(path)
    if not (cased or normalised):
        return str

    def fold(name: str) -> str:
        name = unicodedata.normalize("NFC", name) if normalised else name
        return name.casefold() if cased else name

    return fold


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
