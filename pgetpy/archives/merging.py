"""How staged members get to a folder that exists: by renames alone, one by one.

Both trees are walked together. What happens to a staged member depends on what has its name:

    staged     in the folder    done
    --------   -------------    --------------------------------------------------
    file       nothing, file    rename, which replaces a file
    folder     nothing          rename, with all that is below
    folder     folder           the same for each member below, then rmdir
    file       folder           refused, and so is a folder in the place of a file

The walk is made twice. `check` looks for everything that could keep a rename from working (another
volume, a folder that may not be written, another user's file in a sticky folder), so that nothing
has been moved when an error is reported. `run` then moves.

A member that is still staged has not been moved yet. That is the only state, so `run` can be cut
short anywhere, done again, and ends the same. Folders are held open by descriptor and members are
named relative to them: a link that another process puts on the way is not followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pgetpy.archives.folder_attributes import (
    RECORD,
    Attributes,
    Parts,
    read_record,
    write_record,
)
from pgetpy.errors import DestinationError
from pgetpy.system.filesystem import closing_fd

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Linux: the fifth field of each line is a mount point, in which octal stands for white space.
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")


class _Level(NamedTuple):
    """Two folders of one path, open: of the staged members, and of where they go."""

    source: int
    target: int
    parts: Parts


class Merge:
    """Moves the members in `source` into `target`.

    Attributes:
        attributes: the permissions and times of folders in `target` in the end: the archive's for
            folders that it states, as with GNU tar, and their present ones for others.
    """

    def __init__(self, source: Path, target: Path) -> None:
        self._source = source
        self._target = target
        self.attributes = read_record(source)

    def check(self) -> None:
        """Raise DestinationError where a member could not be moved to its place."""
        known = len(self.attributes)
        volume = os.stat(self._target).st_dev
        obstacles = _Obstacles(volume, _mounts_below(self._target))
        self._from_the_top(lambda level: self._check_level(level, obstacles))
        if len(self.attributes) > known:
            write_record(self._source, self.attributes)

    def run(self) -> None:
        """Move them. May be repeated if an earlier try was cut short."""
        self._from_the_top(self._move_level)

    def _check_level(self, level: _Level, obstacles: _Obstacles) -> None:
        """Look for obstacles in one folder and those below it that exist in both trees.

        The folder itself is looked at only if a member would be moved into it.
        """
        tried = False
        for entry in _entries(level):
            path = self._target.joinpath(*level.parts, entry.name)
            there = _status_at(entry.name, level.target)
            if there is not None:
                _check_kind(entry, there, path)
            if there is not None and stat.S_ISDIR(there.st_mode):
                self._keep_closed(level, entry.name, there)
                try:
                    self._descend(
                        level, entry.name, lambda below: self._check_level(below, obstacles)
                    )
                except PermissionError as error:
                    raise _unwritable(path) from error
                continue
            if not tried:
                obstacles.check_folder(level.target, path.parent)
                tried = True
            if there is not None:
                obstacles.check_replaced(os.fstat(level.target), there, path)

    def _keep_closed(self, level: _Level, name: str, there: os.stat_result) -> None:
        """Record the permissions of a folder that has to be opened up, for a later run, too."""
        if there.st_mode & 0o700 != 0o700:
            attributes = Attributes(there.st_mode & 0o777, None)
            self.attributes.setdefault((*level.parts, name), attributes)

    def _move_level(self, level: _Level) -> None:
        """Move the members of one folder, and of those below it that exist in both trees."""
        for entry in _entries(level):
            name = entry.name
            if not entry.is_dir(follow_symlinks=False):
                os.rename(name, name, src_dir_fd=level.source, dst_dir_fd=level.target)
            elif not self._move_whole(level, name):
                attributes = self.attributes.get((*level.parts, name))
                self._descend(level, name, self._move_level, attributes)
                # Last: as long as it exists, a later run goes on with what is in it.
                os.rmdir(name, dir_fd=level.source)

    def _move_whole(self, level: _Level, name: str) -> bool:
        """Move the folder with all that is below it; False if something already has its name."""
        if _status_at(name, level.target) is not None:
            return False
        try:
            os.rename(name, name, src_dir_fd=level.source, dst_dir_fd=level.target)
        except PermissionError:
            # Moving a folder changes its `..`, for which it must be writable. So a new one is made,
            # and the members follow.
            stated = (*level.parts, name) in self.attributes
            os.mkdir(name, 0o700 if stated else 0o777, dir_fd=level.target)
            return False
        return True

    def _from_the_top(self, visit: Callable[[_Level], None]) -> None:
        with (
            closing_fd(os.open(self._source, OPEN_FOLDER)) as source,
            closing_fd(os.open(self._target, OPEN_FOLDER & ~os.O_NOFOLLOW)) as target,
        ):
            visit(_Level(source, target, ()))

    def _descend(
        self,
        level: _Level,
        name: str,
        visit: Callable[[_Level], None],
        attributes: Attributes | None = None,
    ) -> None:
        """Visit the folder `name`, which looks as `attributes` say afterwards."""
        with (
            _open_folder(name, level.source) as source,
            _open_folder(name, level.target, attributes) as target,
        ):
            visit(_Level(source, target, (*level.parts, name)))


class _Obstacles(NamedTuple):
    """What can keep a rename from working.

    Attributes:
        volume: the device of the staged members.
        mounts: mount points below the folder. A bind mount has the same device, and a rename into
            it fails all the same.
    """

    volume: int
    mounts: frozenset[Path]

    def check_folder(self, folder: int, path: Path) -> None:
        """Raise DestinationError if nothing can be moved into `folder`."""
        mount = next((mount for mount in self.mounts if mount in (path, *path.parents)), None)
        if mount is not None or os.fstat(folder).st_dev != self.volume:
            raise _other_volume(mount or path)
        effective = os.access in os.supports_effective_ids
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=effective):
            raise _unwritable(path)

    def check_replaced(self, folder: os.stat_result, there: os.stat_result, path: Path) -> None:
        """Raise DestinationError if nothing can take the place of what is `there` in `folder`."""
        if path in self.mounts:
            raise _other_volume(path)
        owners = (0, folder.st_uid, there.st_uid)
        if folder.st_mode & stat.S_ISVTX and os.geteuid() not in owners:
            reason = "belongs to another user, in a folder where only its owner may replace it"
            raise DestinationError(
                str(path), reason, hint="ask the owner to move it away", code=errno.EPERM
            )


def _check_kind(entry: os.DirEntry[str], there: os.stat_result, path: Path) -> None:
    is_folder = stat.S_ISDIR(there.st_mode)
    if entry.is_dir(follow_symlinks=False) != is_folder:
        raise DestinationError(
            str(path),
            f"{'is a folder' if is_folder else 'is not a folder'}, unlike the archive's member of "
            "that name",
            hint="move it away and run it again",
            code=errno.EEXIST,
        )


def _other_volume(path: Path) -> DestinationError:
    reason = "is a mount point, and members cannot be moved into another volume"
    hint = "unmount it, or extract to another folder"
    return DestinationError(str(path), reason, hint=hint, code=errno.EXDEV)


def _unwritable(path: Path) -> DestinationError:
    reason = "is not writable, and members of the archive belong in it"
    hint = "change its permissions or move it away, and run it again"
    return DestinationError(str(path), reason, hint=hint, code=errno.EACCES)


def _mounts_below(folder: Path) -> frozenset[Path]:
    """Return the mount points below `folder`, as far as the system tells (proc(5), mountinfo)."""
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return frozenset()
    fields = (line.split(b" ")[4] for line in lines)
    points = (_OCTAL.sub(lambda octal: bytes([int(octal[1], 8)]), field) for field in fields)
    paths = (Path(os.fsdecode(point)) for point in points)
    return frozenset(path for path in paths if folder in path.parents)


def _entries(level: _Level) -> list[os.DirEntry[str]]:
    with os.scandir(level.source) as entries:
        return [entry for entry in entries if level.parts or entry.name != RECORD]


def _status_at(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _open_folder(name: str, folder: int, attributes: Attributes | None = None) -> Iterator[int]:
    """Open `name` in `folder`, with permission to read and write it as long as it is open.

    Afterwards it gets `attributes`; without them, or after an error, the permissions that it had.
    """
    mode = stat.S_IMODE(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    if mode & 0o700 != 0o700:
        with contextlib.suppress(OSError):
            os.chmod(name, mode | 0o700, dir_fd=folder)
    with closing_fd(os.open(name, OPEN_FOLDER, dir_fd=folder)) as fd:
        closed = Attributes(mode, None) if mode & 0o700 != 0o700 else None
        try:
            yield fd
            closed = attributes or closed
        finally:
            if closed is not None:
                closed.apply(fd)
