"""What of a cache may be given to its caller as it is, without asking anybody."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pgetpy.cache.contents import Entry
from pgetpy.cache.store import Store
from pgetpy.core.cache.records import State
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.policy import Policy
from pgetpy.core.references.reference import Reference
from pgetpy.weights.background_hash import BackgroundHasher

# How long a caller who was shown to have access to what another fetched need not show it again.
_TRUSTED_SECONDS = 600.0
_MOST_TRUSTED = 4096
# Whoever fetched an entry has computed its digest and flushed it by then, or has ended.
_OVERDUE_SECONDS = 600.0


@dataclass(frozen=True)
class LookupOptions:
    """What a caller asks of an entry.

    Attributes:
        digest: what the object must hash to.
        fresh: whether the server is to be asked if it still has the same version.
        any_file: whether it need not be weights.
        proven: whether it must be known to be what the server has: by its digest, or fetched now.
    """

    digest: Checksum | None = None
    fresh: bool = False
    any_file: bool = False
    proven: bool = False


class AccessRules:
    """Judges the entries of `store`; remembers what has been shown of them."""

    def __init__(
        self, store: Store, hasher: BackgroundHasher, policy: Policy | None = None
    ) -> None:
        self._store = store
        self._hasher = hasher
        self._policy = policy
        # Generations that were found to be safetensors.
        self._vetted: set[str] = set()
        # Until when a scope may have the content of a generation.
        self._trusted: dict[tuple[str, str], float] = {}
        # Generations of lower entries, which cannot be noted as flushed, that were verified here.
        self._verified: set[str] = set()
        self._overdue: set[str] = set()

    def at_hand(self, reference: Reference, lookup: LookupOptions) -> Entry | None:
        """Return the entry if it may be given out as it is, without asking anybody."""
        entry = self._store.lookup(reference.key)
        if entry is None or not self.is_sound(entry):
            return None
        if lookup.digest is not None or lookup.fresh or lookup.proven:
            return None
        if reference.local and not reference.by_content:
            return None
        if not self.is_open_to(entry, reference):
            return None
        self.check_content(entry, reference)
        self.see_to(entry)
        return entry

    def check_content(self, entry: Entry, reference: Reference) -> None:
        """Check that the policy lets the content be given out, whoever has fetched it.

        Raises:
            NotAllowedError: it does not.
        """
        if self._policy is None or not self._policy.only_safetensors:
            return
        from pgetpy.weights.validate import check_safetensors

        generation = entry.record.generation
        if generation not in self._vetted:
            check_safetensors(entry.path, reference)
            self._vetted.add(generation)

    def is_sound(self, entry: Entry) -> bool:
        """Whether the content is known to be what it was."""
        return entry.state is State.SOUND or entry.record.generation in self._verified

    def verified(self, entry: Entry) -> None:
        """Its content was compared with its digest just now."""
        self._verified.add(entry.record.generation)

    def see_to(self, entry: Entry) -> None:
        """Have the digest of an entry computed whose fetcher has ended before he came to that."""
        record = entry.record
        if entry.lower or (record.digest and record.flushed) or record.generation in self._overdue:
            return
        if time.time() - record.created > _OVERDUE_SECONDS:
            self._overdue.add(record.generation)
            self._hasher.put(entry.key)

    def trust(self, entry: Entry, reference: Reference) -> None:
        """Who gives `reference` was shown just now to have access to what it names."""
        now = time.monotonic()
        if len(self._trusted) >= _MOST_TRUSTED:
            # Links may be signed anew for each call.
            self._trusted = {who: until for who, until in self._trusted.items() if until > now}
        self._trusted[entry.record.generation, reference.scope] = now + _TRUSTED_SECONDS

    def is_open_to(self, entry: Entry, reference: Reference) -> bool:
        """Whether who gives `reference` may have the entry: it is anybody's, or was his before.

        What was not fetched under the policy may come from a host whose name leads inside.
        """
        about = entry.record.about
        alike = (
            self._policy is None
            or reference.local
            or bool(reference.service)
            or about.details.get("policy") == self._policy.mark
        )
        if alike and about.scope in ("", reference.scope):
            return True
        return self._trusted.get((entry.record.generation, reference.scope), 0.0) > time.monotonic()
