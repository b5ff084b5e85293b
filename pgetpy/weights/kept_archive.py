"""Members of an archive that the cache already has as a file: extracted from there, not fetched.

A lock of generations needs the digest of an archive and so fetches it; its build needs the members.
"""

from __future__ import annotations

from functools import partial

from pgetpy.cache.checking import Verdict
from pgetpy.cache.contents import Entry
from pgetpy.cache.store import Store
from pgetpy.cache.tickets import Fill
from pgetpy.core.http.answers import Identity
from pgetpy.core.http.urls import local_link
from pgetpy.core.references.jobs import Job
from pgetpy.core.references.reference import Wanted
from pgetpy.errors import ArchiveError, IntegrityError, NotAllowedError, TransferError
from pgetpy.settings import Settings
from pgetpy.sources.base import RemoteFile
from pgetpy.sources.table import parse_reference
from pgetpy.system.event_loop import wait_uncancelled
from pgetpy.system.filesystem import remove_tree
from pgetpy.system.logs import RoomLog
from pgetpy.system.threads import WORKERS
from pgetpy.weights.access import AccessRules, LookupOptions, identity_of
from pgetpy.weights.fetch_request import FetchRequest, FetchResult
from pgetpy.weights.size_limit import SizeBudget

_LOG = RoomLog("weights")


async def extract_kept(
    fill: Fill, request: FetchRequest, store: Store, access: AccessRules, settings: Settings
) -> FetchResult | None:
    """Extract into the folder `members` of a fill; None if the archive has to be fetched.

    Only a caller who names the archive's digest gets members in this way: nothing else shows that
    the file in the cache is what the origin would send now.

    Raises:
        PgetError: the archive is what its digest says, and its members may not be kept.
    """
    reference, checksum = request.reference, request.lookup.digest
    if checksum is None or reference.wanted is Wanted.FILE or reference.several or reference.local:
        return None
    file = parse_reference(reference.text, Wanted.FILE.value, settings.sources)
    with store.lease(file.key):
        kept = access.at_hand(file, LookupOptions(), used=False)
        if kept is None or kept.record.digest not in ("", str(checksum)):
            return None
        if not access.is_open_to(kept, reference):
            return None
        _LOG.debug("%s: extracting the archive that is in the cache", reference)
        url = kept.path.as_uri()
        budget = SizeBudget(reference, settings.largest)
        admit = partial(_admit, fill, budget)
        dest = str(fill.folder / "members")
        job = Job(url, dest, checksum, extract=True, link=local_link(url), admit=admit)
        await discard_members(fill)
        try:
            await request.engine.fetch(RemoteFile(url), job, request.report)
        except NotAllowedError:
            raise
        except (ArchiveError, IntegrityError, TransferError) as error:
            sound = await WORKERS.submit(lambda: _is_sound(store, kept))
            if sound and isinstance(error, ArchiveError):
                raise
            _LOG.debug("%s: fetching it, as what is in the cache is damaged: %s", reference, error)
            request.engine.begin_anew()
            return None
        scope = kept.record.about.scope
        return FetchResult(identity_of(kept), reference.name, checksum, "cache", scope)


async def discard_members(fill: Fill) -> None:
    """Delete members that were extracted but not published.

    They may belong to another version, and would be mixed with the members of this one.
    """
    await wait_uncancelled(WORKERS.submit(lambda: _discard_members(fill)), lambda: None)


def _discard_members(fill: Fill) -> None:
    if (fill.folder / "members").exists():
        for path in list(fill.folder.iterdir()):
            remove_tree(path)


def _admit(fill: Fill, budget: SizeBudget, identity: Identity) -> None:
    budget.note(0, identity.total)
    fill.reserve(identity.total or 0)


def _is_sound(store: Store, entry: Entry) -> bool:
    """Whether the entry is what was recorded. A damaged one is not given out any more."""
    return not entry.lower and store.verify(entry.key) is Verdict.SOUND
