"""The files of an environment on the disk: what they are, what became of them, and who shares them.

An installed file is the same inode wherever its content is the same: in every environment, every
generation and uv's cache. One name is enough to overwrite all of them, so files are read-only, and
nothing is linked to before its bytes have been compared with its digest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pgetpy.cache.layout import token
from pgetpy.core.generations.environment_records import (
    InstalledFile,
    RecordLine,
    SharingKey,
    parse_record,
    plan_sharing,
    record_digest,
)
from pgetpy.errors import NotOneFileSystemError
from pgetpy.errors.reasons import system_reason
from pgetpy.system.filesystem import open_regular, read_regular, remove_tree

# The modification time of all files, 1980-01-01, which is the earliest that wheels can have. Byte
# code does not depend on it.
FINISHED_NS = 315_532_800 * 10**9
_BLOCK = 1 << 20
# The end of a name that a file has until it takes the place of another one.
_STAGED = ".pgetpy-new"
_ANY_EXECUTE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
_ANY_READ = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
_ANY_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def hash_file(path: Path) -> str:
    """Return the sha256 of a file as RECORDs write it."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK))
    with open(open_regular(path), "rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
    return record_digest(digest.digest())


def files_below(folder: Path) -> Iterator[str]:
    """Yield the paths of all files below a folder, links to folders among them."""
    for above, folders, names in os.walk(folder):
        base = os.path.relpath(above, folder)
        linked = [each for each in folders if os.path.islink(os.path.join(above, each))]
        for name in (*names, *linked):
            yield name if base == "." else f"{base}/{name}"


def unpacked_wheels(cache: Path) -> list[Path]:
    """Return the folders of uv's cache that have a wheel each, which it links from."""
    return sorted(cache.glob("archive-v*/*"))


def records_of(folder: Path) -> dict[str, tuple[RecordLine, ...]]:
    """Return the lines of the RECORDs of all packages in a folder, by the path of each RECORD."""
    found = {}
    for path in sorted(folder.glob("*.dist-info/RECORD")):
        name = path.relative_to(folder).as_posix()
        found[name] = parse_record(read_regular(path).decode("utf-8", "surrogateescape"), name)
    return found


def installed_file(folder: Path, path: str, digest: str) -> InstalledFile:
    """Return what there is to know about sharing a file of an environment."""
    status = os.lstat(folder / path)
    executable = bool(status.st_mode & _ANY_EXECUTE)
    return InstalledFile(
        str(folder / path), SharingKey(digest, executable), status.st_size, status.st_ino
    )


def replace_file(path: Path, data: bytes) -> None:
    """Put a new file in the place of one, with its permissions. Other names keep the old one."""
    staged = path.with_name(f"{path.name}{_STAGED}")
    staged.write_bytes(data)
    if path.exists():
        staged.chmod(stat.S_IMODE(path.stat().st_mode))
    os.replace(staged, path)


def empty_folder(folder: Path) -> None:
    """Remove everything in a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink()


def finish_file(path: Path) -> None:
    """Let all users read a file and none write it, and give it the time that all files have.

    It may have names in several generations. That anyone wrote to it can be seen by its time.
    """
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    wanted = (mode | _ANY_READ) & ~_ANY_WRITE
    if mode != wanted:
        path.chmod(wanted)
    if status.st_mtime_ns != FINISHED_NS:
        os.utime(path, ns=(FINISHED_NS, FINISHED_NS))


class _Version(NamedTuple):
    """What tells a file from a later one that got its inode."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> _Version:
        status = os.lstat(path)
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass
class SharedFiles:
    """The files that new ones may become links to."""

    _known: dict[SharingKey, InstalledFile] = field(default_factory=dict)
    # By path, because inodes are given to other files later.
    _sound: dict[str, bool] = field(default_factory=dict)

    def learn(self, folder: Path, digests: Mapping[str, str]) -> None:
        """Take in the files of a complete environment."""
        for path, digest in digests.items():
            with contextlib.suppress(OSError):  # pruned meanwhile
                file = installed_file(folder, path, digest)
                self._known.setdefault(file.key, file)

    def share(self, folder: Path, digests: Mapping[str, str], *, uv_cache: Path) -> None:
        """Replace files that are known by links, and remember the others.

        Args:
            folder: of the environment.
            digests: its files with their digests, which were compared with the bytes just now.
            uv_cache: has other names of these files, which are replaced too.
        """
        files = [installed_file(folder, path, digest) for path, digest in digests.items()]
        self._sound |= {file.path: True for file in files}
        replaced = {}
        for file, target in plan_sharing(files, self._known):
            version = _Version.of(file.path)
            if self._is_sound(target) and _replace(file.path, target.path, folder):
                replaced[version] = target.path
            else:
                self._known[file.key] = file
        if replaced:
            for wheel in unpacked_wheels(uv_cache):
                _replace_all(wheel, replaced, uv_cache)

    def _is_sound(self, file: InstalledFile) -> bool:
        """Whether a file still is what its digest says. It may have been written to since."""
        if file.path not in self._sound:
            try:
                self._sound[file.path] = hash_file(Path(file.path)) == file.key.digest
            except OSError:
                self._sound[file.path] = False
        return self._sound[file.path]


def _replace_all(folder: Path, replaced: Mapping[_Version, str], staging: Path) -> None:
    """Give the names that replaced files have below `folder` to what replaced them.

    Links are staged elsewhere: uv would install what is left in the folder of a wheel after a kill.
    """
    for path in files_below(folder):
        with contextlib.suppress(OSError):  # uv may be at work there
            name = str(folder / path)
            target = replaced.get(_Version.of(name))
            if target is not None:
                _replace(name, target, staging)


def _replace(path: str, target: str, folder: Path) -> bool:
    """Give the name `path` to the file `target`; return whether that was possible.

    Args:
        path: the name.
        target: the file.
        folder: for the link until it gets its name.
    """
    staged = f"{folder}/{token()}{_STAGED}"
    try:
        os.link(target, staged)
    except OSError as error:
        # A file may have 65,000 links on ext4. What is over that begins a second one.
        if error.errno in (errno.EMLINK, errno.ENOENT):
            return False
        raise _cannot_link(error, target, path) from None
    os.replace(staged, path)
    return True


def link_environment(source: Path, dest: Path, digests: Mapping[str, str]) -> bool:
    """Make the new folder `dest` of links to the files of a complete environment.

    Args:
        source: the environment.
        dest: the folder to make.
        digests: all files of the environment.

    Returns:
        Whether all files were there, and what their digests say.

    Raises:
        NotOneFileSystemError: they cannot be linked.
    """
    for folder in sorted({os.path.dirname(path) for path in digests}):
        (dest / folder).mkdir(parents=True, exist_ok=True)
    for path, digest in digests.items():
        try:
            if hash_file(source / path) != digest:
                return False
            link_or_copy(source / path, dest / path)
        except FileNotFoundError:
            return False
    return True


def link_or_copy(source: Path, dest: Path) -> None:
    """Link a file, or copy one that has as many links as it may have.

    Raises:
        NotOneFileSystemError: it cannot be linked.
    """
    try:
        os.link(source, dest)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise _cannot_link(error, str(source), str(dest)) from None
        shutil.copy2(source, dest)


def _cannot_link(error: OSError, source: str, dest: str) -> NotOneFileSystemError:
    code = error.errno or errno.EXDEV
    return NotOneFileSystemError(source, dest, system_reason(error), code=code)
