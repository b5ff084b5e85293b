"""Files and repositories of the Hugging Face Hub.

The first answer at a file's own URL says where it is (`X-Linked-Etag`, `X-Linked-Size` and
`X-Repo-Commit`, as huggingface_hub's `get_hf_file_metadata` reads them). So a single file needs no
huggingface_hub, whose import takes longer than the request. `hub_listing` asks for the contents of
a repository.

    hf://o/n/f@main --HEAD--> commit, sha256, size --> .../resolve/COMMIT/f --302--> storage (CDN)
    hf://o/n/       --list--> commit, files        --> the same for each file

A branch is resolved to its commit once, and the commit's URLs are fetched: a push in the middle of
a download cannot mix two versions. The digest of a large file is its ETag (Git LFS); a small file
has git's sha1, which is compared only where the Hub's own cache is filled.

The token goes to the Hub and not to the storage that it redirects to, which has signed URLs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from pgetpy.core.http.urls import may_see_credentials, parse_link
from pgetpy.core.lazy_dataclass import dataclass, field, replace
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.hub_errors import meaning_at_hub
from pgetpy.core.references.hub_names import HOSTS, HubName, parse_hub_name
from pgetpy.core.references.reference import (
    Reference,
    Wanted,
    choosing,
    key_for,
    scope_for,
    wanted_of,
)
from pgetpy.core.text.values import read_bool, read_endpoint, read_hub_switch, read_token
from pgetpy.core.weights.choosing import are_shards, weights_among
from pgetpy.errors import (
    ALL_OF_IT,
    BadReferenceError,
    BadSettingError,
    HttpStatusError,
    NotOneFileError,
    PgetError,
)
from pgetpy.errors.redact import HIDDEN
from pgetpy.settings import SourceSection
from pgetpy.settings.options import NAME_ENTRIES, TRANSFER, Option, variable
from pgetpy.sources.base import Located, RemoteFile, ServiceClient, Source
from pgetpy.sources.hub_listing import HubFile, RepositoryListing, list_repository, offline

if TYPE_CHECKING:
    from pgetpy.core.references.policy import Policy

_SUFFIX = ".safetensors"
_TOKEN = re.compile(r"[\x21-\x7e]+")
# An ETag other than a sha256 is a git object's sha1, which hashes more than the bytes.
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# A renamed repository leads to its new name, and small files to a cache: all within the Hub.
_MOST_STEPS = 5


@dataclass(frozen=True)
class HubSettings(SourceSection):
    """Where the Hub is, and what opens it. The variables are huggingface_hub's own.

    Attributes:
        endpoint: of a mirror or an Enterprise Hub; part of the cache's keys.
        token: an access token; the login that `hf auth login` stores is not used.
        offline: ask no Hub.
        hf_transfer: fetch files whose sha256 is known by hf_transfer.
    """

    # fmt: off
    options = (
        variable("HubSettings.token", read_token,
                 "access token for Hugging Face", environ="HF_TOKEN"),
        variable("HubSettings.endpoint", read_endpoint,
                 "URL of the Hub", default="https://huggingface.co", environ="HF_ENDPOINT"),
        variable("HubSettings.offline", read_hub_switch,
                 "1: send no request to the Hub", environ="HF_HUB_OFFLINE"),
        variable("HubSettings.hf_transfer", read_hub_switch,
                 "1: download large files of the Hub with hf_transfer",
                 environ="HF_HUB_ENABLE_HF_TRANSFER"),
        Option("hf-token", "", "TOKEN", "HubSettings.token", read_token,
               "access token for Hugging Face. Prefer to set HF_TOKEN: other users of a machine "
               "can see the flags of its processes", (*TRANSFER, *NAME_ENTRIES)),
        Option("hf-transfer", "", "", "HubSettings.hf_transfer", read_bool,
               "download large files of Hugging Face with hf_transfer, as "
               "HF_HUB_ENABLE_HF_TRANSFER=1 does"),
    )
    # fmt: on

    endpoint: str = "https://huggingface.co"
    token: str | None = field(default=None, repr=False)
    offline: bool = False
    hf_transfer: bool = False

    def under_policy(self, policy: Policy) -> HubSettings:
        # hf_transfer looks names up by itself, so a policy over addresses would not hold.
        return replace(super().under_policy(policy), hf_transfer=False)


class HuggingFace(Source[HubSettings]):
    """hf:// and the URLs of the Hub's pages."""

    name = "huggingface"
    hosts = HOSTS
    settings = HubSettings
    argument = "hf_api_token"

    def recognise(self, text: str, wanted: str, settings: HubSettings) -> Reference | None:
        named = parse_hub_name(text, settings.endpoint)
        if named is None:
            return None
        token = settings.token
        if token is not None and not _TOKEN.fullmatch(token):
            raise BadSettingError(
                "hf_api_token", HIDDEN, "contains characters that a token cannot contain"
            )
        chosen = _chosen(named, wanted)
        # Models, datasets and spaces may share OWNER/NAME; the canonical form says which it is.
        canonical = str(named)
        reference = Reference(
            source=self.name,
            text=canonical,
            shown=canonical,
            name=PurePosixPath(named.path or named.repo).name,
            key=key_for(f"hub {settings.endpoint} {canonical}", chosen),
            scope=scope_for(token),
            wanted=chosen,
            token=token,
            several=named.is_folder,
            service=settings.endpoint,
        )
        return choosing(reference, named.patterns)

    async def locate(
        self, reference: Reference, settings: HubSettings, client: ServiceClient
    ) -> Located:
        if settings.offline:
            raise offline(str(reference))
        named = _name_of(reference, settings)
        place = _HubLocation(reference, named, settings.endpoint, settings.hf_transfer)
        if not place.named.is_folder:
            extract = reference.wanted is not Wanted.FILE
            return Located((await _one_file(place, client),), extract=extract)
        listing = await list_repository(place.named, place.endpoint, reference.token, client)
        files = _files_of(place, listing)
        if reference.wanted is Wanted.WEIGHTS:
            files = _only_weights(place, files)
        objects = tuple(place.object(file, listing.commit) for file in files)
        several = reference.wanted is Wanted.FOLDER
        return Located(objects, several, version=listing.commit, facts=listing.facts)

    def explained(
        self, reference: Reference, error: HttpStatusError, settings: HubSettings
    ) -> PgetError:
        asked, own = parse_link(error.url).origin, parse_link(settings.endpoint).origin
        if asked != own:
            return error  # a store's, not the Hub's
        page = _name_of(reference, settings).page(settings.endpoint)
        meaning = meaning_at_hub(reference, error, page)
        if error.status == 404 and not error.code and settings.endpoint != HubSettings.endpoint:
            # A Hub says what is missing; another server has no such pages at all.
            meaning.hint += f", and whether HF_ENDPOINT, {settings.endpoint}, is a Hub"
        return meaning


@dataclass(frozen=True)
class _HubLocation:
    """Where `reference`, the name `named`, is asked for."""

    reference: Reference
    named: HubName
    endpoint: str
    hf_transfer: bool

    def remote(self, url: str) -> RemoteFile:
        token = self.reference.token
        bearer = f"Bearer {token}" if token is not None else None
        return RemoteFile(url, authorization=bearer, trusted=True, hf_transfer=self.hf_transfer)

    def object(self, file: HubFile, commit: str) -> RemoteFile:
        """Return a listed file as an object, called as it is below the folder that was named."""
        folder = f"{self.named.path}/" if self.named.path else ""
        url = self.named.file(self.endpoint, folder + file.path, commit)
        name = file.path
        if self.reference.wanted is not Wanted.FOLDER:
            name = PurePosixPath(name).name
        return _described(self.remote(url), name, file.size, file.sha256 or file.blob)


def _described(remote: RemoteFile, name: str, size: int | None, etag: str) -> RemoteFile:
    digest = Checksum("sha256", etag) if _SHA256.fullmatch(etag) else None
    by_other = remote.hf_transfer and digest is not None
    return replace(remote, name=name, digest=digest, size=size, etag=etag, hf_transfer=by_other)


def _name_of(reference: Reference, settings: HubSettings) -> HubName:
    named = parse_hub_name(reference.text, settings.endpoint)
    assert named is not None
    return named


def _chosen(named: HubName, wanted: str) -> Wanted:
    """Return what is wanted of a file or repository.

    Raises:
        BadReferenceError: a file is, and none is named.
    """
    if not named.is_folder:
        chosen = wanted_of(named.path, wanted)
        is_weights = chosen is Wanted.WEIGHTS and named.path.lower().endswith(_SUFFIX)
        return Wanted.FILE if is_weights else chosen
    chosen = wanted_of("", "weights" if wanted == "auto" else wanted)
    if chosen is Wanted.FILE:
        raise BadReferenceError(str(named), "it is a repository, and a single file is wanted")
    return chosen


# --------------------------------------------------------------------------------------- one file


async def _one_file(place: _HubLocation, client: ServiceClient) -> RemoteFile:
    """Return where a named file is, at the commit that its revision stands for now."""
    named = place.named
    remote = place.remote(named.file(place.endpoint, named.path))
    commit = ""
    for _ in range(_MOST_STEPS):
        fields = await client.head(remote)
        commit = commit or fields.get("x-repo-commit", "")
        onward = _within_hub(remote.url, fields)
        if onward is None:
            break
        remote = place.remote(onward)
    revision = commit if _COMMIT.fullmatch(commit) else ""
    remote = place.remote(named.file(place.endpoint, named.path, revision))
    name = PurePosixPath(named.path).name
    return _described(remote, name, _size_in(fields), _etag_in(fields))


def _within_hub(url: str, fields: Mapping[str, str]) -> str | None:
    """Return where an answer leads that says nothing of the file yet, if it is the Hub itself.

    The Hub redirects a renamed repository, and its small files to another path. Those answers are
    followed with the token; anything that leaves the Hub's origin is the storage, and ends it.
    """
    location = fields.get("location")
    if location is None or "x-linked-etag" in fields:
        return None
    onward = urljoin(url, location)
    asked = parse_link(url).origin
    return onward if may_see_credentials(asked, parse_link(onward).origin) else None


def _etag_in(fields: Mapping[str, str]) -> str:
    etag = fields.get("x-linked-etag") or fields.get("etag", "")
    return etag.removeprefix("W/").strip('"').lower()


def _size_in(fields: Mapping[str, str]) -> int | None:
    text = fields.get("x-linked-size", "")
    if not text and "location" not in fields:
        text = fields.get("content-range", "").rpartition("/")[2]
    return int(text) if text.isascii() and text.isdigit() else None


# ------------------------------------------------------------------------------------ repositories


def _files_of(place: _HubLocation, listing: RepositoryListing) -> list[HubFile]:
    """Return the files that are meant, called as they are below the folder that was named.

    Raises:
        NotOneFileError: there is none.
    """
    folder = f"{place.named.path}/" if place.named.path else ""
    below = [
        file._replace(path=file.path[len(folder) :])
        for file in listing.files
        if file.path.startswith(folder)
    ]
    files = [file for file in below if place.reference.patterns.admits(file.path)]
    if not files:
        hint = f"{place.named.page(place.endpoint)} shows what there is"
        raise NotOneFileError(str(place.reference), "such", hint=hint)
    return files


def _only_weights(place: _HubLocation, files: list[HubFile]) -> list[HubFile]:
    """Return the one file of weights, in a list.

    Raises:
        NotOneFileError: there is none, or several; the hint names one, or how to have them all.
    """
    names = weights_among(file.path for file in files)
    if len(names) == 1:
        return [file for file in files if file.path == names[0]][:1]
    hint = ALL_OF_IT
    whole = [name for name in names if not are_shards((name,))]
    if names and not whole:
        hint = f"they are parts of a checkpoint: {hint}, or load it by pgetpy.tensors"
    elif whole:
        named = place.named
        path = f"{named.path}/{whole[0]}" if named.path else whole[0]
        one = HubName(named.repo, named.type, named.revision, path, is_folder=False)
        hint = f"name one of them, as {one}, or {hint}"
    raise NotOneFileError(str(place.reference), _SUFFIX, names, hint=hint)
