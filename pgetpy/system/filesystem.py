"""What several parts do to a disk, and what it means when that fails.

Errors of the system become errors of ours at one place, `disk_errors` (or `cache_error` for the
cache): a full disk is told apart, with what is free, because the remedy is another one.

Metadata never decides. File systems without an owner, without times or without a flush are common
(FUSE, SMB, some NFS); `MetadataWarnings` says so once and goes on, because the content is complete.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.errors import CacheError, DestinationError, DiskFullError, PgetError
from pgetpy.errors.reasons import system_reason
from pgetpy.system.logs import RoomLog

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_LOG = RoomLog("system")
# How FUSE, SMB and some NFS refuse permissions, times, owners and flushes that they do not have.
_REFUSED = frozenset(
    {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)


def free_bytes(path: str | Path) -> int:
    """Return the bytes that this user may still write on the file system of `path`."""
    status = _status_of_disk(path)
    return status.f_bavail * status.f_frsize


def full_error(path: str | Path) -> DiskFullError:
    """Return the error for the file system of `path`, which has no room for more."""
    try:
        status = _status_of_disk(path)
    except OSError:
        return DiskFullError(str(path), None, 0)
    # File systems without a fixed number of inodes say that they have none at all.
    inodes = status.f_files > 0 and status.f_favail == 0
    return DiskFullError(str(path), None, status.f_bavail * status.f_frsize, inodes=inodes)


def _status_of_disk(path: str | Path) -> os.statvfs_result:
    try:
        return os.statvfs(os.path.dirname(path) or ".")
    except (FileNotFoundError, NotADirectoryError):
        return os.statvfs(
            next(folder for folder in Path(path).absolute().parents if folder.exists())
        )


def check_room(dest: str | Path, needed: int, min_free: int) -> None:
    """Raise DiskFullError where `needed` more bytes at `dest` would leave less than `min_free`."""
    free = free_bytes(dest)
    if needed + min_free > free:
        raise DiskFullError(str(dest), needed, free, keep=min_free)


class map_os_errors:  # noqa: N801  used like contextlib's, but five times for each small file
    """Raise `meaning` of an OSError; one that is an error of ours already passes unchanged."""

    __slots__ = ("_meaning",)

    def __init__(self, meaning: Callable[[OSError], PgetError]) -> None:
        self._meaning = meaning

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, PgetError):
            raise self._meaning(error) from error


def disk_errors(path: str | Path) -> contextlib.AbstractContextManager[None]:
    """Raise the system's errors about destination `path` as errors of ours."""
    return map_os_errors(lambda error: disk_error(error, path))


def disk_error(error: OSError, dest: str | Path) -> DiskFullError | DestinationError:
    """Return what `error` means for destination `dest`."""
    # A stream, such as /dev/full, has no disk whose free room could be told.
    if error.errno in FULL and not _is_stream(dest):
        return full_error(dest)
    reason = f"cannot be written: {system_reason(error)}"
    return DestinationError(str(dest), reason, code=error.errno or 0)


def _is_stream(path: str | Path) -> bool:
    try:
        return str(path) == "-" or stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False


def cache_error(error: OSError, root: Path) -> CacheError:
    """Return what `error` means for the cache at `root`."""
    at = f" at {error.filename}" if error.filename else ""
    reason = f"cannot be used{at}: {system_reason(error)}"
    return CacheError(str(root), reason, code=error.errno or errno.EIO)


class RealPaths:
    """Real paths of files, each folder of which is looked up once.

    For a single call: a folder that is replaced by a link meanwhile is not noticed.
    """

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def of(self, path: str | os.PathLike[str], *, is_link: bool | None = None) -> str:
        """Return what `os.path.realpath` does; `is_link` says whether `path` itself is one."""
        folder, name = os.path.split(path)
        if name in ("", ".", "..") or (os.path.islink(path) if is_link is None else is_link):
            return os.path.realpath(path)
        real = self._folders.get(folder)
        if real is None:
            real = self._folders[folder] = os.path.realpath(folder)
        return os.path.join(real, name)


@dataclass(eq=False)
class ReservedPaths:
    """The paths that the files of one call go to: one file each."""

    _real: RealPaths = field(default_factory=RealPaths)
    _taken: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, path: str | Path, *, is_link: bool | None = None) -> None:
        """Reserve `path`; `is_link` says whether it is a symbolic link, None for not known.

        Raises:
            DestinationError: another file of the call has it, or it cannot be looked up.
        """
        with disk_errors(path):
            real = self._real.of(path, is_link=is_link)
        if not self.reserve(real):
            raise DestinationError(
                str(path),
                "is the destination of another file of this call",
                hint="give each its own name",
                code=errno.EEXIST,
            )

    def reserve(self, real: str) -> bool:
        """Reserve a path that contains no symbolic link; False if another file has it."""
        with self._lock:
            free = real not in self._taken
            self._taken.add(real)
        return free

    def give_back(self, real: str) -> None:
        """Release a path that was reserved: it is going to be taken again."""
        with self._lock:
            self._taken.discard(real)

    def clear(self) -> None:
        """Release all paths: no file of the call is under way any more."""
        with self._lock:
            self._taken.clear()
            self._real = RealPaths()


@contextlib.contextmanager
def closing_fd(fd: int) -> Iterator[int]:
    """Close descriptor `fd` at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open a regular file for reading, and no FIFO, which would wait for a writer for ever.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "it is not a file", os.fspath(path))


def read_regular(path: str | os.PathLike[str], most: int = -1) -> bytes:
    """Return the content of a regular file, or its first `most` bytes; see `open_regular`."""
    with open(open_regular(path), "rb") as file:
        return file.read(most)


class MetadataWarnings:
    """Turns refusals to set metadata into warnings, one for each kind of refusal.

    Args:
        label: what the warnings call the files.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._told: set[str] = set()

    @contextlib.contextmanager
    def tolerate(self, what: str) -> Iterator[None]:
        """Warn if the system refuses what the block does; `what` completes "refuses to ..."."""
        try:
            yield
        except OSError as error:
            self.warn(what, error)

    def warn(self, what: str, error: OSError) -> None:
        """Warn that the system refuses `what`, as `tolerate` does; raise any other `error`."""
        if error.errno not in _REFUSED:
            raise error
        if what not in self._told:
            self._told.add(what)
            _LOG.warning(
                "%s: the file system refuses %s: %s", self._label, what, system_reason(error)
            )


def sync_file(fd: int, label: str) -> bool:
    """Flush what was written to `fd` to stable storage; False if the file system cannot."""
    with MetadataWarnings(label).tolerate("to flush a file"):
        os.fsync(fd)
        return True
    return False


def sync_folder(folder: str | Path) -> None:
    """Flush the names in `folder` to stable storage, if the file system can.

    A rename is durable only after this: flushing the file itself does not include its name.
    """
    with (
        MetadataWarnings(str(folder)).tolerate("to flush a folder"),
        closing_fd(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd,
    ):
        os.fsync(fd)


def remove_tree(path: str | Path) -> None:
    """Remove what is at `path`, if anything: a file, a link, or a folder, even a read-only one."""
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
    # If this is refused, the folder may be writable already, or removing it says why it is not.
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)


def is_folder(dest: str) -> bool:
    """Return whether `dest` names a folder: one that is there, or will be."""
    return dest.endswith("/") or os.path.isdir(dest)


def names_in(folder: str | os.PathLike[str]) -> list[str]:
    """Return the names in `folder`; empty if it does not exist."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def mode_at(path: str | Path) -> int:
    """Return the mode of what is at `path`, links not followed; 0 for nothing."""
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def fold_of(folder: Path) -> Callable[[str], str]:
    """Return a function that maps names to one form if `folder`'s file system treats them as one.

    Some ignore case, some ignore the difference between composed and decomposed letters (Unicode
    NFC and NFD), and mount options change both. So it is tried out, on a file of our own.
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
    """Write all of `data` to `fd` from `offset` on; a single pwrite may write less."""
    while data:
        count = os.pwrite(fd, data, offset)
        offset += count
        data = data[count:]


@lru_cache(maxsize=4)
def system_call(name: str, *sizes: int) -> Callable[..., int] | None:
    """Return a function of the C library that Python does not offer, None if there is none.

    Args:
        name: of the function; it returns an int.
        sizes: the bits of each argument, 32 or 64. All are integers.
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
