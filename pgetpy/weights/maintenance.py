"""Maintenance of a cache: pins, removal, eviction, verification, sweeping, closing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pgetpy.cache.checking import Verdict
from pgetpy.cache.contents import Entry
from pgetpy.cache.listing import ListedEntry, Totals
from pgetpy.cache.store import Store
from pgetpy.core.cache.records import Record
from pgetpy.core.references.reference import Reference
from pgetpy.core.weights.safetensors import LONGEST_FOR_STRANGERS, LONGEST_HEADER
from pgetpy.errors import CacheError
from pgetpy.settings import Settings
from pgetpy.weights.access import LookupOptions
from pgetpy.weights.acquire import Acquisition, CacheInfo
from pgetpy.weights.background_hash import BackgroundHasher
from pgetpy.weights.options import ReferenceOptions, named

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class KeptEntry(NamedTuple):
    """A key that was pinned, and its entry; None if `ensure` would have to make a request."""

    key: str
    entry: Entry | None


@dataclass(eq=False, repr=False)
class Maintenance:
    """Maintenance of `store`, addressed by references as callers write them."""

    _store: Store
    _settings: Settings
    _hasher: BackgroundHasher
    _acquisition: Acquisition

    @property
    def path(self) -> Path:
        """The cache's folder."""
        return self._store.root

    @property
    def settings(self) -> Settings:
        """How it fetches."""
        return self._settings

    @property
    def longest_header(self) -> int:
        """The longest safetensors header in bytes that the policy allows to be parsed."""
        policy = self._settings.policy
        strict = policy is not None and policy.only_safetensors
        return LONGEST_FOR_STRANGERS if strict else LONGEST_HEADER

    def cache_info(self) -> CacheInfo:
        """Return counters of what `ensure` has done so far in this object."""
        return self._acquisition.info

    def pin(self, url: str, **options: Unpack[ReferenceOptions]) -> None:
        """Keep what `url` names (see `ensure`), now or later, until it is unpinned."""
        self._store.pin(self._reference(url, **options).key)

    def unpin(self, url: str, **options: Unpack[ReferenceOptions]) -> bool:
        """Remove a pin; return False if there was none."""
        return self._store.unpin(self._reference(url, **options).key)

    def pin_for(self, owner: str, url: str, **options: Unpack[ReferenceOptions]) -> str:
        """As `pin`, for `owner` (hex digits) alone; return the key of the entry."""
        key = self._reference(url, **options).key
        self._store.pin(key, owner)
        return key

    def keep(self, owner: str, files: Iterable[tuple[str, str]]) -> list[KeptEntry]:
        """Pin several objects for `owner` (hex digits), and return those that are cached.

        What is returned stays until `unpin_for`.

        Args:
            owner: of the pins.
            files: each one's URL, and what is wanted of it; see `ensure`.

        Returns:
            One for each of `files`, in order.
        """
        references = [self._reference(url, wanted=wanted) for url, wanted in files]
        # In this order: an entry that is found after it was pinned cannot be evicted any more.
        self._store.pin_all((each.key for each in references), owner)
        look = LookupOptions()
        peek = partial(self._acquisition.peek, lookup=look, used=False)
        return [KeptEntry(each.key, peek(each)) for each in references]

    def unpin_for(self, owner: str) -> int:
        """Remove all pins of `owner`; return how many there were."""
        return self._store.unpin_all(owner)

    def pins_by_owner(self) -> dict[str, set[str]]:
        """Return the pinned keys of each owner; those of `pin` are under ""."""
        return self._store.pins_by_owner()

    def record(self, url: str, **options: Unpack[ReferenceOptions]) -> Record | None:
        """Return what is recorded about the entry of `url`; None unless `ensure` would return it
        without a request."""
        entry = self._acquisition.peek(self._reference(url, **options), LookupOptions())
        return entry.record if entry is not None else None

    def remove(self, url: str, **options: Unpack[ReferenceOptions]) -> int | None:
        """Remove an entry and return its bytes; None if there is none.

        Raises:
            CacheError: it is pinned or leased.
        """
        return self._store.remove(self._reference(url, **options).key)

    def verify_all(self) -> dict[str, Verdict]:
        """Hash every entry; return the verdicts by key. The next `ensure` of a damaged one repairs
        it.

        UNKNOWN means that no digest was recorded, so there is nothing to compare with.
        """
        self._hasher.wait()
        keys = [row.record.key for row in self._store.entries()]
        return {key: self._store.verify(key) for key in keys}

    def evict(self, needed: int = 0) -> int:
        """Make room for `needed` bytes; return the bytes of evicted entries.

        Raises:
            CacheFullError: that is impossible.
        """
        return self._store.make_room(needed)

    def entries(self) -> list[ListedEntry]:
        """Return all entries, most recently used first."""
        return self._store.entries()

    def totals(self) -> Totals:
        """Return the sizes of the cache; this looks at every entry."""
        return self._store.totals()

    def sweep(self) -> int:
        """Remove what dead processes left; return the bytes freed."""
        return self._store.sweep()

    def settle(self, seconds: float | None = None, *, flush: bool = False) -> bool:
        """Wait until the digests of fetched entries are known, and copies to the second tier made.

        Args:
            seconds: the longest time to wait.
            flush: also wait until they are on stable storage.

        Returns:
            False if the time was up.
        """
        until = None if seconds is None else time.monotonic() + seconds
        settled = self._hasher.wait(seconds, flush=flush)
        left = None if until is None else max(0.0, until - time.monotonic())
        return self._acquisition.wait_for_copies(left) and settled

    def settle_one(self, key: str) -> None:
        """Compute the digest of an entry now, if it is missing and can be computed."""
        with contextlib.suppress(CacheError):
            self._store.settle(key, fsync=False)

    def close(self) -> None:
        """Release everything. Outstanding digests and copies are made if that takes a moment."""
        self._hasher.finish()
        self._acquisition.end_copies()
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

    def _allowed(self, url: str, **options: Unpack[ReferenceOptions]) -> Reference:
        """Return the parsed reference, if the policy allows it.

        Raises:
            NotAllowedError: it does not.
        """
        reference = self._reference(url, **options)
        if self._settings.policy is not None:
            self._settings.policy.check_reference(reference)
        return reference
