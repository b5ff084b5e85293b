"""Where an archive's members stand until all are there, and how they come to their folder.

A folder that does not exist yet is staged beside itself and appears by one rename. One that exists
(it may be a volume, which cannot be renamed) is staged in a hidden folder inside it; from there the
members go to their places one by one, by renames alone. Should that be cut short, the next run
finishes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from pgetpy.core.names import layout_name, part_name
from pgetpy.errors import DestinationError

# What the staged members of an existing folder are called, and what a new file system has.
_INSIDE = "members"
_UNIMPORTANT = frozenset({"lost+found"})
# A function of the staged folder's descriptor, the target's, and the target's path.
_Visit = Callable[[int, int, Path], None]
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Staging:
    """The way of an archive's members into `folder`.

    Attributes:
        anchor: the path by which the ledger of the extraction goes.
        root: the folder in which members are made.
        layout: the file for what is no member.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inside = folder.is_dir()
        self.anchor = folder / _INSIDE if self._inside else folder
        self.root = self.anchor.with_name(part_name(self.anchor.name))
        self.layout = self.anchor.with_name(layout_name(self.anchor.name))

    def make_private(self) -> None:
        """Stage under names of this run's own: another may be at work that cannot be seen."""
        mark = f"{self.anchor.name}.{secrets.token_hex(4)}"
        self.root = self.anchor.with_name(part_name(mark))
        self.layout = self.anchor.with_name(layout_name(mark))

    def make(self) -> None:
        """Make the root, where it is not there yet."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.root, 0o777)
        # A link that others have put there would lead elsewhere.
        os.close(os.open(self.root, _OPEN_FOLDER))

    def clear(self) -> None:
        """Take everything away that has been staged."""
        if os.path.lexists(self.root):
            _make_writable(self.root)
            shutil.rmtree(self.root)

    def check(self, passages: Iterable[tuple[str, ...]]) -> None:
        """Raise DestinationError where something stands in the way of a member.

        `passages` are paths that the archive's symbolic links lead through, but that are none of
        its folders: a link there would lead them elsewhere.
        """
        if not self._inside:
            return
        self._each_level(_check_level)
        for parts in passages:
            path = self.folder.joinpath(*parts)
            if path.is_symlink():
                reason = "is a symbolic link, through which one of the archive would lead"
                raise DestinationError(str(path), reason, hint="move it away", code=errno.ELOOP)

    def publish(self) -> None:
        """Bring the members to their folder. Again, if an earlier try was cut short."""
        if not self._inside:
            self._appear()
            return
        if self.root.exists():
            self._each_level(_merge_level)
            os.rmdir(self.root)

    def sync(self) -> None:
        """Bring the names to stable storage."""
        for folder in (self.folder, self.folder.parent):
            fd = os.open(folder, _OPEN_FOLDER)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _appear(self) -> None:
        try:
            os.rename(self.root, self.folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            reason = "has come to be there meanwhile"
            hint = "use -f to put the members into it"
            raise DestinationError(
                str(self.folder), reason, hint=hint, code=errno.EEXIST
            ) from error

    def _each_level(self, visit: _Visit) -> None:
        source = os.open(self.root, _OPEN_FOLDER)
        try:
            target = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                visit(source, target, self.folder)
            finally:
                os.close(target)
        finally:
            os.close(source)


def check_empty(folder: Path, place: str = "") -> None:
    """Raise DestinationError if `folder` holds anything but what an extraction has put there.

    `place` says where it was named.
    """
    ours = f".{_INSIDE}."
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    if any(name not in _UNIMPORTANT and not name.startswith(ours) for name in names):
        raise DestinationError(
            str(folder),
            f"already exists and is not empty{place}",
            hint="use -f to put the members into it",
            code=errno.EEXIST,
        )


def fold_of(folder: Path) -> Callable[[str], str]:
    """Return what says which names the file system of `folder` takes for one.

    It is tried out on a file of our own.
    """
    probe = f".{secrets.token_hex(8)}-\u00e9.pgetpy-probe"
    path = folder / probe
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        cased = os.path.lexists(folder / probe.upper())
        normalised = os.path.lexists(folder / unicodedata.normalize("NFD", probe))
    finally:
        os.unlink(path)

    def fold(name: str) -> str:
        name = unicodedata.normalize("NFC", name) if normalised else name
        return name.casefold() if cased else name

    return fold


def _entries(folder: int) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _check_level(source: int, target: int, path: Path) -> None:
    for entry in _entries(source):
        there = _kind_at(entry.name, target)
        if there == 0:
            continue
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder != stat.S_ISDIR(there):
            reason = "is a folder" if stat.S_ISDIR(there) else "is no folder"
            raise DestinationError(
                str(path / entry.name),
                f"{reason}, unlike the archive's member of that name",
                hint="move it away and run it again: what has arrived is kept",
                code=errno.EEXIST,
            )
        if is_folder:
            _descend(_check_level, entry.name, source, target, path)


def _merge_level(source: int, target: int, path: Path) -> None:
    for entry in _entries(source):
        if not entry.is_dir(follow_symlinks=False):
            os.rename(entry.name, entry.name, src_dir_fd=source, dst_dir_fd=target)
        elif not _moved_whole(entry.name, source, target):
            status = os.stat(entry.name, dir_fd=source, follow_symlinks=False)
            os.chmod(entry.name, 0o700, dir_fd=source)
            _descend(_merge_level, entry.name, source, target, path)
            os.rmdir(entry.name, dir_fd=source)
            os.chmod(entry.name, stat.S_IMODE(status.st_mode), dir_fd=target)
            times = (status.st_atime_ns, status.st_mtime_ns)
            os.utime(entry.name, ns=times, dir_fd=target)


def _moved_whole(name: str, source: int, target: int) -> bool:
    """Whether the folder could be moved as it is, nothing being there of that name."""
    if _kind_at(name, target):
        return False
    try:
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    except PermissionError:
        # A folder that may not be written cannot be moved either.
        os.mkdir(name, 0o700, dir_fd=target)
        return False
    return True


def _descend(visit: _Visit, name: str, source: int, target: int, path: Path) -> None:
    below = os.open(name, _OPEN_FOLDER, dir_fd=source)
    try:
        beside = os.open(name, _OPEN_FOLDER, dir_fd=target)
        try:
            visit(below, beside, path / name)
        finally:
            os.close(beside)
    finally:
        os.close(below)


def _kind_at(name: str, folder: int) -> int:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0


def _make_writable(root: Path) -> None:
    """Folders that may not be written keep their contents."""
    for folder, names, _ in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
