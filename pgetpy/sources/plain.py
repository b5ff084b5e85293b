"""URLs that say where their bytes are: http and https, and file for local files."""

from __future__ import annotations

from urllib.parse import urlsplit

from pgetpy.core.destinations.names import name_from_url
from pgetpy.core.http.urls import local_link, parse_link
from pgetpy.core.references.reference import Reference, Wanted, key_for, wanted_of
from pgetpy.errors.redact import redact
from pgetpy.settings import SourceSection
from pgetpy.sources.base import Located, RemoteFile, ServiceClient, Source

_SCHEMES = ("http:", "https:", "file:")


class Plain(Source[SourceSection]):
    """Recognises every URL that no other source has claimed."""

    name = "plain"
    settings = SourceSection

    def recognise(self, text: str, wanted: str, settings: SourceSection) -> Reference | None:
        if not text.lower().startswith(_SCHEMES):
            return None
        local = text[:5].lower() == "file:"
        link = local_link(text) if local else parse_link(text)
        # A plain URL ends with its path; splitting takes as long as everything else here.
        chosen = wanted_of(text if link.plain else urlsplit(text).path, wanted)
        return Reference(
            self.name,
            text,
            text if link.plain else redact(text),
            name_from_url(text) or "",
            link.key if chosen is Wanted.FILE else key_for(link.key, chosen),
            link.signature,
            chosen,
            local=local,
            link=link,
        )

    async def locate(
        self, reference: Reference, settings: SourceSection, client: ServiceClient
    ) -> Located:
        return Located((RemoteFile(reference.text),), extract=reference.wanted is not Wanted.FILE)
