"""The entries of a cache as file names and file times show them, without opening their records.

Whether there is room, and what has to go, is asked at each miss. For that, sizes and last uses
suffice: a content's size is that of its file, and an entry's last use the time of its record. So
nothing is kept that could be wrong after a kill, and no process has to tell another what it did.

A record is read only where names do not say which content is its own, and for the size of a folder;
that never changes, and is remembered.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from pgetpy.cache.contents import Row, read_row
from pgetpy.cache.layout import KEY_LENGTH, CachePaths, names_in

_Inode = tuple[int, int]


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


class OutlineReader:
    """Reads the outlines of one cache again and again."""

    def __init__(self, layout: CachePaths) -> None:
        self._layout = layout
        # The sizes of folders, by the names of their contents, which are never used twice.
        self._folders: dict[str, int] = {}

    def read(self) -> Outlines:
        """Return what the cache holds."""
        found = Outlines()
        folders: dict[str, int] = {}
        for first in names_in(self._layout.at("entries")):
            if len(first) == 2:
                self._read_shard(self._layout.at("entries", first), found, folders)
        self._folders = folders
        return found

    def _read_shard(self, shard: str, found: Outlines, folders: dict[str, int]) -> None:
        records: dict[str, os.DirEntry[str]] = {}
        contents: defaultdict[str, list[os.DirEntry[str]]] = defaultdict(list)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(shard) as names:
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
