"""Publishing: content gets its place, is complete by then, and is stored once if equal.

The record appears by rename, replacing an older one. Processes that have the old content open,
mapped or leased keep it.

The order makes every kill harmless:

    content    renamed to KEY.GENERATION.NAME       killed here: an orphan, removed with the rest
    digest     digests/DI/DIGEST points to the key  killed here: names no entry, and is ignored
    record     renamed to KEY                       from here on the entry exists
    old        the earlier generation is removed    killed here: an orphan as well

Equal content is stored once by hard links: a new file gives way to the one that is there (`twin`),
since other processes may have that one mapped. So the inode of what was fetched can differ from
that of the entry, and a reader that followed the download must not take it for another file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pgetpy.cache.contents import (
    Entry,
    content_path,
    flush,
    look_up,
    read_record,
    size_of,
    stamp_of,
    wait_for_tick,
)
from pgetpy.cache.evictor import JUST_NOW
from pgetpy.cache.layout import KEY_LENGTH, CachePaths, discard, token
from pgetpy.cache.removal import Remover, digest_path
from pgetpy.cache.uses import Clock
from pgetpy.core.cache.records import About, Record, State, fact, record_lines
from pgetpy.core.destinations.names import LONGEST_NAME
from pgetpy.errors import CacheError
from pgetpy.system.file_locks import boot_id
from pgetpy.system.filesystem import closing_fd, sync_file, sync_folder

# Hex digits of a generation, which tells one content of a key from the next.
_GENERATION = 8
# The longest name that fits after key and generation.
_LONGEST_NAME = LONGEST_NAME - KEY_LENGTH - _GENERATION - 2


class Publisher:
    """Puts content into one cache."""

    def __init__(self, layout: CachePaths, owner: str, remover: Remover, clock: Clock) -> None:
        self._layout = layout
        self._owner = owner
        self._remover = remover
        self._clock = clock

    def publish(
        self, key: str, source: Path, name: str, about: About, *, digest: str, fsync: bool
    ) -> Entry:
        """Move `source` into the cache as the content of `key`. The caller must hold the claim on
        it.

        Raises:
            OSError: it could not be moved.
        """
        check_name(self._layout, name)
        size, folder = size_of(source)
        generation, created = token()[:_GENERATION], self._clock.now() / 1e9
        record = Record(key, generation, name, size, folder, boot_id(), created, about, digest)
        twin = self.twin(digest, size) if digest and not folder else None
        content = content_path(self._layout, record)
        os.makedirs(os.path.dirname(content), exist_ok=True)
        if twin is None or not _link(twin, content):
            os.rename(source, content)
        try:
            if not digest:
                # At once: who makes room takes content without a record for what was left over.
                record = replace(record, arrived=stamp_of(Path(content)))
            entry = self._appear(record, fsync=fsync)
        except BaseException:
            self._undo(record, source)
            raise
        if twin is not None:
            source.unlink(missing_ok=True)
        if not digest:
            wait_for_tick(entry.path)
        return entry

    def twin(self, digest: str, size: int) -> str | None:
        """Return the file of an entry with this `digest`, if there is one.

        The index of digests is a hint. The record decides: entries are evicted without touching it.
        """
        try:
            key = os.readlink(digest_path(self._layout, digest))
        except OSError:
            return None
        entry = look_up(self._layout, key)
        if entry is None or entry.record.folder or entry.record.digest != digest:
            return None
        if entry.state is not State.SOUND or size != entry.size:
            return None
        return os.fspath(entry.path)

    def share(self, record: Record, digest: str) -> None:
        """Make the content of `record` and an equal one the same file, now that its digest is
        known."""
        twin = self.twin(digest, record.size)
        own = content_path(self._layout, record)
        if twin is None or twin == own:
            self.note_digest(record.key, digest)
            return
        with contextlib.suppress(OSError):
            if not os.path.samefile(twin, own):
                self._rename_to(own, lambda scratch: os.link(twin, scratch))

    def note_digest(self, key: str, digest: str) -> None:
        """Make the content of `key` findable by its digest."""
        path = digest_path(self._layout, digest)
        # If this fails, equal content is merely stored twice.
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._rename_to(path, lambda scratch: os.symlink(key, scratch))

    def flush(self, record: Record) -> None:
        """Flush an entry to stable storage, and note that in its record.

        The note comes last. Without it, an entry is hashed again after the machine went down.
        """
        with open_to_append(self._layout, record.key) as fd:
            content = Path(content_path(self._layout, record))
            flush(content)
            for changed in (content.parent, content.parent.parent):
                sync_folder(changed)
            append(fd, fact("flushed"))
            sync_file(fd, str(self._layout.root))

    def _undo(self, record: Record, source: Path) -> None:
        """Move unpublished content back to `source`, so that it need not be fetched again."""
        present = read_record(self._layout.record(record.key))
        if present is None or present.generation != record.generation:
            with contextlib.suppress(OSError):
                if not source.exists():
                    os.rename(content_path(self._layout, record), source)
                else:
                    discard(content_path(self._layout, record))

    def _rename_to(self, path: str, make: Callable[[str], object]) -> None:
        """Call `make` with a scratch name, then rename the result to `path`."""
        scratch = self._layout.scratch(self._owner)
        try:
            make(scratch)
            os.replace(scratch, path)
        finally:
            # Renaming one of two names of the same file onto the other does nothing (POSIX rename),
            # so the scratch name may still exist.
            with contextlib.suppress(OSError):
                discard(scratch)

    def _appear(self, record: Record, *, fsync: bool) -> Entry:
        before = read_record(self._layout.record(record.key))
        now = self._clock.now()

        def write(scratch: str) -> None:
            Path(scratch).write_bytes(record_lines(record))
            set_time(scratch, now)

        # Nothing slow between the record and the lookup: from then on others may evict it.
        if record.digest and not record.folder:
            self.note_digest(record.key, record.digest)
        self._rename_to(self._layout.record(record.key), write)
        if fsync:
            self.flush(record)
        if before is not None:
            # If the old content is leased, it stays until a process that makes room finds it.
            with contextlib.suppress(OSError):
                self._remover.drop(before.key, content_path(self._layout, before), now - JUST_NOW)
        entry = look_up(self._layout, record.key)
        if entry is None:
            raise CacheError(str(self._layout.root), f"lost {record.name} while publishing it")
        return entry


def open_to_append(layout: CachePaths, key: str) -> contextlib.AbstractContextManager[int]:
    """Open the record of `key` for `append`, within a block."""
    return closing_fd(os.open(layout.record(key), os.O_RDWR | os.O_APPEND | os.O_CLOEXEC))


def append(fd: int, learnt: bytes) -> None:
    """Append to an open record, keeping its modification time, which is the entry's last use."""
    used = os.fstat(fd).st_mtime_ns
    os.write(fd, learnt)
    set_time(fd, used)


def set_time(path: str | int, used: int) -> None:
    """Set an entry's last use. Where times cannot be set, it looks used when it was written."""
    with contextlib.suppress(OSError):
        os.utime(path, ns=(used, used))


def check_name(layout: CachePaths, name: str) -> None:
    """Raise CacheError if `name` cannot end the name of a file in the cache."""
    raw = os.fsencode(name)
    if not raw or b"/" in raw or b"\0" in raw or len(raw) > _LONGEST_NAME:
        raise CacheError(str(layout.root), f"cannot give an entry the name {name!r}")


def _link(source: str, target: str) -> bool:
    """Hard-link `target` to `source`; return False if that is impossible."""
    try:
        os.link(source, target)
    except OSError:  # the source is gone, or has all the names that the file system allows
        return False
    return True
