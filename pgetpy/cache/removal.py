"""Removing entries, so that none goes while it is leased, and a kill at any point is recoverable.

   entries/KE/KEY  --rename-->  evicting/KEY.OWNER     the mark: a miss for everyone from now on
                                    |
        read leases, pins and uses noted since the decision
                |                                 |
            in use                             unused
                |                                 |
   rename the record back              delete the content, then the mark

Content goes in one step: a file by unlink, a folder by a rename into tmp/. As long as the content
exists, any process that finds the mark of a dead evictor can put the record back.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pgetpy.cache.contents import Row, content_path, read_record
from pgetpy.cache.holders import LivenessMonitor
from pgetpy.cache.layout import KEY_LENGTH, CachePaths, discard, move_if_free
from pgetpy.cache.pins import pins_in
from pgetpy.cache.uses import fold, read_uses
from pgetpy.core.cache.records import Record
from pgetpy.system import polling
from pgetpy.system.file_locks import try_lock
from pgetpy.system.filesystem import closing_fd, names_in, remove_tree

# A living process that has held a mark for this long has forgotten it.
_FORGOTTEN_SECONDS = 60.0


class Remover:
    """Removes entries, one process at a time where file locks work.

    Args:
        layout: the cache.
        owner: the id of this process's lease file, which its marks carry.
        watch: tells which processes are alive.
        locks: whether file locks work there.
    """

    def __init__(
        self, layout: CachePaths, owner: str, watch: LivenessMonitor, *, locks: bool
    ) -> None:
        self._layout = layout
        self._owner = owner
        self._watch = watch
        self._locks = locks

    @contextmanager
    def alone(self, *, wait: bool = True) -> Iterator[bool]:
        """Wait until no other process removes entries.

        Args:
            wait: if False, do not wait, and yield whether this process is the only one.
        """
        if not self._locks:
            yield True
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with closing_fd(os.open(self._layout.at("evictor"), flags, 0o666)) as fd:
            while not (free := try_lock(fd)) and wait:
                time.sleep(polling.SLICE)
            yield free

    def uses(self) -> dict[str, int]:
        """Return the keys that living processes were given, with the time of last use."""
        found: dict[str, int] = {}
        for owner in names_in(self._layout.at("uses")):
            if self._watch.alive(owner):
                for key, used in read_uses(self._layout, owner).items():
                    found[key] = max(used, found.get(key, 0))
        return found

    def pinned(self) -> set[str]:
        """Return the pinned keys."""
        return set().union(*pins_in(self._layout).values())

    def take(self, rows: Iterable[Row], uses: dict[str, int] | None) -> list[Row]:
        """Remove those of `rows` that are not held, nor used since `uses` was read.

        Args:
            rows: the entries.
            uses: the uses at the time of the decision; None to disregard new ones.

        Returns:
            The removed entries.
        """
        marked: list[tuple[Row, str]] = []
        taken = []
        try:
            for row in rows:
                mark = self._mark(row)
                if mark is not None:
                    marked.append((row, mark))
            kept = self._wanted(uses)
            while marked:
                row, mark = marked[-1]
                if row.record.key not in kept:
                    self._destroy(row.record, mark)
                    taken.append(row)
                else:
                    self.put_back(mark, row.record.key)
                marked.pop()
        finally:
            for row, mark in marked:
                with contextlib.suppress(OSError):
                    self._settle(row.record, mark)
        return taken

    def drop(self, key: str, path: str, since: int) -> bool:
        """Delete content without a record, unless a process may still use it.

        Args:
            key: its key.
            path: the content.
            since: content given out after this time, in nanoseconds, is kept.
        """
        if key in self._watch.leased() or self.marked(key):
            return False
        record = read_record(self._layout.record(key))
        if record is not None and content_path(self._layout, record) == path:
            return False  # published meanwhile
        # If the record names another content by now, later uses were of that one.
        lately = record is None or record.created * 1e9 >= since
        if lately and self.uses().get(key, 0) >= since:
            return False
        self._throw_away(path)
        return True

    def drop_record(self, key: str) -> None:
        """Remove a record that is invalid or has no content."""
        away = self._layout.scratch(self._owner)
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._layout.record(key), away)
            record = read_record(away)
            if record is not None and os.path.lexists(content_path(self._layout, record)):
                self.put_back(away, key)  # published meanwhile
            discard(away)

    def put_back(self, mark: str, key: str) -> None:
        """Rename a mark back to the record's place, unless a newer record is there."""
        with contextlib.suppress(FileNotFoundError):
            move_if_free(mark, self._layout.record(key))
            discard(mark)

    def recover(self) -> None:
        """Resolve the marks of dead evictors. Call it within `alone`."""
        for name in names_in(self._layout.at("evicting")):
            key, _, owner = name.partition(".")
            mark = self._layout.at("evicting", name)
            if len(key) != KEY_LENGTH:
                continue
            with contextlib.suppress(OSError):
                if self._locks or self._forgotten(owner, mark):
                    self._settle(read_record(mark), mark)

    def try_recover(self, key: str) -> bool:
        """Resolve the mark on `key`; False if its evictor is alive, and so will finish soon."""
        with self.alone(wait=False) as free:
            if free:
                self.recover()
        return free and not self.marked(key)

    def marked(self, key: str) -> bool:
        """Whether the entry of `key` is being evicted."""
        names = names_in(self._layout.at("evicting"))
        return any(name.startswith(key) for name in names)

    def sweep(self) -> None:
        """Remove what dead processes left: lease files, uses and temporary files."""
        for owner in names_in(self._layout.at("uses")):
            if not self._watch.alive(owner):
                with contextlib.suppress(OSError):
                    fold(self._layout, owner)
        for owner in names_in(self._layout.at("holders")):
            if not self._watch.alive(owner):
                with contextlib.suppress(OSError):
                    discard(self._layout.at("holders", owner))
        for name in names_in(self._layout.at("tmp")):
            owner = name.partition(".")[0]
            if owner != self._owner and not self._watch.alive(owner):
                with contextlib.suppress(OSError):
                    remove_tree(self._layout.at("tmp", name))

    def _mark(self, row: Row) -> str | None:
        """Move the record of `row` away; None if it is gone or was replaced."""
        key = row.record.key
        mark = self._layout.at("evicting", f"{key}.{self._owner}")
        try:
            os.rename(self._layout.record(key), mark)
            if os.stat(mark).st_ino == row.mark:
                return mark
        except FileNotFoundError:
            return None
        self.put_back(mark, key)
        return None

    def _wanted(self, uses: dict[str, int] | None) -> set[str]:
        """Return the keys that are leased, pinned or were used since `uses`."""
        wanted = self.pinned() | self._watch.leased().keys()
        if uses is not None:
            wanted |= {key for key, used in self.uses().items() if used > uses.get(key, 0)}
        return wanted

    def _destroy(self, record: Record, mark: str) -> None:
        content = content_path(self._layout, record)
        if record.folder:
            self._throw_away(content)
        else:
            discard(content)
        discard(mark)
        if record.digest:
            discard(digest_path(self._layout, record.digest))

    def _throw_away(self, path: str) -> None:
        away = self._layout.scratch(self._owner)
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, away)
            remove_tree(away)

    def _settle(self, record: Record | None, mark: str) -> None:
        """Finish an interrupted removal: put the record back, unless the content is gone."""
        if record is not None and os.path.lexists(content_path(self._layout, record)):
            self.put_back(mark, record.key)
            return
        discard(mark)

    def _forgotten(self, owner: str, mark: str) -> bool:
        if not self._watch.alive(owner):
            return True
        return abs(time.time() - os.stat(mark).st_ctime) > _FORGOTTEN_SECONDS


def digest_path(layout: CachePaths, digest: str) -> str:
    """Return the file that notes which entry has `digest`, `ALGORITHM:HEX`."""
    name = digest.partition(":")[2]
    return layout.at("digests", name[:2], name)
