"""What is done to a cache beside giving weights out: pins, removal, eviction, sweeping, the end."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from pgetpy.cache.checking import Verdict
from pgetpy.cache.listing import ListedEntry, Totals
from pgetpy.cache.store import Store
from pgetpy.core.references.reference import Reference
from pgetpy.errors import CacheError
from pgetpy.settings import Settings
from pgetpy.weights.background_hash import BackgroundHasher
from pgetpy.weights.options import ReferenceOptions, named

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class Maintenance:
    """The upkeep of `store`, by the references that callers spell."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._hasher = BackgroundHasher(store)

    @property
    def path(self) -> Path:
        """The cache's folder."""
        return self._store.root

    def pin(self, url: str, **options: Unpack[ReferenceOptions]) -> None:
        """Keep what `url` names (see `ensure`), now or later, until it is unpinned."""
        self._store.pin(self._reference(url, **options).key)

    def unpin(self, url: str, **options: Unpack[ReferenceOptions]) -> bool:
        """Take a pin back; False where there was none."""
        return self._store.unpin(self._reference(url, **options).key)

    def remove(self, url: str, **options: Unpack[ReferenceOptions]) -> int | None:
        """Take an entry away; return its bytes, None where there is none.

        Raises:
            CacheError: it is pinned or leased.
        """
        return self._store.remove(self._reference(url, **options).key)

    def verify_all(self) -> dict[str, Verdict]:
        """Hash every entry; return what was found, by key. Who asks next repairs the damaged.

        UNKNOWN is what has no digest: nobody can tell whether it still is what arrived.
        """
        self._hasher.wait()
        keys = [row.record.key for row in self._store.entries()]
        return {key: self._store.verify(key) for key in keys}

    def evict(self, needed: int = 0) -> int:
        """Make room for `needed` bytes more; return the bytes of entries that left.

        Raises:
            CacheFullError: that cannot be.
        """
        return self._store.make_room(needed)

    def entries(self) -> list[ListedEntry]:
        """Return all entries, the one used last first."""
        return self._store.entries()

    def totals(self) -> Totals:
        """Return what the cache takes; it looks at every entry."""
        return self._store.totals()

    def sweep(self) -> int:
        """Take away what processes that died have left; return the bytes gained."""
        return self._store.sweep()

    def settle(self, seconds: float | None = None, *, flush: bool = False) -> bool:
        """Wait until the digests of what was fetched are known; False after `seconds`.

        Args:
            flush: until it is on stable storage, too.
        """
        return self._hasher.wait(seconds, flush=flush)

    def settle_one(self, key: str) -> None:
        """Compute the digest of an entry now, if it is not known and can be."""
        with contextlib.suppress(CacheError):
            self._store.settle(key, fsync=False)

    def close(self) -> None:
        """This process uses nothing of it any more; digests still to be computed are, if that
        takes no more than a moment."""
        self._hasher.finish()
        self._hasher.stop()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self._hasher.stop()  # who interrupts us does not want to wait
        self.close()

    def _reference(self, url: str, **options: Unpack[ReferenceOptions]) -> Reference:
        return named(url, self._settings.sources, **options)
