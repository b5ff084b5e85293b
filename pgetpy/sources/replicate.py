"""Replicate: the weights of a trained model, a tar that contains one .safetensors file.

    OWNER/NAME[:VERSION] or OWNER/NAME/VERSION
    replicate.com/OWNER/NAME[/versions/VERSION][/_weights]

VERSION is 64 hex digits, or at least the first 8 of them, as Replicate's pages show them. Weights
of public models need no token. URLs at replicate.delivery are plain URLs.

OWNER/NAME alone also looks like a relative path and like a repository of the Hub. It is taken for
Replicate's unless it ends like a file or is Replicate's own page; the hint of a 404
names the Hub's form. Nothing is asked before the download: `_weights` redirects to the tar.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pgetpy.core.lazy_dataclass import dataclass
from pgetpy.core.references.reference import Reference, Wanted, is_archive_name, key_for, wanted_of
from pgetpy.core.text.values import read_endpoint
from pgetpy.errors import HttpStatusError, NotFoundError, PgetError, UnauthorizedError
from pgetpy.settings import SourceSection
from pgetpy.settings.options import variable
from pgetpy.sources.base import Located, RemoteFile, ServiceClient, Source, parts_at

SERVICE = "Replicate"
_HOSTS = frozenset({"replicate.com", "www.replicate.com"})
_VERSION = r"(?P<version>[0-9a-f]{8,64})"
_MODEL = r"(?P<owner>[A-Za-z0-9][\w-]{0,63})/(?P<name>[A-Za-z0-9][\w.-]{0,127})"
_BARE = re.compile(rf"{_MODEL}(?:[:/]{_VERSION})?", re.ASCII)
_PATH = re.compile(rf"/{_MODEL}(?:/versions/{_VERSION})?(?:/_weights)?/?", re.ASCII)
# First components of paths that are not owners.
_RESERVED = frozenset(
    {"p", "account", "about", "blog", "changelog", "collections", "deployments", "docs", "explore",
     "guides", "home", "playground", "predictions", "pricing", "signin", "trainings"}
)  # fmt: skip
_LONGEST = 1024


@dataclass(frozen=True)
class ReplicateSettings(SourceSection):
    """Where Replicate is."""

    # fmt: off
    options = (
        variable("ReplicateSettings.endpoint", read_endpoint, "URL of Replicate",
                 default="https://replicate.com", environ="PGET_REPLICATE_ENDPOINT"),
    )
    # fmt: on

    endpoint: str = "https://replicate.com"


class Replicate(Source[ReplicateSettings]):
    """Recognises trained models of Replicate."""

    name = "replicate"
    hosts = _HOSTS
    settings = ReplicateSettings

    def recognise(self, text: str, wanted: str, settings: ReplicateSettings) -> Reference | None:
        found = _found(text, settings.endpoint)
        if found is None or found["owner"].lower() in _RESERVED:
            return None
        owner, name, version = found["owner"], found["name"], found["version"]
        # All ways to write a model make the same URL, and so the same key in the cache.
        chosen = Wanted.WEIGHTS if wanted == "auto" else wanted_of("", wanted)
        part = f"/versions/{version}" if version else ""
        url = f"{settings.endpoint}/{owner}/{name}{part}/_weights"
        key = key_for(f"replicate:{url}", chosen)
        service = settings.endpoint
        return Reference(self.name, url, url, name, key, wanted=chosen, service=service)

    async def locate(
        self, reference: Reference, settings: ReplicateSettings, client: ServiceClient
    ) -> Located:
        # The redirect to the bytes is signed and short-lived: each download asks for it again.
        remote = RemoteFile(reference.text, f"{reference.name}.tar", trusted=True)
        return Located((remote,), extract=reference.wanted is not Wanted.FILE)

    def explained(
        self, reference: Reference, error: HttpStatusError, settings: ReplicateSettings
    ) -> PgetError:
        if urlsplit(error.url).netloc != urlsplit(settings.endpoint).netloc:
            return error  # where the bytes are
        if error.status in (401, 403):
            hint = "only public models can be downloaded; give the URL of the file itself"
            return UnauthorizedError(str(reference), SERVICE, error.status, error.words, hint=hint)
        if error.status in (404, 410):
            hint = "check OWNER/NAME and VERSION, that it is public, and that it was trained; a "
            hint += "repository of Hugging Face is hf://OWNER/NAME"
            return NotFoundError(str(reference), SERVICE, error.status, error.words, hint=hint)
        return error


def _found(text: str, endpoint: str) -> re.Match[str] | None:
    """Match a model's name or URL; None if it is neither."""
    if len(text) > _LONGEST or "/" not in text:
        return None
    if bare := _BARE.fullmatch(text):
        # A relative path to a file is not a model.
        is_file = text.lower().endswith(".safetensors") or is_archive_name(text)
        return None if is_file else bare
    parts = parts_at(text, _HOSTS, endpoint)
    return _PATH.fullmatch(parts[0]) if parts is not None else None
