"""What is in a repository of the Hugging Face Hub, asked by huggingface_hub's own `HfApi`.

It is imported here alone, and when it is needed: that takes longer than the request. None of its
errors, nor those of its HTTP client, leaves this module as itself.

Its client looks names up by itself, goes by the environment's proxies and follows redirects
anywhere, and cannot be told otherwise but for the whole process. Where a policy holds, or addresses
and certificates are given, the same question (`HfApi.repo_info`) is put by the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pgetpy.core.http.retry import Retries
from pgetpy.core.lazy_dataclass import dataclass
from pgetpy.core.references.hub_names import HubName
from pgetpy.errors import ConnectionFailedError, NotAllowedError, PgetError, TransferError
from pgetpy.errors.reasons import system_reason
from pgetpy.sources.base import NO_FACTS, ModelFacts, RemoteFile, ServiceClient, read_fact

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LISTING_SECONDS = 30.0
_LISTING_RETRIES = 3
# Of a hundred thousand files it takes some thirty megabytes.
_LONGEST_LISTING = 64 << 20
# What comes of reading an answer of another shape.
_SENSELESS = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


class HubFile(NamedTuple):
    """A file as the Hub lists it.

    Attributes:
        path: from the root of the repository. Untrusted: judged like the name of an archive member.
        size: bytes; None if the Hub does not say.
        sha256: hex digits, for files in Git LFS or Xet; None for others.
        blob: git's sha1 of the content, or of the pointer to it.
    """

    path: str
    size: int | None
    sha256: str | None
    blob: str = ""


@dataclass(frozen=True)
class RepositoryListing:
    """What is in a repository at one commit."""

    commit: str
    files: tuple[HubFile, ...]
    facts: ModelFacts = NO_FACTS


def offline(reference: str) -> NotAllowedError:
    """Return the error for `reference` that may not be looked up."""
    reason = "it is not in the cache, and requests to the Hub are turned off"
    return NotAllowedError(reference, "HF_HUB_OFFLINE", reason, hint="unset HF_HUB_OFFLINE")


async def list_repository(
    named: HubName, endpoint: str, token: str | None, client: ServiceClient
) -> RepositoryListing:
    """Return what is in the repository of `named`; without a token, what is public.

    Raises:
        TransferError: the Hub does not say.
    """
    import asyncio
    import random

    if client.exclusive:
        return await _list_by_engine(named, endpoint, token, client)
    retries = Retries(min(_LISTING_RETRIES, client.retries))
    while True:
        try:
            return await client.in_thread(lambda: _listing(named, endpoint, token))
        except TransferError as error:
            delay = retries.delay(error, random.random())
            if delay is None:
                error.attempts = retries.attempts
                raise
        await asyncio.sleep(delay)


async def _list_by_engine(
    named: HubName, endpoint: str, token: str | None, client: ServiceClient
) -> RepositoryListing:
    url = f"{named.listing(endpoint)}?blobs=true"
    bearer = f"Bearer {token}" if token is not None else None
    remote = RemoteFile(url, authorization=bearer, trusted=True)
    answer = await client.read(remote, most=_LONGEST_LISTING)
    return await client.in_thread(lambda: _read(url, answer))


def _read(url: str, answer: bytes) -> RepositoryListing:
    """Return what the Hub has answered."""
    import json

    try:
        info = json.loads(answer)
        files = tuple(
            _file_of(
                each["rfilename"],
                each.get("size"),
                (each.get("lfs") or {}).get("sha256"),
                each.get("blobId"),
            )
            for each in info["siblings"]
        )
        facts = _facts_of(info.get("cardData") or {})
        return RepositoryListing(str(info.get("sha") or ""), files, facts)
    except _SENSELESS as error:
        raise _senseless(url, error) from None


def _listing(named: HubName, endpoint: str, token: str | None) -> RepositoryListing:
    """Ask what is in a repository, by one request."""
    try:
        info = _api(endpoint, token).repo_info(
            named.repo,
            repo_type=named.type,
            revision=named.revision,
            files_metadata=True,
            timeout=_LISTING_SECONDS,
        )
        files = tuple(
            _file_of(each.rfilename, each.size, getattr(each.lfs, "sha256", None), each.blob_id)
            for each in getattr(info, "siblings", None) or ()
        )
        card = getattr(info, "card_data", None)
        facts = _facts_of(card.to_dict() if card else {})
        return RepositoryListing(str(info.sha or ""), files, facts)
    except Exception as error:
        raise _translated(named, endpoint, error) from None


def _facts_of(card: Mapping[str, object]) -> ModelFacts:
    """Return what the head of a repository's README says."""
    own_license = card.get("license_name") if card.get("license") == "other" else None
    return ModelFacts(
        read_fact(card.get("base_model")), read_fact(own_license or card.get("license"))
    )


def _api(endpoint: str, token: str | None) -> HfApi:
    from huggingface_hub import HfApi

    from pgetpy._version import __version__

    headers = {"user-agent": f"pgetpy/{__version__}"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"

    class Api(HfApi):
        """Sends only the headers given here.

        By itself, `HfApi` adds the versions of installed libraries, and the stored login.
        """

        def _build_hf_headers(self, **_: object) -> dict[str, str]:  # type: ignore[override]
            return dict(headers)

    # None would make it look for the stored login; False does not.
    return Api(endpoint=endpoint, token=token or False)


def _file_of(path: object, size: int | None, sha256: object, blob: object) -> HubFile:
    if not isinstance(path, str) or not path:
        raise ValueError("a file without a name")
    if not (size is None or (isinstance(size, int) and 0 <= size < 1 << 63)):
        raise ValueError("a file with a strange size")
    return HubFile(path, size, str(sha256 or "") or None, str(blob or ""))


def _senseless(url: str, error: Exception) -> TransferError:
    reason = f"the Hub's listing cannot be read ({type(error).__name__})"
    return TransferError(url, reason, hint="if HF_ENDPOINT is set, check that it is a Hub")


def _translated(named: HubName, endpoint: str, error: Exception) -> PgetError:
    """Return an exception of huggingface_hub, or of its HTTP client, as one of our own.

    Classes are compared by name and by attributes, because the client has changed from requests to
    httpx between releases, and importing either for its exceptions costs time.
    """
    from pgetpy.core.http.heads import Head, status_error, words_of

    if type(error).__name__ == "OfflineModeIsEnabled":
        return offline(str(named))
    url = named.listing(endpoint)
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if response is not None and isinstance(status, int):
        fields = [(str(name), str(value)) for name, value in response.headers.items()]
        head = Head.of(status, "", fields, (1, 1))
        if not head.headers.get("x-error-message"):
            head = words_of(head, _content(response))
        return status_error(url, head)
    if isinstance(error, _SENSELESS):
        return _senseless(url, error)
    return _unreached(url, error)


def _unreached(url: str, error: BaseException) -> ConnectionFailedError:
    """Return the error that a server was not reached, with what the system says of that.

    Clients wrap the system's error several times; the words worth showing are the innermost.
    """
    hint = "check the network, its proxies, and HF_ENDPOINT if it is set"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno and not hasattr(cause, "response"):
            return ConnectionFailedError(url, system_reason(cause), hint=hint)
        cause = cause.__cause__ or cause.__context__
    said = str(error).partition("\n")[0][:200] or type(error).__name__
    return ConnectionFailedError(url, said, hint=hint)


def _content(response: object) -> bytes:
    try:
        content = response.content  # type: ignore[attr-defined]
    except Exception:
        return b""
    return content[:2000] if isinstance(content, bytes) else b""
