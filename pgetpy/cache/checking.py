"""What is learned about content after it was published: its digest, and whether it is undamaged.

    settle    digest missing --> unchanged since it was published? --> hash --> unchanged still?
              --> append it to the record --> share the file with an equal one --> flush
    verify    hash --> the same as recorded?  yes: sound   no: append "damaged"

The two are never mixed. `settle` is the only one that records a digest, and only for bytes that are
provably those that arrived: ctime and size, noted when the entry appeared, cannot be set back by a
program. `verify` only compares, because a digest computed from damaged bytes would bless them.

Both take minutes for large content and must not hold up the end of a process: `stop` is asked for
each block.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path

from pgetpy.cache.contents import Entry, digest_of, look_up, read_all, stamp_of
from pgetpy.cache.layout import CachePaths, discard
from pgetpy.cache.publishing import Publisher, append, open_to_append
from pgetpy.cache.removal import digest_path
from pgetpy.core.cache.records import State, fact, parse_record

# Whether to give up; asked for each block.
Stop = Callable[[], bool]
# Computes the digest of what is at a path, as `digest_of` does.
Hash = Callable[[Path, Stop], str | None]


class Verdict(Enum):
    """The result of reading all bytes of an entry."""

    SOUND = "sound"
    DAMAGED = "damaged"
    UNKNOWN = "unknown"  # no digest was recorded to compare with
    MISSING = "missing"
    STOPPED = "stopped"


class EntryVerifier:
    """Hashes the content of one cache and notes the results."""

    def __init__(self, layout: CachePaths, publisher: Publisher) -> None:
        self._layout = layout
        self._publisher = publisher

    def settle(
        self, key: str, stop: Stop, *, fsync: bool, hashed: Hash = digest_of
    ) -> Entry | None:
        """Compute the digest of `key` if it is missing, and flush the entry to stable storage.

        If the content was written to after it was published, its digest stays unknown: recording
        one would bless bytes that are not those that arrived.

        Returns:
            The entry afterwards; None if it is gone or `stop` returned True.
        """
        entry = look_up(self._layout, key)
        if entry is None or entry.state is not State.SOUND:
            return entry
        try:
            if not entry.record.digest:
                if not _is_as_published(entry):
                    return entry
                digest = hashed(entry.path, stop)
                if digest is not None and not _is_as_published(entry):
                    return entry
                if digest is None or not self._append(entry, fact("digest", digest)):
                    return None
                if not entry.record.folder:
                    self._publisher.share(entry.record, digest)
            if fsync and not entry.record.flushed:
                self._publisher.flush(entry.record)
        except FileNotFoundError:
            return None
        return look_up(self._layout, key)

    def note_digest(self, entry: Entry, digest: str) -> None:
        """Record the digest of `entry`, which the caller has proven to be right."""
        if self._append(entry, fact("digest", digest)) and not entry.record.folder:
            self._publisher.share(entry.record, digest)

    def verify(self, key: str, stop: Stop) -> Verdict:
        """Hash the content of `key`, compare it, and note the result in its record.

        Damaged content stays where it is, since processes may have it mapped; its record says so,
        and no lookup gives it out any more. It is replaced when the entry is next asked for.

        Raises:
            CacheError: the result cannot be recorded.
        """
        entry = look_up(self._layout, key)
        if entry is None:
            return Verdict.MISSING
        wanted = entry.record.digest
        if entry.state is State.DAMAGED:
            return self._condemn(entry)
        if not wanted:
            return Verdict.UNKNOWN
        try:
            found = digest_of(entry.path, stop)
        except FileNotFoundError:
            return Verdict.MISSING
        except OSError:
            return self._condemn(entry)  # the disk cannot read it back
        if found is None:
            return Verdict.STOPPED
        if found != wanted:
            return self._condemn(entry)
        if entry.state is State.UNFLUSHED:
            self._publisher.flush(entry.record)
        return Verdict.SOUND

    def _condemn(self, entry: Entry) -> Verdict:
        if not entry.record.damaged:
            try:
                self._append(entry, fact("damaged"))
            except PermissionError as error:
                found = self._layout.error_of(error)
                found.reason = f"holds damaged content at {entry.path}, and cannot record that"
                raise found from None
        if entry.record.digest and not entry.record.folder:
            # Its replacement must not be linked to it.
            discard(digest_path(self._layout, entry.record.digest))
        return Verdict.DAMAGED

    def _append(self, entry: Entry, learnt: bytes) -> bool:
        """Append to the record of exactly this content; False if it was replaced."""
        try:
            with open_to_append(self._layout, entry.key) as fd:
                present = parse_record(read_all(fd))
                if present is None or present.generation != entry.record.generation:
                    return False
                append(fd, learnt)
                return True
        except FileNotFoundError:
            return False


def _is_as_published(entry: Entry) -> bool:
    """Whether the content is unchanged since it was published, as far as file times show."""
    return bool(entry.record.arrived) and stamp_of(entry.path) == entry.record.arrived
