"""What callers hold: a lease of an entry, or the right to fill one."""

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
    """Keeps what is under a key from being evicted. A context manager.

    Attributes:
        entry: the entry when the lease was taken; None if there was none. One that is published
            later is kept too; `Store.lookup` finds it.
    """

    def __init__(self, key: str, entry: Entry | None, release: Callable[[], None]) -> None:
        self.key = key
        self.entry = entry
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """End the lease. Calling it again has no effect."""
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
    """The right to fetch the entry under a key. A context manager, which gives it back.

    Attributes:
        folder: where to fetch to, on the cache's file system. It may hold what an earlier process
            left, and what it holds without being published is kept for the next.
        entry: the entry under the key, fetched by another process meanwhile or to be replaced.
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
        """Make room for `size` bytes in all, and reserve it until this fill ends.

        This can take a while, as evicted content is deleted right away.

        Returns:
            The bytes of evicted entries.

        Raises:
            CacheFullError: there is not enough room.
        """
        with self._mapped():
            before = self._claim.progress
            # Announce first, then look: of two processes that do so at once, at least one sees the
            # other.
            self._claim.tell(replace(before, reserved=size))
            try:
                there = allocated(self.folder)[0]
                return self._evictor.make_room(max(0, size - there), self._claim)
            except BaseException:
                self._claim.tell(before)
                raise

    def progress(self, done: int, total: int = 0) -> None:
        """Show waiting processes that `done` bytes of `total` have arrived."""
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
        """Move `source`, complete and checked, into the cache. This ends the fill.

        If another entry has the same `digest`, the two become one file.

        Args:
            source: a file or folder on the cache's file system, as everything in `folder` is.
            about: where it came from.
            name: the end of the entry's file name, at most 181 bytes, such as `lora.safetensors`
                (loaders choose by suffix); by default the source's.
            digest: `sha256:HEX`, if verified by the caller; otherwise `Store.settle` computes it.
            fsync: flush to stable storage before returning.

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
        """Give the fill up; `keep` what was fetched for the next. Repeating it has no effect."""
        with self._mapped():
            self._claim.release(keep=keep)

    def __enter__(self) -> Fill:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
