"""data: URIs (RFC 2397), which bear the weights themselves: a tar or zip, or a .safetensors."""

from __future__ import annotations

from pgetpy.core.http.urls import local_link
from pgetpy.core.lazy_dataclass import dataclass
from pgetpy.core.references.local_urls import is_data, parse_data
from pgetpy.core.references.reference import Reference, Wanted, key_for, wanted_of
from pgetpy.core.text.values import size_reader
from pgetpy.errors.redact import redact
from pgetpy.settings import SourceSection
from pgetpy.settings.options import variable
from pgetpy.sources.base import Located, RemoteFile, ServiceClient, Source


@dataclass(frozen=True)
class DataSettings(SourceSection):
    """How many bytes a data: URI may bear."""

    # fmt: off
    options = (
        variable("DataSettings.max_size", size_reader(0),
                 "maximum size of the content of a data: URI", default="64Mi",
                 environ="PGET_MAX_DATA_SIZE"),
    )
    # fmt: on

    max_size: int = 64 << 20


class Data(Source[DataSettings]):
    """Takes what begins with `data:`. The bytes are the name: equal ones are one object."""

    name = "data"
    settings = DataSettings

    def recognise(self, text: str, wanted: str, settings: DataSettings) -> Reference | None:
        if not is_data(text):
            return None
        data = parse_data(text, settings.max_size)
        # The bytes tell what a name tells elsewhere.
        chosen = wanted_of(".tar" if data.archive else "", wanted)
        if chosen is Wanted.WEIGHTS and not data.archive:
            chosen = Wanted.FILE
        return Reference(
            self.name,
            text,
            redact(text),
            data.name,
            key_for(f"data:{data.sha256}", chosen),
            wanted=chosen,
            local=True,
            by_content=True,
            link=local_link(text),
        )

    async def locate(
        self, reference: Reference, settings: DataSettings, client: ServiceClient
    ) -> Located:
        remote = RemoteFile(reference.text, reference.name)
        return Located((remote,), extract=reference.wanted is not Wanted.FILE)
