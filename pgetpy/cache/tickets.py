"""What a caller holds of a cache for a while: a lease, or the right to fill an entry."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from pgetpy.cache.contents import Entry
from pgetpy.cache.evictor import Evictor
from pgetpy.cache.fills import Claim, allocated
from pgetpy.cache.publishing import Publisher
from pgetpy.core.cache.records import About


class Lease:
    """Keeps what is under a key where it is. A context manager.

    Attributes:
        entry: what was there when the lease was taken; None where nothing was. What is published
            later is held too; `Store.lookup` finds it.
    """

    def __init__(self, key: str, entry: Entry | None, release: Callable[[], None]) -> None:
        self.key = key
        self.entry = entry
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Give it back; again, to no effect."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


class Fill:
    """The right to fetch what belongs under a key. A context manager, which gives it back.

    Attributes:
        folder: where to fetch it to, on the cache's file system. What an earlier filler left is
            still there; what is there when this one ends without publishing is kept for the next.
        entry: what is under the key already, fetched by another meanwhile, or to be replaced.
    """

    def __init__(
        self,
        claim: Claim,
        entry: Entry | None,
        evictor: Evictor,
        publisher: Publisher,
        mapped: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.key = claim.key
        self.folder = claim.folder
        self.entry = entry
        self._claim = claim
        self._evictor = evictor
        self._publisher = publisher
        self._mapped = mapped

    def reserve(self, size: int) -> int:
        """Make room for `size` bytes in all, and keep it from others until this fill ends.

        It may take a while: what leaves is deleted now.

        Returns:
            The bytes of entries that had to leave.

        Raises:
            CacheFullError: there is no room.
        """
        with self._mapped():
            before = self._claim.progress
            # First the word, then the look: of two who do so at once one at least sees the other.
            self._claim.tell(replace(before, reserved=size))
            try:
                there = allocated(self.folder)[0]
                return self._evictor.make_room(max(0, size - there), self._claim)
            except BaseException:
                self._claim.tell(before)
                raise

    def progress(self, done: int, total: int = 0) -> None:
        """Show those who wait that `done` bytes of `total` have come."""
        self._claim.tell(replace(self._claim.progress, done=done, total=total))

    def publish(
        self,
        source: str | os.PathLike[str],
        about: About,
        *,
        name: str = "",
        digest: str = "",
        fsync: bool = False,
    ) -> Entry:
        """Move `source`, a file or folder that is whole and checked, into the cache; this ends it.

        Where another entry has the same `digest`, both are one file from now on.

        Args:
            source: on the cache's file system, as everything in `folder` is.
            name: how the last component of the entry's path ends (`lora.safetensors`: loaders go by
                suffixes), 181 bytes at most; by default the source's.
            digest: `sha256:HEX` where the caller has verified it; else `Store.settle` computes it.

        Raises:
            CacheError: it could not be moved.
        """
        path = Path(source)
        with self._mapped():
            entry = self._publisher.publish(
                self.key, path, name or path.name, about, digest=digest, fsync=fsync
            )
            self.release(keep=False)
            return entry

    def release(self, *, keep: bool = True) -> None:
        """Let the next one in; `keep` what was fetched for it. Again, to no effect."""
        with self._mapped():
            self._claim.release(keep=keep)

    def __enter__(self) -> Fill:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
