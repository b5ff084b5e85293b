"""Small files whose bytes are all there when they are written, at paths where nothing is yet.

A `FileDestination` can resume, replace and wait for other runs. None of that is needed here, so
what is known of a folder is looked up once for all its files, and a file takes six calls:

    claim: lstat, access     write: open, write     publish: close, rename

A file is made as everywhere: complete, under another name, then renamed.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from pgetpy.core.destinations.names import journal_name, part_name
from pgetpy.errors import DiskFullError
from pgetpy.system.filesystem import ReservedPaths, free_bytes, write_all

# For so many seconds, what is written is subtracted from the free room that was found.
_KNOWN_FOR = 0.1
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class WholeFiles:
    """Makes the files of one engine.

    Args:
        min_free: bytes to leave free on the disk.
        paths: those that files of the engine go to.
    """

    def __init__(self, min_free: int, paths: ReservedPaths) -> None:
        self._min_free = min_free
        self._paths = paths
        self._folders: dict[str, _Folder] = {}
        # No other run writes to part files with this in their names.
        self._mark = os.urandom(4).hex()

    def claim(self, dest: str) -> WholeFile | None:
        """Reserve the path `dest`; None where a `Destination` has to look at it.

        That is where something exists, an earlier run has left bytes, or another file goes.
        """
        at, slash, name = dest.rpartition("/")
        if not name or dest == "-":
            return None
        try:
            folder = self._folders.get(at or slash) or self._look_up(at or slash)
            path = folder.prefix + name
            os.lstat(path)
        except FileNotFoundError:
            pass
        except (OSError, ValueError):
            return None
        else:
            return None
        if os.access(folder.prefix + journal_name(name), os.F_OK):
            return None
        real = folder.real + name
        if not self._paths.reserve(real):
            return None
        return WholeFile(path, real, folder, folder.prefix + part_name(f"{name}.{self._mark}"))

    def _look_up(self, at: str) -> _Folder:
        folder = self._folders[at] = _Folder(at, self._min_free)
        return folder

    def give_back(self, file: WholeFile) -> None:
        """Release the path of `file`, which has not been published."""
        self._paths.give_back(file.real)


class _Folder:
    """What is known of one folder.

    Attributes:
        prefix: what the paths of its files begin with.
        real: the same, without symbolic links.
    """

    def __init__(self, folder: str, min_free: int) -> None:
        path = str(Path(folder))
        self.prefix = "" if path == "." else os.path.join(path, "")
        self.real = os.path.join(os.path.realpath(path), "")
        self._min_free = min_free
        self._free = 0
        self._looked_at = 0.0

    def take_room(self, path: str, size: int) -> None:
        """Count `size` bytes that are going to be written to `path`.

        Raises:
            DiskFullError: there is no room for them.
        """
        now = time.monotonic()
        if now - self._looked_at >= _KNOWN_FOR or size + self._min_free > self._free:
            self._free = free_bytes(path)
            self._looked_at = now
            if size + self._min_free > self._free:
                raise DiskFullError(path, size, self._free, keep=self._min_free)
        self._free -= size


class WholeFile:
    """One file, which appears by `publish`.

    Attributes:
        path: what it will be called.
        real: the same, without symbolic links.
    """

    __slots__ = ("_fd", "_folder", "_part", "path", "real")

    def __init__(self, path: str, real: str, folder: _Folder, part: str) -> None:
        self.path = path
        self.real = real
        self._folder = folder
        self._part = part
        self._fd = -1

    def write(self, body: memoryview) -> int:
        """Write `body`, all bytes of the file, to its part file; return that one's descriptor.

        Raises:
            DiskFullError, OSError: it cannot be written. Call `discard`.
        """
        self._folder.take_room(self.path, len(body))
        try:
            self._fd = os.open(self._part, _FLAGS, 0o666)
        except FileNotFoundError:
            os.makedirs(self._folder.prefix, exist_ok=True)
            self._fd = os.open(self._part, _FLAGS, 0o666)
        written = os.pwrite(self._fd, body, 0)
        if written < len(body):
            write_all(self._fd, written, body[written:])
        return self._fd

    def publish(self) -> None:
        """Give the file its name.

        Raises:
            OSError: the bytes cannot be kept, or the rename fails. Call `discard`.
        """
        # The close first: a network disk may tell only then that it could not keep the bytes.
        self._close()
        os.replace(self._part, self.path)

    def discard(self) -> None:
        """Leave nothing behind, as far as that is possible: why the file failed matters more."""
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            os.unlink(self._part)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
