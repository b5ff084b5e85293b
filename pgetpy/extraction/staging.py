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
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pgetpy.core.journal import parse_journal
from pgetpy.core.names import journal_name, layout_name, part_name, spool_name
from pgetpy.errors import DestinationError
from pgetpy.extraction.folder import remove_tree

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
        spool: the file for what is still to be made into members.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A run that was cut short as the folder appeared has left its journal beside it.
        journal = folder.with_name(journal_name(folder.name))
        staged = folder.with_name(part_name(folder.name))
        appeared = os.path.lexists(journal) and not os.path.lexists(staged)
        self._inside = folder.is_dir() and not appeared
        self.anchor = folder / _INSIDE if self._inside else folder
        self.root = self.anchor.with_name(part_name(self.anchor.name))
        self.layout = self.anchor.with_name(layout_name(self.anchor.name))
        self.spool = self.anchor.with_name(spool_name(self.anchor.name))

    def make_private(self) -> None:
        """Stage under names of this run's own: another may be at work that cannot be seen."""
        mark = f"{self.anchor.name}.{secrets.token_hex(4)}"
        self.root = self.anchor.with_name(part_name(mark))
        self.layout = self.anchor.with_name(layout_name(mark))
        self.spool = self.anchor.with_name(spool_name(mark))

    def make(self) -> None:
        """Make the root, where it is not there yet."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.root, 0o777)
        # A link that others have put there would lead elsewhere.
        fd = os.open(self.root, _OPEN_FOLDER)
        try:
            # An earlier run may have given it the permissions that the archive states.
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            if mode & 0o700 != 0o700:
                os.fchmod(fd, mode | 0o700)
        finally:
            os.close(fd)

    def clear(self) -> None:
        """Take everything away that has been staged."""
        remove_tree(self.root)

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
        if not os.path.lexists(self.root):
            return
        if not self._inside:
            self._appear()
            return
        self.make()
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
    lock = ".pgetpy-lock"
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    theirs = (name for name in names if not (name.startswith(ours) or name.endswith(lock)))
    # A run that was cut short while it moved the members has left some of them there.
    if any(name not in _UNIMPORTANT for name in theirs) and not _half_moved(folder):
        raise DestinationError(
            str(folder),
            f"already exists and is not empty{place}",
            hint="use -f to put the members into it",
            code=errno.EEXIST,
        )


def _half_moved(folder: Path) -> bool:
    try:
        path = Staging(folder).anchor
        return parse_journal(path.with_name(journal_name(path.name)).read_bytes()).moving
    except OSError:
        return False


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
            _descend(_merge_level, entry.name, source, target, path)
            os.rmdir(entry.name, dir_fd=source)
            # It may belong to another, who lets us write into it.
            with contextlib.suppress(PermissionError):
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
    with _opened(name, source) as below, _opened(name, target) as there:
        visit(below, there, path / name)


@contextlib.contextmanager
def _opened(name: str, folder: int) -> Iterator[int]:
    """A folder in `folder`, which may be read and written meanwhile, if it is ours."""
    mode = stat.S_IMODE(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    closed = mode & 0o700 != 0o700
    if closed:
        with contextlib.suppress(PermissionError):
            os.chmod(name, mode | 0o700, dir_fd=folder)
    fd = os.open(name, _OPEN_FOLDER, dir_fd=folder)
    try:
        yield fd
    finally:
        if closed:
            with contextlib.suppress(PermissionError):
                os.fchmod(fd, mode)
        os.close(fd)


def _kind_at(name: str, folder: int) -> int:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0
