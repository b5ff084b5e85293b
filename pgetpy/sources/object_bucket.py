"""One bucket of an object store: where its objects are, who signs for them, what it holds.

    settings, profile --> keys, region, endpoint --> ObjectSigner --+
                                                                    +--> Bucket --> RemoteFile
    public_url, if any: a CDN in front, without signatures ---------+

A `Bucket` is made once per settings and name and kept (`bucket_of`): its signer learns the bucket's
region and the server's clock, and the next file should not learn them again.

How requests are authorised, the first that applies: not at all, if `signing` is never or a policy
forbids own tokens; a public URL, unsigned; keys, by signatures; an OAuth token, as a bearer's; else
unsigned.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar, TypeVar
from urllib.parse import urlsplit

from pgetpy.core.lazy_dataclass import dataclass, field, replace
from pgetpy.core.objects.names import ObjectName, is_aws, object_url, public_object_url, url_of
from pgetpy.core.objects.sigv4 import Credentials
from pgetpy.core.references.reference import Reference, Wanted, key_for, scope_for, wanted_of
from pgetpy.errors import (
    AccessDeniedError,
    BadReferenceError,
    BadSettingError,
    HttpStatusError,
    NotFoundError,
    PgetError,
    TransferError,
)
from pgetpy.settings import SourceSection
from pgetpy.sources.base import Located, RemoteFile, ServiceClient
from pgetpy.sources.object_signer import CHECKSUM_MODE, Keys, ObjectSigner

if TYPE_CHECKING:
    from pgetpy.core.objects.listing import ListingPage
    from pgetpy.core.references.policy import Policy
    from pgetpy.sources.object_listing import ListedBucket


@dataclass(frozen=True)
class ObjectStoreSettings(SourceSection):
    """How requests for the buckets of one scheme are made.

    Attributes:
        access_key, secret_key, session_token: keys that sign requests.
        region: to sign for; if empty, that of the profile, or a default that the store corrects.
        addressing: `path`, `virtual` or `auto`; see `core.objects.names.url_of`.
        signing: `always`, `never`, or `auto`: if there are keys.
        public_url: URL in front of a bucket for reads, a CDN for example. It gets no signatures.
            `{bucket}` in it stands for the bucket's name.
        bucket: for references that leave it out.
        profile, credentials_file, config_file: of AWS's tools.
        key_service: value of a variable which says that a service hands out keys; empty for none.
        keys_from: what the keys come from, for errors; empty for their variables.
        checksums: whether to ask for an object's checksum: `when_supported`, or `when_required`
            (never, because nothing requires it); empty for stores that send it unasked.
    """

    store: ClassVar[str] = ""
    # The variables of access key and secret key, and another one that keys may come from, for
    # errors; and whether AWS's profiles are read.
    key_variables: ClassVar[tuple[str, str]] = ("", "")
    other_keys: ClassVar[str] = ""
    has_profiles: ClassVar[bool] = False
    default_region: ClassVar[str] = "us-east-1"

    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    region: str = ""
    addressing: str = "auto"
    signing: str = "auto"
    public_url: str = ""
    bucket: str = ""
    profile: str = ""
    credentials_file: str = ""
    config_file: str = ""
    key_service: str = ""
    keys_from: str = ""
    checksums: str = ""

    def under_policy(self: _S, policy: Policy) -> _S:
        found = super().under_policy(policy)
        return found if policy.own_tokens else replace(found, signing="never")

    def endpoint_in(self, region: str) -> str:
        """Return the store's own endpoint in `region`."""
        raise NotImplementedError

    @property
    def ways_to_sign(self) -> str:
        """The variables that have requests signed, in words."""
        both = " and ".join(self.key_variables)
        return f"{both}, or {self.other_keys}" if self.other_keys else both

    @property
    def reads_profile(self) -> bool:
        """Whether a profile may have something to say that these settings leave open."""
        known = self.access_key and self.secret_key and self.region and self.endpoint
        return self.has_profiles and not known and self.signing != "never"

    @property
    def scope(self) -> str:
        """See `Reference.scope`: a hash of what gives access.

        Looking up a profile's keys for every cache hit would take too long, so they are represented
        by the places they come from.
        """
        if self.signing == "never" or self.public_url:
            return ""
        if self.access_key:
            return scope_for(self.access_key, self.secret_key)
        places = (self.profile, self.credentials_file, self.config_file, self.key_service)
        return scope_for(self.token or "profile", *places)


_S = TypeVar("_S", bound=ObjectStoreSettings)


# The reason of the error for a folder without objects, which some callers expect.
NOTHING_THERE = "nothing is there"
# A signature needs a region, also for stores that do not look at it.
_ANY_REGION = "us-east-1"
_NO_SUCH_KEY = ("NoSuchKey", "BlobNotFound")
_KINDS = {401: AccessDeniedError, 403: AccessDeniedError, 404: NotFoundError}


@dataclass(frozen=True)
class Bucket:
    """One bucket, and how it is reached.

    Attributes:
        name: of the bucket.
        store: what people call the store.
        settings: of its scheme.
        signer: signs requests for objects and listings alike, and keeps what it learns.
    """

    name: str
    store: str
    settings: ObjectStoreSettings
    signer: ObjectSigner

    @property
    def addressing(self) -> str:
        """See `core.objects.names.url_of`."""
        return self.settings.addressing

    @property
    def is_amazon(self) -> bool:
        """Whether it is in Amazon's own store."""
        return is_aws(self.signer.endpoint)

    def remote(self, url: str) -> RemoteFile:
        """Return the object at `url` of the store. An endpoint that the operator has set is
        trusted: it may be an internal host."""
        return RemoteFile(url, trusted=bool(self.settings.endpoint), signer=self.signer)

    def object(self, named: ObjectName) -> RemoteFile:
        """Return the object `named`, at the public URL if there is one."""
        public = self.settings.public_url
        if public:
            return RemoteFile(public_object_url(named, public), trusted=True)
        addressing = self.settings.addressing
        return self.remote(object_url(named, endpoint=self.signer.endpoint, addressing=addressing))

    def page(self, prefix: str, token: str) -> RemoteFile:
        """Return a page of the bucket's listing, which is asked of the store itself."""
        from pgetpy.core.objects.listing import listing_query

        query = listing_query(prefix, token)
        addressing = self.settings.addressing
        where = {"endpoint": self.signer.endpoint, "addressing": addressing, "query": query}
        return self.remote(url_of(self.name, "", **where))

    def parse(self, page: bytes) -> ListingPage:
        """Return what a page says."""
        from pgetpy.core.objects.listing import parse_listing

        return parse_listing(page)


def reference_to(
    source: str, named: ObjectName, wanted: str, *, place: str, scope: str, service: str
) -> Reference:
    """Return the reference to `named`.

    Args:
        source: the name of the source that recognised it.
        wanted: `auto` or the value of a `Wanted`.
        place: what tells its bucket from others of the same name, as part of the cache key.
        scope, service: see `Reference`.

    Raises:
        BadReferenceError: a file is wanted of a folder.
    """
    is_folder = named.is_folder
    chosen = wanted_of(named.key, "folder" if is_folder and wanted == "auto" else wanted)
    if is_folder and chosen is Wanted.FILE:
        raise BadReferenceError(str(named), "it is a folder, and a single file is wanted")
    return Reference(
        source,
        str(named),
        str(named),
        PurePosixPath(named.key).name or named.bucket,
        key_for(f"object {place} {named}", chosen),
        scope,
        chosen,
        several=is_folder,
        service=service,
    )


async def locate_object(
    named: ObjectName, reference: Reference, settings: ObjectStoreSettings, client: ServiceClient
) -> Located:
    """Return where an object is, or the objects of a folder.

    Raises:
        PgetError: no usable keys, or the store does not list the folder.
    """
    if settings.reads_profile:
        # In a thread: credentials are read from files, or requested from a service.
        bucket = await client.in_thread(lambda: bucket_of(settings, named.bucket))
    else:
        bucket = bucket_of(settings, named.bucket)
    return await locate_in(bucket, named, reference, client)


async def locate_in(
    bucket: ListedBucket, named: ObjectName, reference: Reference, client: ServiceClient
) -> Located:
    """Return where an object of `bucket` is, or the objects of a folder.

    Raises:
        PgetError: the store does not list the folder.
    """
    if not named.is_folder:
        remote = replace(bucket.object(named), name=reference.name)
        return Located((remote,), extract=reference.wanted is not Wanted.FILE)
    from pgetpy.sources.object_listing import list_folder

    files = await list_folder(bucket, named, client)
    if not files:
        raise TransferError(str(reference), NOTHING_THERE, hint="check bucket and folder")
    return Located(files, folder=True)


def explain_refusal(
    named: ObjectName, reference: Reference, error: HttpStatusError, settings: ObjectStoreSettings
) -> PgetError:
    """Return the error to raise for `error`: what it means at this store, and what to try."""
    from pgetpy.core.objects.refusals import explain

    bucket = bucket_of(settings, named.bucket)
    if settings.public_url:
        if error.status in (401, 403):
            error.hint = "requests to a public URL are never signed; check that it lets anyone read"
        return error
    hint = explain(error.code, error.status, error.words, bucket.signer.asker)
    return refusal_error(named, reference, bucket.store, error, hint)


def refusal_error(
    named: ObjectName, reference: Reference, store: str, error: HttpStatusError, hint: str
) -> PgetError:
    """Return the error to raise for `error` of `store`, given a hint at what to try, or none."""
    if named.version and error.code in _NO_SUCH_KEY:
        # Most stores say the same if only the version is missing.
        hint = f"there is no such key, or not in this version; leave ?{named.version_kind}= out"
    kind = _KINDS.get(error.status)
    if kind is not None and hint:
        return kind(str(reference), store, error.status, error.words, hint=hint)
    error.hint = hint or error.hint
    return error


@lru_cache(maxsize=64)
def bucket_of(settings: ObjectStoreSettings, name: str) -> Bucket:
    """Return the bucket `name`, the same object each time. May block: it may read keys.

    Raises:
        BadSettingError: keys, profile or region are missing or contradictory.
    """
    keys = _keys(settings)
    region = settings.region or keys.region or settings.default_region
    configured = settings.endpoint or keys.endpoint
    endpoint = configured or settings.endpoint_in(region)
    store = urlsplit(endpoint).netloc if configured else settings.store
    signer = ObjectSigner(
        keys,
        store=store,
        endpoint=endpoint,
        bucket=name,
        region=region or _ANY_REGION,
        extra=(CHECKSUM_MODE,) if settings.checksums == "when_supported" else (),
        asks_checksum=settings.checksums != "when_required",
        to_set="" if settings.signing == "never" else settings.ways_to_sign,
    )
    return Bucket(name, store, settings, signer)


def _keys(settings: ObjectStoreSettings) -> Keys:
    """Return the keys to sign with: those that are set, else those of the profile or a service.

    Raises:
        BadSettingError: half of a key is set, or there is none and requests have to be signed.
        TransferError: a service that should hand out keys does not.
    """
    if settings.signing == "never":
        return Keys()
    access, secret = settings.key_variables
    if bool(settings.access_key) != bool(settings.secret_key):
        there, missing = (access, secret) if settings.access_key else (secret, access)
        raise BadSettingError(missing, None, f"is not set, and {there} is; set both")
    keys = Keys(looked_at=access)
    if settings.access_key:
        given = Credentials(settings.access_key, settings.secret_key, settings.session_token)
        keys = Keys(given, f"from {settings.keys_from or access}")
    elif settings.token:
        # Only Google's store has a variable for one.
        keys = Keys(token=settings.token, origin="from GOOGLE_OAUTH_ACCESS_TOKEN")
    if settings.reads_profile:
        from pgetpy.sources.object_keys import complete_keys

        keys = complete_keys(
            keys,
            settings.profile,
            (settings.credentials_file, settings.config_file),
            service=bool(settings.key_service),
            region=settings.region,
            foreign=bool(settings.endpoint) and not is_aws(settings.endpoint),
        )
    unsigned = keys.credentials is None and not keys.token
    if unsigned and settings.signing == "always":
        raise BadSettingError(
            access, None, f"is not set, and requests must be signed ({keys.looked_at})"
        )
    return keys
