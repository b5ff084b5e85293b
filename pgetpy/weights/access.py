"""Whether a cached entry may be given to a caller without a request.

Entries are shared by all callers of a machine, but access is not: a private model that was fetched
with one token must not be given to a caller with another. An entry is open to a caller if it is
public, if it was fetched with the same credentials (the same "scope"), or if this caller's
credentials opened it at the server a short time ago.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from pgetpy.cache.contents import Entry
from pgetpy.cache.store import Store
from pgetpy.core.cache.records import State
from pgetpy.core.http.answers import Identity
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.policy import Policy
from pgetpy.core.references.reference import Reference, scope_for
from pgetpy.weights.background_hash import BackgroundHasher

# How long a caller with other credentials, once the server has accepted them, need not prove access
# again.
_TRUSTED_SECONDS = 600.0
_MOST_TRUSTED = 4096
# By then the fetching process has computed the digest and flushed the entry, or has ended.
_OVERDUE_SECONDS = 600.0


@dataclass(frozen=True)
class LookupOptions:
    """What a caller requires of an entry.

    Attributes:
        digest: the expected digest.
        fresh: ask the server whether the version is current.
        any_file: accept files that are not weights.
        proven: accept only content known to be the server's: by its digest, or fetched just now.
    """

    digest: Checksum | None = None
    fresh: bool = False
    any_file: bool = False
    proven: bool = False


def is_recent(entry: Entry, lookup: LookupOptions) -> bool:
    """Whether `entry` counts as the current version without asking the server.

    How old a hit may be is decided here alone: at any age, unless the caller wants it fresh.
    """
    return not lookup.fresh


class AccessRules:
    """Judges the entries of `store`, and remembers what was shown about them."""

    def __init__(
        self, store: Store, hasher: BackgroundHasher, policy: Policy | None = None
    ) -> None:
        self._store = store
        self._hasher = hasher
        self._policy = policy
        # Contents that were checked to be safetensors. A generation names one content of a key.
        self._vetted: set[str] = set()
        # Until when a scope may have a content.
        self._trusted: dict[tuple[str, str], float] = {}
        # Contents of read-only lower caches, which cannot be marked as flushed, that were verified
        # here.
        self._verified: set[str] = set()
        self._overdue: set[str] = set()

    def at_hand(
        self, reference: Reference, lookup: LookupOptions, *, used: bool = True
    ) -> Entry | None:
        """Return the entry if it may be given out without a request.

        Args:
            reference: names it.
            lookup: what the caller requires of it.
            used: whether that counts as a use: not if the caller keeps it anyway.
        """
        look = self._store.lookup if used else self._store.peek
        entry = look(reference.key)
        if entry is None or not self.is_sound(entry):
            return None
        if lookup.digest is not None or lookup.proven or not is_recent(entry, lookup):
            return None
        if reference.local and not reference.by_content:
            return None
        if not self.is_open_to(entry, reference):
            return None
        self.check_content(entry, reference)
        self.see_to(entry)
        return entry

    def check_content(self, entry: Entry, reference: Reference) -> None:
        """Check that the policy allows the content, no matter who fetched it.

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
        """Whether the content is known to be undamaged."""
        return entry.state is State.SOUND or entry.record.generation in self._verified

    def verified(self, entry: Entry) -> None:
        """Note that the content was just compared with its digest."""
        self._verified.add(entry.record.generation)

    def see_to(self, entry: Entry) -> None:
        """Have the digest computed if the process that fetched the entry ended before it did so."""
        record = entry.record
        if entry.lower or (record.digest and record.flushed) or record.generation in self._overdue:
            return
        if time.time() - record.created > _OVERDUE_SECONDS:
            self._overdue.add(record.generation)
            self._hasher.put(entry.key)

    def trust(self, entry: Entry, reference: Reference) -> None:
        """Note that the server just let this reference's credentials have the content."""
        now = time.monotonic()
        if len(self._trusted) >= _MOST_TRUSTED:
            # Signed links differ on every call, so the table would grow without end.
            self._trusted = {who: until for who, until in self._trusted.items() if until > now}
        self._trusted[entry.record.generation, reference.scope] = now + _TRUSTED_SECONDS

    def is_open_to(self, entry: Entry, reference: Reference) -> bool:
        """Whether the caller of `reference` may have the entry: public, or fetched with these
        credentials.

        Under a policy, content that was fetched without it does not count as public: it may come
        from an internal host.
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


def identity_of(entry: Entry) -> Identity:
    """Return which version of the origin's object the content of `entry` is."""
    return Identity(**json.loads(entry.record.about.details.get("identity", '{"total": null}')))


def digest_scope(digest: Checksum) -> str:
    """Return the scope of content that was found by `digest` alone.

    Nothing shows that the origin has this content, so only callers who name the digest may have it.
    """
    return scope_for("digest", str(digest))
