"""CivitAI: models by page, version or AIR name, through its public REST API.

    civitai.com/models/MODEL[/slug][?modelVersionId=VERSION]
    civitai.com/api/download/models/VERSION[?type=..&format=..&size=..&fp=..]
    [urn:air:ECOSYSTEM:TYPE:]civitai:MODEL[@VERSION]

Models and versions are numbered separately. For a model, the first published version is looked up;
where both numbers are given the version decides. The pages at civitai.green and civitai.red have
the same numbers; all requests go to the one endpoint, so that a token has one place to go to.

The API (developer.civitai.com/site/reference) gives a file's name, SHA256 and `downloadUrl`, which
leads to signed storage that refuses an Authorization header. `sizeKB` is rounded, and not believed.
A request without access is redirected to a page for people, or answered in JSON.

    number --/api/v1/...--> version, files --chosen_file--> downloadUrl --302--> signed storage
                                                                 '--302--> /login, /pricing: refused

So the download is asked once before it begins (`refused`): the page would come with status 200, and
be taken for the file. Which file of a version is meant is decided in `civitai_answers`.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit

from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.core.references.reference import Reference, Wanted, key_for, scope_for, wanted_of
from pgetpy.core.text.values import read_endpoint, read_token
from pgetpy.errors import BadReferenceError, HttpStatusError, NotFoundError, PgetError
from pgetpy.settings import SourceSection
from pgetpy.settings.options import NAME_ENTRIES, TRANSFER, Option, variable
from pgetpy.sources.base import Located, ModelFacts, RemoteFile, ServiceClient, Source, parts_at
from pgetpy.sources.civitai_answers import (
    HOSTS,
    SERVICE,
    chosen_file,
    described,
    gated,
    refused,
    unauthorized,
)

# The query parameters of a download that choose among a version's files.
FILTERS = ("type", "format", "size", "fp", "fileId")

_PATH = re.compile(
    r"/models/(?P<model>[0-9]{1,18})(?:/[^/]*)?/?"
    r"|/api/v1/models/(?P<api_model>[0-9]{1,18})/?"
    r"|(?:/api/download/models|(?:/api/v1)?/model-versions)/(?P<version>[0-9]{1,18})/?"
)
_OWN_PATHS = ("/models/", "/api/download/", "/api/v1/model", "/model-versions/")
_AIR = re.compile(
    r"(?:(?:urn:)?(?:air:)?[\w.-]+:[\w.-]+:)?civitai:"
    r"(?P<model>[0-9]{1,18})(?:@(?P<version>[0-9]{1,18}))?(?:\.safetensors?)?",
    re.IGNORECASE | re.ASCII,
)
_AIR_BEGINNING = re.compile(r"(?:[\w.-]+:){0,4}civitai:", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,18}")
_LONGEST = 4096
_SAID = re.compile(r'"(?:message|error)"\s*:\s*"((?:[^"\\]|\\.)*)')


@dataclass(frozen=True)
class Asked:
    """What a reference names: a version, or a model, which means its first published version.

    Attributes:
        model: its number; empty if only the version is given.
        version: its number.
        filters: query parameters that choose among the files of a version.
        token: from the URL's own `?token=`; it is in neither the key nor the shown text.
    """

    model: str = ""
    version: str = ""
    filters: tuple[tuple[str, str], ...] = ()
    token: str | None = field(default=None, repr=False)

    def url(self, endpoint: str) -> str:
        """Return it as a URL without its token."""
        path = f"/api/download/models/{self.version}" if self.version else f"/models/{self.model}"
        query = f"?{urlencode(self.filters)}" if self.filters else ""
        return f"{endpoint}{path}{query}"


@dataclass(frozen=True)
class CivitaiSettings(SourceSection):
    """Where CivitAI is, and what opens it."""

    # fmt: off
    options = (
        variable("CivitaiSettings.token", read_token,
                 "access token for CivitAI", environ="CIVITAI_API_TOKEN"),
        variable("CivitaiSettings.endpoint", read_endpoint,
                 "URL of CivitAI", default="https://civitai.com", environ="PGET_CIVITAI_ENDPOINT"),
        Option("civitai-token", "", "TOKEN", "CivitaiSettings.token", read_token,
               "access token for CivitAI. Prefer to set CIVITAI_API_TOKEN",
               (*TRANSFER, *NAME_ENTRIES)),
    )
    # fmt: on

    endpoint: str = "https://civitai.com"
    token: str | None = field(default=None, repr=False)


class Civitai(Source[CivitaiSettings]):
    """Takes the pages and downloads of CivitAI, and AIR names of it."""

    name = "civitai"
    hosts = HOSTS
    settings = CivitaiSettings
    argument = "civitai_api_token"

    def recognise(self, text: str, wanted: str, settings: CivitaiSettings) -> Reference | None:
        asked = parse_civitai(text, settings.endpoint)
        if asked is None:
            return None
        chosen = Wanted.WEIGHTS if wanted == "auto" else wanted_of("", wanted)
        token = read_token(asked.token or "", "token") or settings.token
        service = settings.endpoint
        url = asked.url(service)
        key = key_for(f"civitai:{url}", chosen)
        scope = scope_for(token)
        return Reference(self.name, url, url, "", key, scope, chosen, token, service=service)

    async def locate(
        self, reference: Reference, settings: CivitaiSettings, client: ServiceClient
    ) -> Located:
        endpoint = settings.endpoint
        asked = parse_civitai(reference.text, endpoint)
        assert asked is not None
        authorization = f"Bearer {reference.token}" if reference.token else None
        kind = f"model-versions/{asked.version}" if asked.version else f"models/{asked.model}"
        url = f"{endpoint}/api/v1/{kind}"
        remote = RemoteFile(url, authorization=authorization, trusted=True)
        # The answer on a model lists all its versions, with their pictures.
        version = described(reference, await client.read(remote, most=32 << 20))
        file = chosen_file(reference, version, asked.filters)
        found = file.located(endpoint, authorization)
        first = await client.head(found)
        if (refusal := refused(reference, first, found.url, endpoint)) is not None:
            raise refusal
        extract = reference.wanted is not Wanted.FILE and file.archive
        facts = ModelFacts(base_model=file.base_model)
        return Located((found,), extract=extract, version=file.version, facts=facts)

    def explained(
        self, reference: Reference, error: HttpStatusError, settings: CivitaiSettings
    ) -> PgetError:
        if urlsplit(error.url).netloc != urlsplit(settings.endpoint).netloc:
            return error  # from its storage or another host: it means what it says
        said = _SAID.findall(error.words)
        words = ": ".join(said) if said else error.words
        if error.status == 401:
            return unauthorized(reference, error.status, words)
        if error.status == 403:
            return gated(reference, error.status, words)
        if error.status in (404, 410):
            hint = "check the number: a model's and a version's are not the same"
            return NotFoundError(str(reference), SERVICE, error.status, words, hint=hint)
        return error


def parse_civitai(text: str, endpoint: str) -> Asked | None:
    """Return what `text` names at CivitAI; None where it is something else.

    Raises:
        BadReferenceError: it is CivitAI's, and names no model.
    """
    if len(text) > _LONGEST:
        return None
    if found := _AIR.fullmatch(text):
        return Asked(_plain(found["model"]), _plain(found["version"]))
    if _AIR_BEGINNING.match(text) and "//" not in text:
        hint = "an AIR name of CivitAI is urn:air:sdxl:lora:civitai:MODEL@VERSION"
        raise BadReferenceError(text, f"it names no model by its number; {hint}")
    return _of_url(text, endpoint)


def _of_url(text: str, endpoint: str) -> Asked | None:
    if not any(path in text for path in _OWN_PATHS):
        return None
    parts = parts_at(text, HOSTS, endpoint)
    if parts is None or not parts[0].startswith(_OWN_PATHS):
        return None
    found = _PATH.fullmatch(parts[0])
    query = {name.lower(): value for name, value in parse_qsl(parts[1])}
    version = query.get("modelversionid", "")
    if found is None or (version and not _NUMBER.fullmatch(version)):
        raise BadReferenceError(text, "it names no model or version of CivitAI by its number")
    return Asked(
        _plain(found["model"] or found["api_model"]),
        _plain(found["version"] or version),
        tuple((name, query[name.lower()]) for name in FILTERS if query.get(name.lower())),
        query.get("token", "").strip() or None,
    )


def _plain(number: str | None) -> str:
    return str(int(number)) if number else ""
