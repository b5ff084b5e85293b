"""Members of an archive, made in a folder that nothing else stands in.

Where a member may stand has been decided (`core.roster`): no path here leads through a link, and
nothing that was there before is opened.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from pgetpy.core.members import Kind, Member
from pgetpy.core.ranges import Spans
from pgetpy.core.roster import Entry, permissions

# Written by the kernel from the connection; smaller files are better gathered in a buffer first.
LARGE = 512 * 1024


class MemberFile:
    """A file under way: `landed` are the archive's bytes that it has got.

    Attributes:
        fd: -1 once it is closed.
        large: whether bytes may be written to `fd` by others.
        pinned: reads the file when it has lost its name; -1 where it has not.
    """

    __slots__ = ("entry", "fd", "landed", "large", "path", "pinned", "wanted")

    def __init__(self, path: str, entry: Entry, fd: int, *, large: bool) -> None:
        self.path = path
        self.entry = entry
        self.fd = fd
        self.large = large
        self.pinned = -1
        self.landed = Spans()
        self.wanted = sum(extent.size for extent in entry.member.extents)

    @property
    def whole(self) -> bool:
        return self.landed.size >= self.wanted

    def pin(self) -> None:
        """Keep the file readable: its name is about to go to another."""
        if self.fd < 0 and self.pinned < 0:
            self.pinned = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def unpin(self) -> None:
        """The file will not be read any more."""
        if self.pinned >= 0:
            os.close(self.pinned)
            self.pinned = -1

    def write(self, offset: int, data: memoryview) -> None:
        """Write `data` at `offset` of the file."""
        while data:
            count = os.pwrite(self.fd, data, offset)
            offset += count
            data = data[count:]


class MemberFolder:
    """Makes members under `root`, which exists and is empty, or holds what an earlier run made.

    Attributes:
        written: the names of the members made, in the archive's order.
    """

    def __init__(self, root: Path, *, fsync: bool = False) -> None:
        self.written: list[str] = []
        self._root = os.fspath(root)
        self._fsync = fsync
        # What the umask leaves of a new folder's permissions.
        self._umask = 0o777 & ~stat.S_IMODE(os.stat(root).st_mode)
        self._known: set[tuple[str, ...]] = {()}

    def make(self, entry: Entry, *, large: bool) -> MemberFile | None:
        """Make `entry`; return the file, open, if it is one."""
        path = self._at(entry.parts)
        self._make_parents(entry.parts)
        kind = entry.member.kind
        if kind is not Kind.FOLDER:
            self.written.append("/".join(entry.parts))
        if entry.replaces and kind is not Kind.FOLDER:
            os.unlink(path)
        if kind is Kind.FOLDER:
            self._make_folder(entry.parts)
        elif kind is Kind.SYMLINK:
            os.symlink(entry.member.target, path)
            self._stamp(path, entry)
        elif kind is Kind.HARDLINK:
            assert entry.target is not None
            os.link(self._at(entry.target), path, follow_symlinks=False)
        else:
            return self._made(path, entry, large=large)
        return None

    def adopt(self, entry: Entry, *, whole: bool) -> tuple[bool, MemberFile | None]:
        """Take over what an earlier run made of `entry`, or make it.

        Returns:
            Whether the bytes that it is said to hold are there, and the file for those that are
            missing, None where it is `whole`.
        """
        path = self._at(entry.parts)
        try:
            there = os.lstat(path)
        except FileNotFoundError:
            return False, self.make(entry, large=True)
        self._known.add(entry.parts[:-1])
        if entry.member.kind is Kind.FOLDER:
            self._known.add(entry.parts)
            return True, None
        self.written.append("/".join(entry.parts))
        if entry.member.kind is not Kind.FILE:
            return True, None
        if not stat.S_ISREG(there.st_mode) or (whole and there.st_size != entry.member.size):
            os.unlink(path)
            return False, self._made(path, entry, large=True)
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        file = MemberFile(path, entry, fd, large=True)
        if not whole:
            return True, file
        self.finish(file)
        return True, None

    def finish(self, file: MemberFile) -> None:
        """`file` has got all its bytes: give it its permissions and time, and close it."""
        member = file.entry.member
        if self._fsync:
            os.fsync(file.fd)
        os.fchmod(file.fd, permissions(member.mode, self._umask))
        os.utime(file.fd, ns=(member.mtime, member.mtime))
        self.close(file)

    def close(self, file: MemberFile) -> None:
        """Close `file` as it is."""
        if file.fd >= 0:
            os.close(file.fd)
            file.fd = -1

    def seal(self, folders: Iterable[tuple[tuple[str, ...], Member]]) -> None:
        """All members are there: give `folders` their permissions and times, in this order."""
        for parts, member in folders:
            path = self._at(parts)
            os.chmod(path, permissions(member.mode, self._umask))
            os.utime(path, ns=(member.mtime, member.mtime))

    def _made(self, path: str, entry: Entry, *, large: bool) -> MemberFile:
        member = entry.member
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = MemberFile(path, entry, os.open(path, flags, 0o600), large=large)
        sparse = file.wanted != member.size
        if sparse or (large and member.size >= LARGE):
            os.ftruncate(file.fd, member.size)
        return file

    def _make_parents(self, parts: tuple[str, ...]) -> None:
        for depth in range(1, len(parts)):
            if parts[:depth] not in self._known:
                self._make_folder(parts[:depth])

    def _make_folder(self, parts: tuple[str, ...]) -> None:
        if parts in self._known:
            return
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._at(parts), 0o777)
        self._known.add(parts)

    def _stamp(self, path: str, entry: Entry) -> None:
        mtime = entry.member.mtime
        if os.utime in os.supports_follow_symlinks:
            os.utime(path, ns=(mtime, mtime), follow_symlinks=False)

    def _at(self, parts: tuple[str, ...]) -> str:
        return "/".join((self._root, *parts))
