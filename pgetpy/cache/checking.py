"""What is learnt about content after it was published: its digest, and whether it still is that."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from pgetpy.cache.contents import Entry, digest_of, look_up, read_all, stamp_of
from pgetpy.cache.layout import CachePaths, discard
from pgetpy.cache.publishing import Publisher, append, open_to_append
from pgetpy.cache.removal import digest_path
from pgetpy.core.cache.records import State, fact, parse_record


class Verdict(Enum):
    """What a look at all bytes of an entry says."""

    SOUND = "sound"
    DAMAGED = "damaged"
    UNKNOWN = "unknown"  # there is no digest to compare with: it was never computed
    MISSING = "missing"
    STOPPED = "stopped"


class EntryVerifier:
    """Hashes content of one cache and notes what that says."""

    def __init__(self, layout: CachePaths, publisher: Publisher) -> None:
        self._layout = layout
        self._publisher = publisher

    def settle(self, key: str, stop: Callable[[], bool], *, fsync: bool) -> Entry | None:
        """Compute the digest of `key` if it is not known, and bring the entry to stable storage.

        The digest of content that was written since it was published would bless what is not what
        arrived: it stays unknown.

        Returns:
            The entry as it is then; None where it is gone, or `stop` said so.
        """
        entry = look_up(self._layout, key)
        if entry is None or entry.state is not State.SOUND:
            return entry
        try:
            if not entry.record.digest:
                if not _is_as_published(entry):
                    return entry
                digest = digest_of(entry.path, stop)
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
        """The content of `entry` was shown to be what it should be, and hashes to `digest`."""
        if self._append(entry, fact("digest", digest)) and not entry.record.folder:
            self._publisher.share(entry.record, digest)

    def verify(self, key: str, stop: Callable[[], bool]) -> Verdict:
        """Hash the content of `key` and compare; what is found is noted in the record."""
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
                found.reason = f"holds damaged content at {entry.path}, and cannot note that"
                raise found from None
        if entry.record.digest and not entry.record.folder:
            # What is fetched in its place must not be made one with it.
            discard(digest_path(self._layout, entry.record.digest))
        return Verdict.DAMAGED

    def _append(self, entry: Entry, learnt: bytes) -> bool:
        """Append to the record of just this content; False where another stands there."""
        try:
            with open_to_append(self._layout, entry.key) as fd:
                standing = parse_record(read_all(fd))
                if standing is None or standing.generation != entry.record.generation:
                    return False
                append(fd, learnt)
                return True
        except FileNotFoundError:
            return False


def _is_as_published(entry: Entry) -> bool:
    """Whether nobody has written to the content since it was published, so far as one can see."""
    return bool(entry.record.arrived) and stamp_of(entry.path) == entry.record.arrived
