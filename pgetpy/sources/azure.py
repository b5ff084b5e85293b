"""Azure's Blob Storage: az://CONTAINER/BLOB, for reading.

az://CONTAINER/BLOB[?versionid=TIME | ?snapshot=TIME]    one blob
az://CONTAINER/FOLDER/                                   all blobs below it
az://CONTAINER/FOLDER/*.json                             those whose names match the pattern

How requests are authorised, the first that is set: by a SAS, which is part of the URL; by the
account's key, which signs each request; by a bearer token; else not at all, which suffices for
public containers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pgetpy.core.http.heads import Head, http_date
from pgetpy.core.http.urls import Link
from pgetpy.core.lazy_dataclass import dataclass, field, replace
from pgetpy.core.objects.azure_account import (
    BadConnectionStringError,
    account_endpoint,
    is_account_name,
    parse_connection_string,
    sas_expiry,
)
from pgetpy.core.objects.names import ObjectName, object_url, parse_object_name
from pgetpy.core.objects.shared_key import authorization, read_key
from pgetpy.core.references.reference import Reference, scope_for
from pgetpy.core.text.values import read_endpoint, read_text, read_token
from pgetpy.errors import BadSettingError, HttpStatusError, PgetError
from pgetpy.settings import SourceSection
from pgetpy.settings.options import variable
from pgetpy.sources.base import Located, RemoteFile, ServiceClient, Source
from pgetpy.sources.object_bucket import locate_in, reference_to, refusal_error

if TYPE_CHECKING:
    from pgetpy.core.objects.azure_refusals import AzureAsker
    from pgetpy.core.objects.listing import ListingPage
    from pgetpy.core.references.policy import Policy

# The version of the protocol: the first whose listings can express every name.
_VERSION = "2021-12-02"
_LEAST_SKEW = 60.0
# How often the clock is made up for, so that a store whose own clock jumps causes no loop.
_MOST_CORRECTIONS = 8
_KEY, _SAS = "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"
_CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"


@dataclass(frozen=True)
class AzSettings(SourceSection):
    """How requests for an account of Azure's Blob Storage are made.

    Attributes:
        account: name of the storage account.
        key: one of its keys, in base64.
        sas: a shared access signature.
        connection: a connection string. What it says goes before the other fields.
    """

    # fmt: off
    options = (
        variable("AzSettings.account", read_text,
                 "storage account of az://", environ="AZURE_STORAGE_ACCOUNT"),
        variable("AzSettings.key", read_token,
                 "key of that account", environ=_KEY),
        variable("AzSettings.sas", read_token,
                 "shared access signature for az://", environ=_SAS),
        variable("AzSettings.token", read_token,
                 "OAuth token for az://", environ="AZURE_STORAGE_TOKEN"),
        variable("AzSettings.connection", read_token,
                 "connection string for az://", environ=_CONNECTION),
        variable("AzSettings.endpoint", read_endpoint,
                 "URL of an account's Blob Storage, such as an emulator's",
                 environ="AZURE_STORAGE_ENDPOINT"),
    )
    # fmt: on

    account: str = ""
    key: str = field(default="", repr=False)
    sas: str = field(default="", repr=False)
    connection: str = field(default="", repr=False)

    def under_policy(self, policy: Policy) -> AzSettings:
        # The connection string is a secret, but the account that it names has to survive.
        return super(AzSettings, self.resolved()).under_policy(policy)

    def resolved(self) -> AzSettings:
        """Return these settings with the connection string's in their fields.

        Raises:
            BadSettingError: it is not a connection string.
        """
        if not self.connection:
            return self
        try:
            found = parse_connection_string(self.connection)
        except BadConnectionStringError as error:
            raise BadSettingError(
                _CONNECTION, None, f"is not a connection string: {error}"
            ) from None
        return replace(
            self,
            account=found.name or self.account,
            endpoint=found.endpoint or self.endpoint,
            key=found.key or self.key,
            sas=found.sas or self.sas,
            connection="",
        )

    @property
    def service(self) -> str:
        """The URL of the account's Blob Storage.

        Raises:
            BadSettingError: neither it nor a valid account is set.
        """
        if self.endpoint:
            return self.endpoint
        if not self.account:
            reason = f"is not set; set it, or {_CONNECTION}"
            raise BadSettingError("AZURE_STORAGE_ACCOUNT", None, reason)
        if not is_account_name(self.account):
            reason = "is not the name of an account (3 to 24 small letters and digits)"
            raise BadSettingError("AZURE_STORAGE_ACCOUNT", self.account, reason)
        return account_endpoint(self.account)


class AzureSigner:
    """Authorises the requests for one container; see `core.http.urls.RequestSigner`.

    Args:
        settings: resolved.
        container: its name.

    Attributes:
        endpoint: URL of the account's Blob Storage.
        whole_first: see `RequestSigner.whole_first`; Azure sends an MD5 with ranges, too.
        asks_checksum: see `RequestSigner.asks_checksum`.
    """

    whole_first = False
    asks_checksum = True

    def __init__(self, settings: AzSettings, container: str) -> None:
        self.endpoint = settings.service
        self._container = container
        self._account = settings.account or _account_of(self.endpoint)
        self._key = b"" if settings.sas else _read_key(settings.key)
        self._sas = settings.sas
        self._token = "" if self._sas or self._key else settings.token or ""
        self._skew = 0.0
        self._corrections = 0
        # By the server's clock, when it last refused a request.
        self._refused_at: float | None = None
        self._lock = threading.Lock()

    @property
    def asker(self) -> AzureAsker:
        """Who asked, for the words of an error."""
        from pgetpy.core.objects.azure_refusals import AzureAsker

        means, origin = "", ""
        if self._sas:
            means, origin = "sas", _SAS
        elif self._key:
            means, origin = "key", _KEY
        elif self._token:
            means, origin = "token", "AZURE_STORAGE_TOKEN"
        text, expires = sas_expiry(self._sas) or ("", 0.0)
        expired = bool(text) and (self._refused_at or time.time()) >= expires
        skew = -self._skew if self._skew else None
        return AzureAsker(self._account, self._container, means, origin, text, expired, skew)

    def headers(
        self, link: Link, headers: Sequence[tuple[str, str]], now: float
    ) -> list[tuple[str, str]]:
        """See `RequestSigner.headers`."""
        own = [("x-ms-version", _VERSION)]
        if self._token:
            return [*own, ("Authorization", f"Bearer {self._token}")]
        if not self._key:
            return own
        with self._lock:
            skew = self._skew
        # As in HTTP: Azure accepts no other form.
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now + skew))
        own.append(("x-ms-date", date))
        parts = urlsplit(link.url)
        proof = authorization(
            "GET", parts.path, parts.query, [*headers, *own], account=self._account, key=self._key
        )
        return [*own, ("Authorization", proof)]

    def due(self, now: float) -> bool:
        """See `RequestSigner.due`."""
        return False

    def refresh(self) -> None:
        """See `RequestSigner.refresh`: there is never anything to do."""

    def sign_again(
        self, link: Link, sent: Sequence[tuple[str, str]], head: Head, now: float
    ) -> Link | None:
        """See `RequestSigner.sign_again`. A wrong clock is made up for."""
        from pgetpy.core.objects.azure_refusals import failed_to_authenticate

        there = http_date(head.headers.get("date", ""))
        failed = failed_to_authenticate(head.details.get("Code", ""), head.words)
        if not failed or there is None:
            return None
        with self._lock:
            self._refused_at = there
            skew = there - now
            is_new = abs(skew - self._skew) >= _LEAST_SKEW
            if not self._key or not is_new or self._corrections >= _MOST_CORRECTIONS:
                return None
            self._skew = skew
            self._corrections += 1
        return link

    def onward(self, before: Link, after: Link) -> Link:
        """See `RequestSigner.onward`."""
        return replace(after, signer=self) if before.origin == after.origin else after


@dataclass(frozen=True)
class Container:
    """One container of an account; see `sources.object_listing.ListedBucket`."""

    name: str
    settings: AzSettings
    signer: AzureSigner

    def object(self, named: ObjectName) -> RemoteFile:
        """Return the blob `named`."""
        return self._remote(object_url(named, endpoint=self.signer.endpoint, addressing="path"))

    def page(self, prefix: str, token: str) -> RemoteFile:
        """Return a page of the container's listing."""
        from pgetpy.core.objects.blob_listing import blobs_query

        return self._remote(f"{self.signer.endpoint}/{self.name}?{blobs_query(prefix, token)}")

    def parse(self, page: bytes) -> ListingPage:
        """Return what a page says."""
        from pgetpy.core.objects.blob_listing import parse_blobs

        return parse_blobs(page)

    def _remote(self, url: str) -> RemoteFile:
        if self.settings.sas:
            url = f"{url}{'&' if '?' in url else '?'}{self.settings.sas.lstrip('?')}"
        return RemoteFile(url, trusted=bool(self.settings.endpoint), signer=self.signer)


class Az(Source[AzSettings]):
    """az://"""

    name = "az"
    takes_urls = False
    settings = AzSettings

    def recognise(self, text: str, wanted: str, settings: AzSettings) -> Reference | None:
        if text[:5].lower() != "az://":
            return None
        named = parse_object_name(text)
        found = settings.resolved()
        # A container is its account's, so the account is part of the key.
        place = found.service
        scope = scope_for(found.sas or found.key or found.token)
        return reference_to(self.name, named, wanted, place=place, scope=scope, service=place)

    async def locate(
        self, reference: Reference, settings: AzSettings, client: ServiceClient
    ) -> Located:
        named = parse_object_name(reference.text)
        return await locate_in(container_of(settings, named.bucket), named, reference, client)

    def explained(
        self, reference: Reference, error: HttpStatusError, settings: AzSettings
    ) -> PgetError:
        from pgetpy.core.objects.azure_refusals import explain

        named = parse_object_name(reference.text)
        signer = container_of(settings, named.bucket).signer
        hint = explain(error.code, error.status, error.words, signer.asker)
        return refusal_error(named, reference, urlsplit(signer.endpoint).netloc, error, hint)


@lru_cache(maxsize=64)
def container_of(settings: AzSettings, name: str) -> Container:
    """Return the container `name`, the same object each time: its signer learns the server's clock.

    Raises:
        BadSettingError: a setting is missing or malformed.
    """
    found = settings.resolved()
    return Container(name, found, AzureSigner(found, name))


def _account_of(endpoint: str) -> str:
    """Return the account of `endpoint`: with an emulator in the path, else in the host's name."""
    parts = urlsplit(endpoint)
    return parts.path.strip("/") or (parts.hostname or "").partition(".")[0]


def _read_key(text: str) -> bytes:
    try:
        return read_key(text)
    except ValueError:
        raise BadSettingError(_KEY, None, "is not the base64 of an account's key") from None
