"""The contents of a cache: reading records, finding content, hashing files and folders.

Nothing here takes a lock. A record is replaced by rename and extended by appending, so a reader
sees a whole one; content that vanishes in between is a miss like any other. What a lookup costs is
one open, one read and one stat, however many entries there are.

    record         content            what it is
    ------------   ----------------   ------------------------------------------
    valid          right kind         an entry; DAMAGED if the size differs
    valid          missing            a miss; removed when room is made
    invalid        -                  a miss; removed when room is made
    missing        present            an orphan: being published, or left by a kill
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pgetpy.cache.layout import KEY_LENGTH, CachePaths
from pgetpy.core.cache.records import Record, State, parse_record
from pgetpy.system.file_locks import boot_id
from pgetpy.system.filesystem import closing_fd, names_in, sync_file

# Enough for nearly every record. A larger buffer would cost more to allocate than the rest of a
# lookup.
_USUAL_RECORD = 8192
_BLOCK = 1 << 20
# Kernels update the clock of file times at least a hundred times a second.
_LONGEST_TICK = 0.02


@dataclass(frozen=True)
class Entry:
    """An entry whose content was there a moment ago.

    Attributes:
        file: the path of its content, as text: making a Path takes a tenth of a lookup.
        state: use the content as it is only if this is SOUND.
        lower: whether it is in a lower cache, which is read-only.
    """

    record: Record
    file: str
    state: State
    lower: bool = False

    @cached_property
    def path(self) -> Path:
        """The path of its content."""
        return Path(self.file)

    @property
    def key(self) -> str:
        return self.record.key

    @property
    def size(self) -> int:
        return self.record.size


@dataclass(frozen=True)
class Row:
    """An entry as a scan finds it.

    Attributes:
        folded: its last use as far as its record tells, in nanoseconds.
        mark: the inode of its record.
        inode: the device and inode of its content, by which bytes are counted.
        names: how many hard links that inode has.
    """

    record: Record
    folded: int
    mark: int
    size: int
    inode: tuple[int, int]
    names: int

    @property
    def key(self) -> str:
        return self.record.key


@dataclass(frozen=True)
class Contents:
    """All contents of a cache.

    Attributes:
        rows: its entries.
        orphans: content without a record, as key and path.
        broken: keys of records that are invalid or have no content.
    """

    rows: list[Row]
    orphans: list[tuple[str, str]]
    broken: list[str]


def read_record(path: str) -> Record | None:
    """Return the record at `path`; None if there is no valid one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return parse_record(read_all(fd))
    except OSError:
        return None
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    """Return all bytes of a small open file."""
    data = part = os.read(fd, _USUAL_RECORD)
    while len(part) == _USUAL_RECORD:
        part = os.read(fd, _USUAL_RECORD)
        data += part
    return data


def content_path(layout: CachePaths, record: Record) -> str:
    """Return the path of the content of `record`."""
    return layout.content(record.key, record.generation, record.name)


def look_up(layout: CachePaths, key: str, *, lower: bool = False) -> Entry | None:
    """Return the entry under `key`, if its content is there."""
    record = read_record(layout.record(key))
    if record is None or record.key != key:
        return None
    path = content_path(layout, record)
    try:
        status = os.stat(path)
    except OSError:
        return None
    if stat.S_ISDIR(status.st_mode) is not record.folder:
        return None
    state = record.state(boot_id())
    if not record.folder and status.st_size != record.size:
        state = State.DAMAGED
    return Entry(record, path, state, lower)


def scan(layout: CachePaths, beginning: str = "") -> Contents:
    """Return all entries, and the leftovers of others.

    Args:
        layout: the cache.
        beginning: the first two digits of the keys to look at; empty for all.
    """
    rows: list[Row] = []
    orphans: list[tuple[str, str]] = []
    broken: list[str] = []
    for first in names_in(layout.at("entries")):
        if len(first) != 2 or beginning not in ("", first):
            continue
        shard = layout.at("entries", first)
        names = names_in(shard)
        named = set()
        for key in names:
            if len(key) != KEY_LENGTH:
                continue
            row = read_row(layout, key)
            if row is None:
                broken.append(key)
            else:
                rows.append(row)
                named.add(f"{key}.{row.record.generation}.{row.record.name}")
        orphans += [
            (name[:KEY_LENGTH], f"{shard}/{name}")
            for name in names
            if len(name) > KEY_LENGTH and name not in named
        ]
    return Contents(rows, orphans, broken)


def read_row(layout: CachePaths, key: str) -> Row | None:
    """Return the entry under `key`; None if its record is invalid or has no content."""
    path = layout.record(key)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        record = parse_record(read_all(fd))
        if record is None:
            return None
        content = os.lstat(content_path(layout, record))
    except OSError:
        return None
    finally:
        os.close(fd)
    size, names = (record.size, 1) if record.folder else (content.st_size, content.st_nlink)
    inode = (content.st_dev, content.st_ino)
    return Row(record, status.st_mtime_ns, status.st_ino, size, inode, names)


def size_of(path: Path) -> tuple[int, bool]:
    """Return the bytes of a file, or of all files in a folder, and whether it is a folder."""
    status = os.lstat(path)
    if stat.S_ISREG(status.st_mode):
        return status.st_size, False
    seen: dict[tuple[int, int], int] = {}
    for below in files_in(path):
        status = os.lstat(below)
        seen[status.st_dev, status.st_ino] = status.st_size
    return sum(seen.values()), True


def digest_of(path: Path, stop: Callable[[], bool] = lambda: False) -> str | None:
    """Return `sha256:HEX` of a file, or of a folder's names and files; None once `stop` says so.

    A folder's is the hash of one line for each file and link in it, in the order of their paths.
    """
    if not path.is_dir():
        found = _hash_of(path, stop)
        return f"sha256:{found}" if found is not None else None
    whole = hashlib.sha256()
    for below in sorted(files_in(path)):
        if below.is_symlink():
            found = hashlib.sha256(os.fsencode(os.readlink(below))).hexdigest()
        else:
            found = _hash_of(below, stop)
        if found is None:
            return None
        kind = "l" if below.is_symlink() else "f"
        name = os.fsencode(below.relative_to(path))
        whole.update(b"%s %s %d %s\n" % (kind.encode(), found.encode(), len(name), name))
    return f"sha256:{whole.hexdigest()}"


def wait_for_tick(path: Path) -> None:
    """Wait until a later write to the file or folder would get a later time.

    File times come from a coarse clock that ticks every few milliseconds. A write within the same
    tick would not show, so the path is given out only after the next one.
    """
    latest = max((os.lstat(below).st_ctime_ns for below in _files_at(path)), default=0)
    deadline = time.monotonic() + _LONGEST_TICK
    while latest >= _ticks() and time.monotonic() < deadline:
        time.sleep(_LONGEST_TICK / 20)


def _ticks() -> int:
    """Return the time of the coarse clock that file times come from, in nanoseconds."""
    coarse = getattr(time, "CLOCK_REALTIME_COARSE", time.CLOCK_REALTIME)
    return time.clock_gettime_ns(coarse)


def stamp_of(path: Path) -> str:
    """Return a hash by which later writes to a file or folder show.

    It covers change times (ctime), which programs cannot set.
    """
    whole = hashlib.sha256()
    for below in sorted(_files_at(path)):
        status = os.lstat(below)
        name = os.fsencode(below.relative_to(path))
        fields = (len(name), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        whole.update(b"%d %d %d %d " % fields + name)
    return whole.hexdigest()


def _files_at(path: Path) -> Iterator[Path]:
    return files_in(path) if path.is_dir() else iter((path,))


def flush(path: Path) -> None:
    """Flush a file, or everything in a folder, to stable storage."""
    for target in (path, *(all_in(path) if path.is_dir() else ())):
        if not target.is_symlink():
            with closing_fd(os.open(target, os.O_RDONLY | os.O_CLOEXEC)) as fd:
                sync_file(fd, str(path))


def _hash_of(path: Path, stop: Callable[[], bool]) -> str | None:
    found = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            if stop():
                return None
            found.update(block[:count])
    return found.hexdigest()


def files_in(folder: Path) -> Iterator[Path]:
    """Yield everything below `folder` except folders. A link to a folder counts as a file."""
    for here, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(here, name))]
        yield from (Path(here, name) for name in (*names, *links))


def all_in(folder: Path) -> Iterator[Path]:
    """Yield everything below `folder`."""
    for here, folders, names in os.walk(folder):
        yield from (Path(here, name) for name in (*folders, *names))
