"""The live folders of compilers: what is in them, what is damaged, what is being written."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pgetpy.core.compile_cache.contents import HEAD_BYTES, damage, is_seen_whole
from pgetpy.core.compile_cache.layouts import may_hold
from pgetpy.system.file_locks import try_lock
from pgetpy.system.filesystem import closing_fd

# Staged files are in folders with this beginning, beside what they become.
STAGE = ".pgetpy-stage-"
# What is checked as a whole is read into memory. Pickles and sources are far smaller.
_LARGEST_CHECKED = 64 << 20
# Deeper folders than a compiler makes are not looked into.
_DEEPEST = 8
_NOEXEC = getattr(os, "ST_NOEXEC", 8)


@dataclass(frozen=True)
class LiveFile:
    """A file in a live folder."""

    kind: str
    path: str
    size: int
    mtime_ns: int
    executable: bool

    @property
    def place(self) -> tuple[str, str]:
        return self.kind, self.path


@dataclass
class LiveScan:
    """What was found in the live folders.

    Attributes:
        files: by kind and path.
        others: how many files have names that no compiler writes, and are left alone.
    """

    files: dict[tuple[str, str], LiveFile] = field(default_factory=dict)
    others: int = 0


def scan_folders(folders: Mapping[str, Path]) -> LiveScan:
    """Return the files of all live folders; what vanishes meanwhile is not there."""
    scan = LiveScan()
    for kind, root in folders.items():
        for path, entry in _walk(root, "", _DEEPEST):
            if not may_hold(kind, path):
                scan.others += 1
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            executable = bool(found.st_mode & stat.S_IXUSR)
            live = LiveFile(kind, path, found.st_size, found.st_mtime_ns, executable)
            scan.files[live.place] = live
    return scan


def _walk(folder: Path | str, prefix: str, depth: int) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the regular files below `folder` with their paths there; links are not followed.

    A link could lead anywhere: on saving, a file of the host's would go to the location. Folders
    that vanish meanwhile, or may not be read, count as empty, since others work here as well.
    """
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        if entry.name.startswith(STAGE):
            continue
        if entry.is_dir(follow_symlinks=False):
            if depth and entry.name != "locks":
                yield from _walk(entry.path, f"{prefix}{entry.name}/", depth - 1)
        elif entry.is_file(follow_symlinks=False):
            yield prefix + entry.name, entry


def being_written(folders: Mapping[str, Path]) -> set[str]:
    """Return the names, up to the first dot, of what some process is compiling just now.

    torch holds the lock `locks/NAME.lock` while it writes NAME.so, in place.
    """
    held = set()
    for root in folders.values():
        for lock in _locks(root / "locks"):
            try:
                fd = os.open(lock.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue
            with closing_fd(fd), contextlib.suppress(OSError):
                # Shared, so that two processes that ask at once do not see each other.
                if not try_lock(fd, shared=True):
                    held.add(lock.name.partition(".")[0])
    return held


def _locks(folder: Path) -> list[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return [entry for entry in entries if entry.name.endswith(".lock")]
    return []


def damage_of(root: Path, live: LiveFile) -> str:
    """Return what is wrong with a live file, as a clause; empty if nothing is found."""
    most = min(live.size, _LARGEST_CHECKED)
    if not is_seen_whole(live.kind, live.path):
        most = HEAD_BYTES
    elif live.size > _LARGEST_CHECKED:
        return ""
    try:
        with open(root / live.path, "rb", buffering=0) as file:
            return damage(live.kind, live.path, file.read(most), live.size)
    except OSError:
        return ""


def remove_damaged(folders: Mapping[str, Path], scan: LiveScan) -> list[str]:
    """Remove damaged files, so that the compiler makes them anew; return them with the reasons.

    torch takes what exists without looking at it: an empty shared object, which is what a kill
    during linking leaves, makes every later start fail.

    What is being written is left alone. `scan` loses what was removed.
    """
    bad = [
        (live, why) for live in scan.files.values() if (why := damage_of(folders[live.kind], live))
    ]
    held = being_written(folders) if bad else set()
    removed = []
    for live, why in bad:
        if live.path.rpartition("/")[2].partition(".")[0] in held:
            continue
        with contextlib.suppress(OSError):
            # It may have been finished after the folder was read, and before the locks were.
            if not _is_as_found(folders[live.kind], live):
                continue
            os.unlink(folders[live.kind] / live.path)
            del scan.files[live.place]
            removed.append(f"{live.path} {why}")
    return removed


def _is_as_found(root: Path, live: LiveFile) -> bool:
    found = os.lstat(root / live.path)
    return (found.st_size, found.st_mtime_ns) == (live.size, live.mtime_ns)


def is_noexec(folder: Path) -> bool:
    """Whether shared objects cannot be loaded from `folder`, or where it will be.

    Asked of the mount, not tried out: a trial would have to compile something.
    """
    for each in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            return bool(os.statvfs(each).f_flag & _NOEXEC)
    return False


def is_ours(folder: Path) -> bool:
    """Whether `folder` can be written, or made; compilers need that even to read from it."""
    for each in (folder, *folder.parents):
        if each.exists():
            writable = os.access(each, os.W_OK | os.X_OK)
            # A folder of another user may be writable, and be closed to us any moment.
            return writable and (each != folder or os.stat(each).st_uid in (os.geteuid(), 0))
    return False
