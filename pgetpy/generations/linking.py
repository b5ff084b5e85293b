"""Files of the cache under a second name: hard links, or copies where these were asked for."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from pgetpy.cache.contents import digest_of
from pgetpy.core.generations.record import RecordedFile, RecordedLink
from pgetpy.errors import IntegrityError, NotOneFileSystemError
from pgetpy.errors.reasons import system_reason
from pgetpy.generations.layout import open_to_all

_NOT_LINKABLE = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP})
_REASONS = {
    errno.EXDEV: "they are on different file systems, or different mounts of one",
    errno.EMLINK: "the file has as many names as the file system allows",
    errno.EPERM: "the file belongs to another user, or the file system has no hard links",
}
# All may read what is published, and it must not be written. A link shares its mode with the cache.
_READABLE, _WRITABLE = 0o444, 0o222


class TreeLinker:
    """Puts files into a tree that is being built.

    Args:
        tree: the folder of the tree.
        root: what errors call the folder of generations.
        copies: whether to copy what cannot be linked.
    """

    def __init__(self, tree: Path, root: Path, *, copies: bool) -> None:
        self.files: list[RecordedFile] = []
        self.links: list[RecordedLink] = []
        self._tree = str(tree)
        self._root = str(root)
        self._copies = copies
        self._folders = {self._tree}

    def add(self, source: str, path: str, size: int, sha256: str) -> None:
        """Give the file `source` the name `path` below the tree.

        Args:
            source: in the cache.
            path: relative, with slashes.
            size: in bytes, as it was recorded when it was verified.
            sha256: of its content, in hex.

        Raises:
            NotOneFileSystemError: it cannot be linked.
            IntegrityError: it is not what was recorded.
        """
        target = f"{self._tree}/{path}"
        self._make_folder(target.rpartition("/")[0])
        linked = self._link(source, target)
        status = os.lstat(target)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            raise IntegrityError(f"{source} has {status.st_size} bytes, and {size} were recorded")
        if linked and status.st_nlink < 2:
            raise IntegrityError(f"{target} is not a link, whatever the file system says")
        if not linked and digest_of(Path(target)) != f"sha256:{sha256}":
            raise IntegrityError(
                f"{source} is not what was recorded; pgetpy cache verify repairs it"
            )
        mode = stat.S_IMODE(status.st_mode)
        if mode & (_READABLE | _WRITABLE) != _READABLE:
            os.chmod(target, (mode | _READABLE) & ~_WRITABLE)
        self.files.append(RecordedFile(path, size, status.st_mtime_ns, sha256))

    def add_folder(self, source: Path, path: str) -> None:
        """Give everything in the folder `source` a name below `path`."""
        self._make_folder(f"{self._tree}/{path}")
        for below in _contents(source):
            name = f"{path}/{below.relative_to(source).as_posix()}"
            if below.is_symlink():
                self._add_link(os.readlink(below), name)
            elif below.is_dir():
                self._make_folder(f"{self._tree}/{name}")
            else:
                self.add(str(below), name, below.stat().st_size, _sha256(below))

    def _add_link(self, target: str, path: str) -> None:
        self._make_folder(f"{self._tree}/{path}".rpartition("/")[0])
        os.symlink(target, f"{self._tree}/{path}")
        self.links.append(RecordedLink(path, target))

    def _link(self, source: str, target: str) -> bool:
        """Link, or copy if that is allowed and linking impossible; return whether it is a link."""
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in _NOT_LINKABLE:
                raise
            if not self._copies:
                code = error.errno or errno.EXDEV
                reason = _REASONS.get(code, system_reason(error))
                raise NotOneFileSystemError(source, self._root, reason, code=code) from None
            shutil.copyfile(source, target)
            return False
        return True

    def _make_folder(self, folder: str) -> None:
        missing = []
        while folder not in self._folders:
            missing.append(folder)
            folder = folder.rpartition("/")[0]
        for each in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(each)
            open_to_all(each)
            self._folders.add(each)


def _contents(folder: Path) -> Iterator[Path]:
    """Yield everything below `folder`, a folder before what is in it."""
    for entry in sorted(os.scandir(folder), key=lambda each: each.name):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _contents(Path(entry.path))


def _sha256(path: Path) -> str:
    digest = digest_of(path) or ""
    return digest.removeprefix("sha256:")
