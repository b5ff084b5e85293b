"""URLs that say themselves where the bytes are: http and https, and file for this machine."""

from __future__ import annotations

from pgetpy.core.cache.keys import cache_key
from pgetpy.core.destinations.names import name_from_url
from pgetpy.core.references.reference import Reference, Wanted, key_for, path_of, wanted_of
from pgetpy.errors import HttpStatusError, PgetError
from pgetpy.errors.redact import redact
from pgetpy.settings import SourceSettings
from pgetpy.sources.base import Asker, Located, Object

_SCHEMES = ("http:", "https:", "file:")


class Plain:
    """Takes every URL that nobody else has taken."""

    name = "plain"

    def recognise(self, text: str, wanted: str, settings: SourceSettings) -> Reference | None:
        if not text.lower().startswith(_SCHEMES):
            return None
        found = cache_key(text)
        chosen = wanted_of(path_of(text), wanted)
        key = found.key if chosen is Wanted.FILE else key_for(found.key, chosen)
        local = text[:5].lower() == "file:"
        return Reference(
            self.name,
            text,
            redact(text),
            name_from_url(text) or "",
            key,
            found.signature,
            chosen,
            local=local,
        )

    async def locate(self, reference: Reference, settings: SourceSettings, asker: Asker) -> Located:
        return Located((Object(reference.text),), extract=reference.wanted is not Wanted.FILE)

    def explained(
        self, reference: Reference, error: HttpStatusError, settings: SourceSettings
    ) -> PgetError:
        return error
