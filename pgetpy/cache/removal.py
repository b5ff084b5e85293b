"""Entries taken away, so that none goes under a lease, and a kill at any point can be sorted out.

Taking the record away is the mark: who comes now finds no entry. Then leases, pins and new uses are
read, and only then the content goes, all at once: a file by unlink, a folder by a rename. So long
as the content is there, whoever finds the mark of a dead evictor may put the record back.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pgetpy.cache.contents import Row, content_path, read_record
from pgetpy.cache.holders import LivenessMonitor
from pgetpy.cache.layout import KEY_LENGTH, CachePaths, discard, move_if_free, names_in
from pgetpy.cache.uses import fold, read_uses
from pgetpy.core.cache.records import Record
from pgetpy.system import polling
from pgetpy.system.file_locks import try_lock
from pgetpy.system.filesystem import remove_tree

# What a living process has marked for so long it has forgotten.
_FORGOTTEN_SECONDS = 60.0


class Remover:
    """Takes entries away, one process at a time where locks exclude.

    Args:
        owner: the id of this process's holder; marks bear it.
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
        """Wait until no other process takes entries away; what is yielded is whether none does."""
        if not self._locks:
            yield True
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._layout.at("evictor"), flags, 0o666)
        try:
            while not (free := try_lock(fd)) and wait:
                time.sleep(polling.SLICE)
            yield free
        finally:
            os.close(fd)

    def uses(self) -> dict[str, int]:
        """Return what living processes were handed out, and when last."""
        found: dict[str, int] = {}
        for owner in names_in(self._layout.at("uses")):
            if self._watch.alive(owner):
                for key, used in read_uses(self._layout, owner).items():
                    found[key] = max(used, found.get(key, 0))
        return found

    def pinned(self) -> set[str]:
        """Return the keys that are pinned."""
        return set(names_in(self._layout.at("pins")))

    def take(self, rows: Iterable[Row], uses: dict[str, int] | None) -> list[Row]:
        """Take away those of `rows` that nobody holds, nor was handed out since `uses` was read.

        Args:
            uses: None where new uses are no reason to stay.
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
        """Take away content that no record names, unless somebody may still use it.

        Args:
            since: what was handed out after that stays.
        """
        if key in self._watch.leased() or self.marked(key):
            return False
        record = read_record(self._layout.record(key))
        if record is not None and content_path(self._layout, record) == path:
            return False  # published meanwhile
        # What was handed out since the record names another content was that.
        lately = record is None or record.created * 1e9 >= since
        if lately and self.uses().get(key, 0) >= since:
            return False
        self._throw_away(path)
        return True

    def drop_record(self, key: str) -> None:
        """Take away a record whose content is gone, or that makes no sense."""
        away = self._layout.scratch(self._owner)
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._layout.record(key), away)
            record = read_record(away)
            if record is not None and os.path.lexists(content_path(self._layout, record)):
                self.put_back(away, key)  # published meanwhile
            discard(away)

    def put_back(self, mark: str, key: str) -> None:
        """Give a record its place again, unless there is a newer one."""
        with contextlib.suppress(FileNotFoundError):
            move_if_free(mark, self._layout.record(key))
            discard(mark)

    def recover(self) -> None:
        """Sort out the marks of evictors that are dead; call it `alone`."""
        for name in names_in(self._layout.at("evicting")):
            key, _, owner = name.partition(".")
            mark = self._layout.at("evicting", name)
            if len(key) != KEY_LENGTH:
                continue
            with contextlib.suppress(OSError):
                if self._locks or self._forgotten(owner, mark):
                    self._settle(read_record(mark), mark)

    def try_recover(self, key: str) -> bool:
        """Sort out the mark on `key`; False where its evictor is alive and will be done soon."""
        with self.alone(wait=False) as free:
            if free:
                self.recover()
        return free and not self.marked(key)

    def marked(self, key: str) -> bool:
        """Whether the entry of `key` is about to go, or to be put back."""
        names = names_in(self._layout.at("evicting"))
        return any(name.startswith(key) for name in names)

    def sweep(self) -> None:
        """Take away what dead processes left: their leases and uses, and files on their way."""
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
        """Take the record of `row` from its place; None where another stands there, or none."""
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
        """The keys that are leased, pinned or were handed out since `uses`."""
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
        """End what was cut off: back with the record, unless its content is gone."""
        if record is not None and os.path.lexists(content_path(self._layout, record)):
            self.put_back(mark, record.key)
            return
        discard(mark)

    def _forgotten(self, owner: str, mark: str) -> bool:
        if not self._watch.alive(owner):
            return True
        return abs(time.time() - os.stat(mark).st_ctime) > _FORGOTTEN_SECONDS


def digest_path(layout: CachePaths, digest: str) -> str:
    """Return where it is noted which entry has `digest`, `ALGORITHM:HEX`."""
    name = digest.partition(":")[2]
    return layout.at("digests", name[:2], name)
