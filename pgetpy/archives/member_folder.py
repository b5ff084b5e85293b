"""Members of an archive, made in a folder that holds nothing else.

Names have been judged before (`core.archives.member_policy`): no path here leads through a link.
Here every file is created with O_EXCL and O_NOFOLLOW, so that nothing that exists already is opened
or followed, even if another process puts it there.

A file goes through these steps. Permissions come last, since 0444 would keep us from writing:

    make     created with mode 0600, stretched to its size if bytes may come in any order
    ...      bytes land
    finish   size checked, flushed if asked for, permissions and time set, closed

A deflated member has two files: `defer` lets its bytes go to the spool, and `make_output` makes the
file for its content, which `deliver` renames to the member's name when its CRC is right. So a
name never shows content that is incomplete.

After a kill, `adopt` takes over what an earlier run made, if its size and kind leave no doubt, and
makes it anew otherwise. Folders get their permissions and times at the end (`seal`), deepest first,
because writing below them would change them.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Sequence, Set
from pathlib import Path

from pgetpy.archives.folder_attributes import (
    RECORD,
    Attributes,
    has_record,
    with_local_bits,
    write_record,
)
from pgetpy.archives.member_file import LARGE, MemberFile, member_errors, raise_member_error
from pgetpy.archives.open_folder import OpenFolder
from pgetpy.core.archives.member_policy import AdmittedMember, permissions
from pgetpy.core.archives.members import Kind, Member
from pgetpy.core.destinations.names import OWN_PREFIX, PART
from pgetpy.errors import ArchiveError, UnsafeMemberError
from pgetpy.system.filesystem import (
    MetadataWarnings,
    closing_fd,
    mode_at,
    remove_tree,
    sync_file,
    write_all,
)

_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class MemberFolder:
    """Makes members under `root`, which exists and is empty, or holds what an earlier run made.

    Args:
        root: the staged folder.
        fsync: whether each file is flushed before it is closed.

    Attributes:
        written: the names of the members made, in the archive's order.
    """

    def __init__(self, root: Path, *, fsync: bool = False) -> None:
        self.written: list[str] = []
        self._root = os.fspath(root)
        self._fsync = fsync
        self._warnings = MetadataWarnings("members of the archive")
        # An earlier run may have given the root itself other permissions than a new folder has.
        self._umask = 0o777 & ~_mode_of_new(root)
        self._known: set[tuple[str, ...]] = {()}
        # The one that `put` made its last file in.
        self._open = OpenFolder()

    def make(
        self, entry: AdmittedMember, *, large: bool, stretched: bool = True
    ) -> MemberFile | None:
        """Make `entry`; return the file, open, if it is one.

        Args:
            entry: the member.
            large: whether bytes may be written to its descriptor by others.
            stretched: whether it gets its full size at once. Its size then no longer tells how
                much has been written.

        Raises:
            DestinationError: it cannot be made here.
            OSError: the disk is full.
        """
        path = self._at(entry.parts)
        kind, mtime = entry.member.kind, entry.member.mtime
        with member_errors(entry):
            self._make_way(path, entry)
            if kind is Kind.FILE:
                return self._create(path, entry, large=large, stretched=stretched)
            if kind is Kind.FOLDER:
                self._make_folder(entry.parts)
            elif kind is Kind.SYMLINK:
                os.symlink(entry.member.target, path)
                if os.utime in os.supports_follow_symlinks:
                    with self._warnings.tolerate("to set times"):
                        os.utime(path, ns=(mtime, mtime), follow_symlinks=False)
            else:
                assert entry.target is not None
                os.link(self._at(entry.target), path, follow_symlinks=False)
        return None

    def put(self, entry: AdmittedMember, offset: int, content: memoryview) -> None:
        """Make the file of `entry`, complete: `content` at `offset`, and holes around it.

        Raises:
            DestinationError, OSError: as `make`.
        """
        # No context managers here: each would take as long as one of the system calls.
        member, parts = entry.member, entry.parts
        try:
            if parts[:-1] != self._open.parts or entry.replaces:
                self._enter(entry)
            self.written.append("/".join(parts))
            fd = os.open(parts[-1], _NEW_FILE, 0o600, dir_fd=self._open.fd)
            try:
                size = len(content)
                if offset or os.write(fd, content) != size:
                    write_all(fd, offset, content)
                if member.size != offset + size:
                    os.ftruncate(fd, member.size)
                self._finish(fd, member)
            finally:
                os.close(fd)
        except OSError as error:
            raise_member_error(entry, error)

    def close_folder(self) -> None:
        """Close the folder that `put` keeps open."""
        self._open.close()

    def closed_file(self, entry: AdmittedMember) -> MemberFile:
        """Return, closed, the file that has been made of `entry`."""
        spooled = entry.member.compression is not None
        return MemberFile(self._at(entry.parts), entry, -1, large=False, spooled=spooled)

    def defer(self, entry: AdmittedMember, fd: int, *, large: bool) -> MemberFile:
        """Return a file for `entry`, which is made when its content is.

        Until then bytes go to `fd`, the spool's, which stays open when the file is closed.
        """
        self._make_parents(entry.parts)
        self.written.append("/".join(entry.parts))
        return MemberFile(self._at(entry.parts), entry, fd, large=large, spooled=True)

    def make_output(self, file: MemberFile) -> MemberFile:
        """Return a new file for the content of `file`, under a name that no member has."""
        folder = os.path.dirname(file.path)
        path = f"{folder}/{OWN_PREFIX}{secrets.token_hex(8)}{PART}"
        return self._create(path, file.entry, large=False)

    def deliver(self, output: MemberFile) -> None:
        """Finish `output`, and give it its name."""
        self.finish(output)
        os.rename(output.path, self._at(output.entry.parts))

    def claim_delivered(self, entry: AdmittedMember) -> bool:
        """Whether an earlier run delivered `entry`; anything else at that name is removed."""
        self._adopt_parents(entry.parts)
        path = self._at(entry.parts)
        if self._size_of(path, entry, whole=True) == entry.member.size:
            return True
        remove_tree(path)
        return False

    def adopt_delivered(self, entry: AdmittedMember) -> MemberFile:
        """Return, closed, what an earlier run delivered for `entry`."""
        path = self._at(entry.parts)
        self.written.append("/".join(entry.parts))
        # The earlier run may have been killed between the last byte and the permissions.
        with self._warnings.tolerate("to set permissions"):
            os.chmod(path, 0o600)
        self.finish(MemberFile(path, entry, -1, large=False))
        return self.closed_file(entry)

    def adopt(
        self, entry: AdmittedMember, *, needed: int, whole: bool
    ) -> tuple[bool, MemberFile | None]:
        """Take over what an earlier run made of `entry`, or make it.

        Args:
            needed: the size that the file has at least, if the bytes that it is said to hold are
                there; `whole` says that these are all.

        Returns:
            Whether they are there, and the file, if it is one; it is closed if it is `whole`.

        Raises:
            DestinationError, OSError: see `make`.
        """
        path, kind = self._at(entry.parts), entry.member.kind
        with member_errors(entry):
            self._adopt_parents(entry.parts)
            if kind is Kind.FOLDER:
                self._adopt_folder(entry.parts)
                return True, None
            there = self._size_of(path, entry, whole=whole)
            most = entry.member.size if kind is Kind.FILE else 0
            if there is None or not needed <= there <= most:
                remove_tree(path)
                # It stays short until it is written: the journal may still say that its bytes are
                # here.
                return False, self.make(entry, large=True, stretched=False)
            self.written.append("/".join(entry.parts))
            if kind is not Kind.FILE:
                return True, None
            with self._warnings.tolerate("to set permissions"):
                os.chmod(path, 0o600)
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            file = MemberFile(path, entry, fd, large=True)
            (self.finish if whole else self._stretch)(file)
            return True, file

    def sweep(self, kept: Set[tuple[str, ...]]) -> None:
        """Remove everything that is not at one of the paths `kept`, or a folder above one."""
        pending: list[tuple[str, ...]] = [()]
        while pending:
            folder = pending.pop()
            with os.scandir(self._at(folder)) as entries:
                for entry in list(entries):
                    parts = (*folder, entry.name)
                    if parts in self._known:
                        pending.append(parts)
                    elif parts not in kept and parts != (RECORD,):
                        remove_tree(entry.path)

    def finish(self, file: MemberFile) -> None:
        """`file` has got all its bytes: give it its permissions and time, and close it."""
        with member_errors(file.entry):
            if file.fd >= 0 and not file.spooled:
                self._complete(file)
            with closing_fd(file.open_again()) as fd:
                self._finish(fd, file.entry.member)
        self.close(file)

    def close(self, file: MemberFile) -> None:
        """Close `file` as it is."""
        if file.fd >= 0 and not file.spooled:
            os.close(file.fd)
        file.fd = -1

    def seal(self, folders: Sequence[tuple[tuple[str, ...], Member]]) -> None:
        """All members are there: give `folders` their permissions and times, in this order."""
        stated = {
            parts: Attributes(permissions(member.mode, self._umask), member.mtime)
            for parts, member in folders
        }
        if has_record(self._root):
            write_record(self._root, stated)
        for parts, member in folders:
            path = self._at(parts)
            with self._warnings.tolerate("to set permissions"):
                os.chmod(path, with_local_bits(stated[parts].mode, os.lstat(path)))
            with self._warnings.tolerate("to set times"):
                os.utime(path, ns=(member.mtime, member.mtime))

    def _create(
        self, path: str, entry: AdmittedMember, *, large: bool, stretched: bool = True
    ) -> MemberFile:
        file = MemberFile(path, entry, os.open(path, _NEW_FILE, 0o600), large=large)
        if stretched:
            self._stretch(file)
        return file

    def _stretch(self, file: MemberFile) -> None:
        """Give `file` its size, so that bytes may be written anywhere in it, and holes are there.

        Small files that get all their bytes in order need not be: that saves a system call each.
        """
        member = file.entry.member
        gathered = file.wanted == member.size and not (file.large and member.size >= LARGE)
        if not gathered and member.compression is None:
            os.ftruncate(file.fd, member.size)

    def _complete(self, file: MemberFile) -> None:
        """Check the size of `file`, or set it if the file may end with a hole."""
        member = file.entry.member
        if not member.extents:
            return
        if member.compression is None and file.wanted != member.size:
            os.ftruncate(file.fd, member.size)
        elif os.fstat(file.fd).st_size != member.size:
            raise ArchiveError(f"member {member.name!r} was truncated by another process")

    def _adopt_parents(self, parts: tuple[str, ...]) -> None:
        for depth in range(1, len(parts)):
            self._adopt_folder(parts[:depth])

    def _adopt_folder(self, parts: tuple[str, ...]) -> None:
        """Make a folder at `parts`, or open up the one that an earlier run made."""
        if parts in self._known:
            return
        path = self._at(parts)
        mode = mode_at(path)
        if not stat.S_ISDIR(mode):
            remove_tree(path)
            os.mkdir(path, 0o777)
        elif mode & 0o700 != 0o700:
            with self._warnings.tolerate("to set permissions"):
                os.chmod(path, stat.S_IMODE(mode) | 0o700)
        self._known.add(parts)

    def _size_of(self, path: str, entry: AdmittedMember, *, whole: bool) -> int | None:
        """Return the size of what an earlier run made of `entry`; None if that cannot be used.

        For links the size is 0, and they count only if they lead to the same place.
        """
        try:
            there = os.lstat(path)
            if entry.member.kind is Kind.SYMLINK:
                return 0 if os.readlink(path) == entry.member.target else None
            if entry.target is not None:
                same = os.path.samestat(there, os.lstat(self._at(entry.target)))
                return 0 if same else None
        except OSError:
            return None
        # Writing to a file with a second hard link would change that name's content, too.
        usable = stat.S_ISREG(there.st_mode) and (whole or there.st_nlink == 1)
        return there.st_size if usable else None

    def _finish(self, fd: int, member: Member) -> None:
        """Flush the file if asked for, and set permissions and time, which may be refused."""
        if self._fsync:
            self._fsync = sync_file(fd, "members of the archive")
        try:
            os.fchmod(fd, permissions(member.mode, self._umask))
        except OSError as error:
            self._warnings.warn("to set permissions", error)
        try:
            os.utime(fd, ns=(member.mtime, member.mtime))
        except OSError as error:
            self._warnings.warn("to set times", error)

    def _enter(self, entry: AdmittedMember) -> None:
        """Open the folder of `entry`, and remove the earlier member that it replaces."""
        folder = entry.parts[:-1]
        if folder not in self._known:
            self._make_parents(entry.parts)
        if entry.replaces:
            os.unlink(self._at(entry.parts))
        self._open.open(folder, self._at(folder), entry.parts[-1])

    def _make_way(self, path: str, entry: AdmittedMember) -> None:
        """Make the folders above `entry`, and remove the earlier member that it replaces.

        That one is unlinked and not written into: other names may be hard links to it.
        """
        if entry.parts[:-1] not in self._known:
            self._make_parents(entry.parts)
        if entry.member.kind is not Kind.FOLDER:
            self.written.append("/".join(entry.parts))
            if entry.replaces:
                os.unlink(path)

    def _make_parents(self, parts: tuple[str, ...]) -> None:
        for depth in range(1, len(parts)):
            self._make_folder(parts[:depth])

    def _make_folder(self, parts: tuple[str, ...]) -> None:
        """Make a folder, writable for now; `seal` sets the permissions that the archive states."""
        if parts in self._known:
            return
        path = self._at(parts)
        try:
            os.mkdir(path, 0o777)
        except FileExistsError:
            # The file system may treat more names as one than the probe of `fold_of` shows.
            if not stat.S_ISDIR(mode_at(path)):
                reason = "the file system takes its folder's name for that of another member"
                raise UnsafeMemberError("/".join(parts), reason) from None
        self._known.add(parts)

    def _at(self, parts: tuple[str, ...]) -> str:
        return "/".join((self._root, *parts))


def _mode_of_new(root: Path) -> int:
    """Return the permissions of a new folder in `root`: what the umask, or a default ACL, leaves.

    Tried out, because reading the umask means setting it, for all threads of the process.
    """
    probe = root / f".{secrets.token_hex(8)}.pgetpy-probe"
    os.mkdir(probe, 0o777)
    try:
        return stat.S_IMODE(os.stat(probe).st_mode)
    finally:
        os.rmdir(probe)
