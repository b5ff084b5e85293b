"""The entries of a cache as file names and file times show them, without opening their records.

Whether there is room, and what has to go, is asked at each miss. For that, sizes and last uses
suffice: a content's size is that of its file, and an entry's last use the time of its record. So
nothing is kept that could be wrong after a kill, and no process has to tell another what it did.

A record is read only where names do not say which content is its own, and for the size of a folder;
that never changes, and is remembered.

Whether there is room takes even less: what the 256 folders of entries held in all, each remembered
until its modification time changes. What that leaves out (a file that got a second name elsewhere)
makes the sum too large, never too small, and then all is read again.
"""

from __future__ import annotations

import os
import stat
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from pgetpy.cache.contents import Row, read_row
from pgetpy.cache.layout import KEY_LENGTH, CachePaths
from pgetpy.system.filesystem import names_in

_Inode = tuple[int, int]
# Nanoseconds. File systems round times, FAT to two seconds.
_SETTLED = 3_000_000_000


class Outline(NamedTuple):
    """An entry without its record; the fields are those of a `Row`. A cache can have many."""

    key: str
    folded: int
    mark: int
    size: int
    inode: _Inode
    names: int


@dataclass
class Outlines:
    """All contents of a cache at one moment; see `Contents`.

    Attributes:
        rows: its entries. The record of one may turn out to be invalid.
        orphans: content without a record, as key and path.
        broken: keys of records without content.
    """

    rows: list[Outline] = field(default_factory=list)
    orphans: list[tuple[str, str]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The bytes of all entries, each inode counted once."""
        return sum({row.inode: row.size for row in self.rows}.values())


class Sizes(NamedTuple):
    """The contents of one folder of entries, or of all.

    Attributes:
        alone: the bytes of files that have no other name.
        shared: the sizes of others, each inode's once.
        orphans: paths of content without a record.
    """

    alone: int
    shared: dict[_Inode, int]
    orphans: list[str]

    @property
    def entries(self) -> int:
        """The bytes of all entries."""
        return self.alone + sum(self.shared.values())


class OutlineReader:
    """Reads the outlines of one cache again and again.

    Args:
        layout: the cache.
        remembers: whether the modification times of its folders tell when to read them again.
    """

    def __init__(self, layout: CachePaths, *, remembers: bool) -> None:
        self._layout = layout
        self._remembers = remembers
        # The sizes of folders, by the names of their contents, which are never used twice.
        self._folders: dict[str, int] = {}
        # By folder of entries: its inode and modification time, and what it held then.
        self._shards: dict[str, tuple[_Inode, Sizes]] = {}

    def read(self) -> Outlines:
        """Return what the cache holds."""
        found = Outlines()
        folders: dict[str, int] = {}
        for shard in self._shard_paths():
            held = self._read_shard(shard, folders)
            found.rows += held.rows
            found.orphans += held.orphans
            found.broken += held.broken
        self._folders = folders
        return found

    def sizes(self) -> Sizes | None:
        """Return what the cache holds at most; None where all has to be read to know."""
        if not self._shards:
            return None
        total = Sizes(0, {}, [])
        for shard in self._shard_paths():
            stamp, held = self._shards.get(shard, (None, total))
            if stamp is None or stamp != _stamp_of(shard):
                held = _sizes_of(self._read_shard(shard, self._folders))
            total.shared.update(held.shared)
            total.orphans.extend(held.orphans)
            total = total._replace(alone=total.alone + held.alone)
        return total

    def _shard_paths(self) -> list[str]:
        entries = self._layout.at("entries")
        return [f"{entries}/{first}" for first in names_in(entries) if len(first) == 2]

    def _read_shard(self, shard: str, folders: dict[str, int]) -> Outlines:
        """Read one folder of entries; `folders` takes the sizes of contents that are folders."""
        found = Outlines()
        self._shards.pop(shard, None)
        stamp = _stamp_of(shard)
        if stamp is None:
            return found
        # If it has just changed, another change might leave it with the same time.
        lasting = stamp[1] < time.time_ns() - _SETTLED
        self._list(shard, found, folders)
        if self._remembers and lasting:
            self._shards[shard] = (stamp, _sizes_of(found))
        return found

    def _list(self, shard: str, found: Outlines, folders: dict[str, int]) -> None:
        records: dict[str, os.DirEntry[str]] = {}
        contents: defaultdict[str, list[os.DirEntry[str]]] = defaultdict(list)
        with os.scandir(shard) as names:
            for entry in names:
                if len(entry.name) == KEY_LENGTH:
                    records[entry.name] = entry
                elif len(entry.name) > KEY_LENGTH:
                    contents[entry.name[:KEY_LENGTH]].append(entry)
        for key, record in records.items():
            own = contents.pop(key, [])
            outline = self._outline(key, record, own[0], folders) if len(own) == 1 else None
            if outline is not None:
                found.rows.append(outline)
            else:
                self._read_record(key, own, found)
        found.orphans += [(key, entry.path) for key, own in contents.items() for entry in own]

    def _outline(
        self,
        key: str,
        record: os.DirEntry[str],
        content: os.DirEntry[str],
        folders: dict[str, int],
    ) -> Outline | None:
        """Return the outline of `key`; None if its record has to be read."""
        try:
            own, there = record.stat(follow_symlinks=False), content.stat(follow_symlinks=False)
        except OSError:
            return None
        if not own.st_size:
            # What a power cut leaves of a new file.
            return None
        size, names = there.st_size, there.st_nlink
        if stat.S_ISDIR(there.st_mode):
            known = self._folders.get(content.name)
            if known is None:
                row = read_row(self._layout, key)
                if row is None:
                    return None
                known = row.size
            folders[content.name] = known
            size, names = known, 1
        inode = (there.st_dev, there.st_ino)
        return Outline(key, own.st_mtime_ns, own.st_ino, size, inode, names)

    def _read_record(self, key: str, own: list[os.DirEntry[str]], found: Outlines) -> None:
        """Take in `key` by its record: `own` are several contents, none, or one that changed."""
        row = read_row(self._layout, key)
        if row is None:
            found.broken.append(key)
        else:
            found.rows.append(outline_of(row))
        kept = f"{key}.{row.record.generation}.{row.record.name}" if row is not None else ""
        found.orphans += [(key, entry.path) for entry in own if entry.name != kept]


def outline_of(row: Row) -> Outline:
    """Return `row` without its record."""
    return Outline(row.key, row.folded, row.mark, row.size, row.inode, row.names)


def _stamp_of(shard: str) -> tuple[int, int] | None:
    """Return by which its changes show; None for what is not a folder, or gone."""
    try:
        status = os.stat(shard)
    except FileNotFoundError:
        return None
    return (status.st_ino, status.st_mtime_ns) if stat.S_ISDIR(status.st_mode) else None


def _sizes_of(found: Outlines) -> Sizes:
    alone = sum(row.size for row in found.rows if row.names == 1)
    shared = {row.inode: row.size for row in found.rows if row.names != 1}
    return Sizes(alone, shared, [path for _, path in found.orphans])
