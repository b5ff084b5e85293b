"""What CivitAI's API answers, read with care: which file is meant, and where it is.

The API is written for its own web site. Fields are missing, null or of another type from one model
to the next, so every field is checked where it is read, and one that cannot be used is treated as
missing. Only the answer as a whole may be an error.

A version usually has several files: the model, pruned or in half precision, a VAE, training data,
each perhaps as .safetensors and as a pickle. `chosen_file` orders them by what was asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

from pgetpy.core.destinations.names import name_from_service
from pgetpy.core.http.urls import parse_link
from pgetpy.core.lazy_dataclass import dataclass
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.reference import Reference, Wanted, is_archive_name
from pgetpy.errors import (
    BadReferenceError,
    GatedError,
    NotFoundError,
    PgetError,
    TransferError,
    UnauthorizedError,
)
from pgetpy.sources.base import RemoteFile, read_fact
from pgetpy.system.logs import RoomLog

SERVICE = "CivitAI"
HOSTS = frozenset(
    f"{www}civitai.{domain}" for www in ("", "www.") for domain in ("com", "green", "red")
)
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_DOWNLOADS = "/api/download/"
# The types of files that are the model itself, beside VAEs, configurations and training data.
_MODELS = frozenset({"Model", "Pruned Model"})
# What a file has to be; other parameters of a download say what is liked better.
_EXACT = frozenset({"type", "fileId"})
_LOG = RoomLog("sources")


@dataclass(frozen=True)
class CivitaiFile:
    """One file of a version.

    Attributes:
        fields: as the API gives them.
        version: the number of the version.
        name: made safe for the file system.
        base_model: the model that the version is for, such as `SDXL 1.0`.
    """

    fields: Mapping[str, Any]
    version: str
    name: str
    base_model: str = ""

    @property
    def archive(self) -> bool:
        return is_archive_name(self.name)

    @property
    def safetensors(self) -> bool:
        return self._is("format", "SafeTensor") or self.name.lower().endswith(".safetensors")

    @property
    def is_model(self) -> bool:
        return str(self.fields.get("type")) in _MODELS

    def fits(self, filters: Iterable[tuple[str, str]]) -> bool:
        """Whether the file has all of these values, whatever their case."""
        return all(self._is(name, value) for name, value in filters)

    def rank(self, wishes: Sequence[tuple[str, str]]) -> tuple[bool, int, bool]:
        """Return what files are ordered by: the lowest is the nearest to what is meant."""
        unmet = sum(not self._is(name, value) for name, value in wishes)
        return not self.is_model, unmet, self.fields.get("primary") is not True

    def located(self, endpoint: str, authorization: str | None) -> RemoteFile:
        """Return where it is. The token goes to `endpoint` alone, wherever the API points."""
        said = self.fields.get("downloadUrl")
        own = f"{endpoint}{_DOWNLOADS}models/{self.version}"
        url, trusted = _pointed(own, said if isinstance(said, str) else own, endpoint)
        hashes = self.fields.get("hashes")
        digest = str(hashes.get("SHA256", "")) if isinstance(hashes, dict) else ""
        return RemoteFile(
            url,
            self.name,
            Checksum("sha256", digest.lower()) if _SHA256.fullmatch(digest) else None,
            authorization=authorization if trusted else None,
            trusted=trusted,
        )

    def _is(self, name: str, value: str) -> bool:
        """Whether what the API says under `name`, a parameter of a download, is `value`."""
        metadata = self.fields.get("metadata")
        about = metadata if isinstance(metadata, dict) else {}
        place = {"type": self.fields.get("type"), "fileId": self.fields.get("id")}
        return str(place.get(name, about.get(name))).lower() == value.lower()


def described(reference: Reference, answer: bytes) -> Mapping[str, Any]:
    """Return the version that the API's answer, on a version or on a model, is about.

    Raises:
        TransferError: the answer cannot be read.
        NotFoundError: the model has no published version.
    """
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise TransferError(str(reference), f"the answer of {SERVICE} could not be read")
    if "modelVersions" not in found:
        return found
    for version in _dicts(found["modelVersions"]):
        if version.get("status", "Published") == "Published":
            return version
    raise _not_there(reference, "the model has no published version")


def chosen_file(
    reference: Reference, version: Mapping[str, Any], filters: Sequence[tuple[str, str]]
) -> CivitaiFile:
    """Return the file of `version` that is meant.

    Its type and number have to be those that are asked for. What else is asked for is preferred, as
    CivitAI does it; the model comes before its VAE and others, and the primary one before its
    equals. Where weights are wanted and that is not .safetensors, another form of the model is,
    unless the form was asked for.

    Raises:
        NotFoundError: there is none.
        BadReferenceError: all of an archive is wanted, and it is none.
    """
    number = str(version.get("id", ""))
    base_model = read_fact(version.get("baseModel"))
    files = [
        CivitaiFile(each, number, _name(each, number), base_model)
        for each in _dicts(version.get("files"))
    ]
    asked = dict(filters)
    fitting = [file for file in files if file.fits(each for each in filters if each[0] in _EXACT)]
    if not fitting:
        names = ", ".join(file.name for file in files[:10]) or "none"
        raise _not_there(reference, f"no such file in version {number}; there are: {names}")
    wishes = [each for each in filters if each[0] not in _EXACT]
    fitting.sort(key=lambda file: file.rank(wishes))
    found = fitting[0]
    by_form = "format" in asked and found.fits([("format", asked["format"])])
    if reference.wanted is Wanted.WEIGHTS and not (found.safetensors or by_form):
        found = next((file for file in fitting if file.safetensors and file.is_model), found)
    if unmet := [f"{name}={value}" for name, value in wishes if not found.fits([(name, value)])]:
        which = f"{found.name} is the nearest to {' and '.join(unmet)} in version {number}"
        _LOG.warning("%s: %s", reference, which)
    if reference.wanted is Wanted.FOLDER and not found.archive:
        reason = f"it is a single file, {found.name}, not an archive; do not ask for a folder"
        raise BadReferenceError(str(reference), reason)
    return found


def refused(
    reference: Reference, first: Mapping[str, str], asked: str, endpoint: str
) -> PgetError | None:
    """Return the error that the answer to a download is; None where it leads to the bytes.

    A browser that may not have them is sent to a page: to log in, or to buy early access.
    """
    target = first.get("location")
    if target is None:
        return None
    try:
        parts = urlsplit(urljoin(asked, target))
    except ValueError:
        return None  # following it raises the error
    host = parts.hostname or ""
    own = parts.netloc == urlsplit(endpoint).netloc or parts.netloc in HOSTS
    login = parts.path.rstrip("/").endswith(("/login", "/signin"))
    page = own and _DOWNLOADS not in parts.path
    if not page and not (login and host.endswith(".civitai.com")):
        return None
    reason = (parse_qs(parts.query).get("reason") or ["download-auth"])[0]
    status = int(first.get(":status", "302"))
    words = f"it redirects to the page {parts.path} ({reason})"
    early = "early-access" in reason or parts.path.startswith(("/pricing", "/purchase"))
    return (gated if early else unauthorized)(reference, status, words)


def unauthorized(reference: Reference, status: int, words: str) -> UnauthorizedError:
    """Return the error for a file that needs a login; the hint depends on whether there was one."""
    setting = "CIVITAI_API_TOKEN, --civitai-token or civitai_api_token"
    hint = f"create an API token in your account's settings and give it in {setting}"
    if reference.token:
        hint = f"check the token that was given in {setting}"
    return UnauthorizedError(str(reference), SERVICE, status, words, hint=hint)


def gated(reference: Reference, status: int, words: str) -> GatedError:
    """Return the error for a file in early access, or that its author gives to some accounts."""
    hint = "ask for access on its page, and give the token of that account (CIVITAI_API_TOKEN, "
    hint += "--civitai-token or civitai_api_token)"
    return GatedError(str(reference), SERVICE, status, words, hint=hint)


def _pointed(own: str, said: str, endpoint: str) -> tuple[str, bool]:
    """Return where a download is to be asked for, and whether that is the endpoint itself.

    Raises:
        TransferError: the API says that it is where nothing can be asked for.
    """
    try:
        link = parse_link(urljoin(own, said))
    except ValueError as error:
        raise TransferError(
            own, f"{SERVICE} redirected to a URL that cannot be used: {error}"
        ) from None
    if link.origin == parse_link(endpoint).origin:
        return link.url, True
    parts = urlsplit(link.url)
    if link.origin.host in HOSTS and parts.path.startswith(_DOWNLOADS):
        # A mirror hands on what CivitAI says of itself.
        query = f"?{parts.query}" if parts.query else ""
        return f"{endpoint}{parts.path}{query}", True
    return link.url, False


def _name(file: Mapping[str, Any], version: str) -> str:
    said = file.get("name")
    return (name_from_service(said) if isinstance(said, str) else None) or f"civitai-{version}"


def _dicts(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _not_there(reference: Reference, words: str) -> NotFoundError:
    hint = "its page lists what there is"
    return NotFoundError(str(reference), SERVICE, 200, words, hint=hint)
