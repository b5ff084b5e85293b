"""S3 and the stores that speak its protocol: s3://, b2:// (Backblaze) and gs:// (Google).

s3://BUCKET/KEY[?versionId=ID]    one object
gs://BUCKET/KEY[?generation=N]    the same at Google
s3://BUCKET/FOLDER/               all objects below it
s3://BUCKET/FOLDER/*.json         those whose keys match the pattern

The three differ in their settings alone: which variables hold keys, where the endpoint is, whether
AWS's profiles are read. Everything else is in `object_bucket`, for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pgetpy.core.lazy_dataclass import dataclass, field, replace
from pgetpy.core.objects.names import aws_endpoint, parse_object_name
from pgetpy.core.references.reference import Reference
from pgetpy.core.text.values import one_of, read_endpoint, read_text, read_token
from pgetpy.errors import BadSettingError, HttpStatusError, PgetError
from pgetpy.settings import SourceSettings
from pgetpy.settings.options import variable
from pgetpy.sources.base import Located, ServiceClient, Source
from pgetpy.sources.object_bucket import (
    ObjectStoreSettings,
    explain_refusal,
    locate_object,
    reference_to,
)

_ADDRESSING = one_of("auto", "path", "virtual")
_SIGNING = one_of("auto", "always", "never")
_CHECKSUMS = one_of("when_supported", "when_required")
_S = TypeVar("_S", bound=ObjectStoreSettings)


@dataclass(frozen=True)
class S3Settings(ObjectStoreSettings):
    """Amazon S3, or the store that `endpoint` names.

    Variables and their precedence are those of AWS's own tools. Of those for `key_service` only the
    presence matters: botocore reads them itself.
    """

    # Where two rows set the same field, the later one wins.
    # fmt: off
    options = (
        variable("S3Settings.endpoint", read_endpoint,
                 "URL of an S3-compatible store", environ="S3_ENDPOINT_URL"),
        variable("S3Settings.endpoint", read_endpoint,
                 "URL of an S3-compatible store", environ="AWS_ENDPOINT_URL"),
        variable("S3Settings.endpoint", read_endpoint,
                 "URL of an S3-compatible store", environ="AWS_ENDPOINT_URL_S3"),
        variable("S3Settings.access_key", read_token,
                 "access key for s3://", environ="AWS_ACCESS_KEY_ID"),
        variable("S3Settings.secret_key", read_token,
                 "secret key for s3://", environ="AWS_SECRET_ACCESS_KEY"),
        variable("S3Settings.session_token", read_token,
                 "session token of temporary keys", environ="AWS_SESSION_TOKEN"),
        variable("S3Settings.region", read_text,
                 "region of the buckets", environ="AWS_DEFAULT_REGION"),
        variable("S3Settings.region", read_text,
                 "region of the buckets", environ="AWS_REGION"),
        variable("S3Settings.profile", read_text,
                 "profile in ~/.aws to take keys and region from (else: default)",
                 environ="AWS_DEFAULT_PROFILE"),
        variable("S3Settings.profile", read_text,
                 "profile in ~/.aws to take keys and region from (else: default)",
                 environ="AWS_PROFILE"),
        variable("S3Settings.credentials_file", read_text,
                 "file with keys (else: ~/.aws/credentials)",
                 environ="AWS_SHARED_CREDENTIALS_FILE"),
        variable("S3Settings.config_file", read_text,
                 "file with profiles (else: ~/.aws/config)", environ="AWS_CONFIG_FILE"),
        variable("S3Settings.key_service", read_text,
                 "URL of the instance's metadata service, which hands out keys (pgetpy[s3])",
                 environ="AWS_EC2_METADATA_SERVICE_ENDPOINT"),
        variable("S3Settings.key_service", read_text,
                 "URL from which a container gets keys (pgetpy[s3])",
                 environ="AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        variable("S3Settings.key_service", read_text,
                 "path from which a container gets keys (pgetpy[s3])",
                 environ="AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        variable("S3Settings.key_service", read_text,
                 "file with a token that is exchanged for keys (pgetpy[s3])",
                 environ="AWS_WEB_IDENTITY_TOKEN_FILE"),
        variable("S3Settings.addressing", _ADDRESSING,
                 "where the bucket is in the URL: auto is virtual (in the host's name) at Amazon "
                 "and path elsewhere", default="auto", environ="PGET_S3_ADDRESSING"),
        variable("S3Settings.signing", _SIGNING,
                 "sign requests; auto signs them if there are keys", default="auto",
                 environ="PGET_S3_SIGN"),
        variable("S3Settings.checksums", _CHECKSUMS,
                 "ask for the checksum that the store has of an object, and verify it",
                 default="when_supported", environ="AWS_RESPONSE_CHECKSUM_VALIDATION"),
        variable("S3Settings.public_url", read_endpoint,
                 "URL in front of the bucket for reads, such as a CDN's; it gets no signatures",
                 environ="PGET_S3_PUBLIC_URL"),
    )
    # fmt: on

    checksums: str = "when_supported"

    store = "Amazon S3"
    key_variables = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    other_keys = "AWS_PROFILE"
    has_profiles = True

    def endpoint_in(self, region: str) -> str:
        return aws_endpoint(region)


@dataclass(frozen=True)
class S3:
    """How s3:// is reached, given in Python. What is left out comes from the environment.

    Other stores with Amazon's protocol (Backblaze B2, Cloudflare R2, MinIO, Ceph) are reached by
    their `endpoint_url`.

    Args:
        endpoint_url: URL of the store; None for Amazon's, or the environment's.
        region: of the buckets; `auto` for R2.
        access_key_id: a key that signs requests. With it the environment's keys and session token
            are not used.
        secret_access_key: the secret that belongs to it.
        session_token: of temporary keys.
        profile: a profile in ~/.aws, whose keys go before those of the environment.
        addressing: where the bucket is in URLs: `path`, `virtual` (in the host's name) or `auto`.
        sign: `always`, `never`, or `auto`: if there are keys.
        public_url: URL in front of the bucket for reads, such as a CDN's; it gets no signatures.
            `{bucket}` in it stands for the bucket's name.

    Raises:
        BadSettingError: an argument is invalid.
    """

    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    addressing: str | None = None
    sign: str | None = None
    public_url: str | None = None

    def __post_init__(self) -> None:
        if bool(self.access_key_id) != bool(self.secret_access_key):
            there, missing = "access_key_id", "secret_access_key"
            if self.secret_access_key:
                there, missing = missing, there
            raise BadSettingError(missing, None, f"is not given, and {there} is; give both")
        self._changes()

    def applied_to(self, sources: SourceSettings) -> SourceSettings:
        """Return `sources` with these settings for s3://."""
        return sources.replacing(replace(sources.of(S3Settings), **self._changes()))

    def _changes(self) -> dict[str, Any]:
        """Return the fields of `S3Settings` that are given.

        Raises:
            BadSettingError: a value is invalid.
        """
        changes: dict[str, Any] = {
            known: read(value, name)
            for name, known, read in _ARGUMENTS
            if (value := getattr(self, name)) is not None
        }
        if self.access_key_id:
            return {"session_token": "", "keys_from": "pgetpy.S3", **changes}
        if self.profile:
            # As in boto3: a profile that is asked for goes before the environment's keys.
            return {"access_key": "", "secret_key": "", "session_token": "", **changes}
        return changes


# An argument of `S3`, the field that it sets, and its reader.
_ARGUMENTS: tuple[tuple[str, str, Callable[[Any, str], object]], ...] = (
    ("endpoint_url", "endpoint", read_endpoint),
    ("region", "region", read_text),
    ("access_key_id", "access_key", read_token),
    ("secret_access_key", "secret_key", read_token),
    ("session_token", "session_token", read_token),
    ("profile", "profile", read_text),
    ("addressing", "addressing", _ADDRESSING),
    ("sign", "signing", _SIGNING),
    ("public_url", "public_url", read_endpoint),
)


@dataclass(frozen=True)
class B2Settings(ObjectStoreSettings):
    """Backblaze B2, through its S3-compatible API. The region is a part of its endpoint, and cannot
    be found out by asking."""

    # fmt: off
    options = (
        variable("B2Settings.endpoint", read_endpoint,
                 "URL of Backblaze B2", environ="PGET_B2_ENDPOINT"),
        variable("B2Settings.bucket", read_text,
                 "bucket of b2:///KEY", environ="B2_BUCKET"),
        variable("B2Settings.region", read_text,
                 "region of the buckets, such as us-west-004", environ="B2_REGION"),
        variable("B2Settings.access_key", read_token,
                 "key ID for b2://", environ="B2_APPLICATION_KEY_ID"),
        variable("B2Settings.access_key", read_token,
                 "key ID for b2://", environ="B2_KEY_ID"),
        variable("B2Settings.secret_key", read_token,
                 "application key for b2://", environ="B2_APPLICATION_KEY"),
        variable("B2Settings.secret_key", read_token,
                 "application key for b2://", environ="B2_SECRET_KEY"),
        variable("B2Settings.public_url", read_endpoint,
                 "URL in front of the bucket for reads, such as a CDN's; it gets no signatures",
                 environ="PGET_B2_PUBLIC_URL"),
    )
    # fmt: on

    store = "Backblaze B2"
    default_region = ""
    key_variables = ("B2_KEY_ID", "B2_SECRET_KEY")

    def endpoint_in(self, region: str) -> str:
        if not region:
            raise BadSettingError("B2_REGION", None, "is not set; set it, such as to us-west-004")
        return f"https://s3.{region}.backblazeb2.com"


@dataclass(frozen=True)
class GsSettings(ObjectStoreSettings):
    """Google Cloud Storage, through its XML API: with HMAC keys, which sign as at S3, an OAuth
    token, or neither."""

    # fmt: off
    options = (
        variable("GsSettings.endpoint", read_endpoint,
                 "URL of Google Cloud Storage, or of its emulator",
                 environ="STORAGE_EMULATOR_HOST"),
        variable("GsSettings.access_key", read_token,
                 "access key of an HMAC key for gs://", environ="GS_ACCESS_KEY_ID"),
        variable("GsSettings.secret_key", read_token,
                 "secret of an HMAC key for gs://", environ="GS_SECRET_ACCESS_KEY"),
        variable("GsSettings.token", read_token,
                 "OAuth token for gs://", environ="GOOGLE_OAUTH_ACCESS_TOKEN"),
    )
    # fmt: on

    store = "Google Cloud Storage"
    default_region = "auto"
    key_variables = ("GS_ACCESS_KEY_ID", "GS_SECRET_ACCESS_KEY")
    other_keys = "GOOGLE_OAUTH_ACCESS_TOKEN"

    def endpoint_in(self, region: str) -> str:
        return "https://storage.googleapis.com"


class ObjectStore(Source[_S]):
    """Handles the references whose scheme is its name.

    The key of an object in the cache is made of store and name, without the region: a bucket has
    the same content whichever region's endpoint is asked.
    """

    takes_urls = False

    def recognise(self, text: str, wanted: str, settings: _S) -> Reference | None:
        if text[: len(self.name) + 3].lower() != f"{self.name}://":
            return None
        named = parse_object_name(text, settings.bucket)
        # Only a configured endpoint is part of the cache key; the region is not, see above.
        configured = (settings.public_url or settings.endpoint).replace("{bucket}", named.bucket)
        region = settings.region or settings.default_region
        service = configured or settings.endpoint_in(region)
        return reference_to(
            self.name, named, wanted, place=configured, scope=settings.scope, service=service
        )

    async def locate(self, reference: Reference, settings: _S, client: ServiceClient) -> Located:
        named = parse_object_name(reference.text, settings.bucket)
        return await locate_object(named, reference, settings, client)

    def explained(self, reference: Reference, error: HttpStatusError, settings: _S) -> PgetError:
        named = parse_object_name(reference.text, settings.bucket)
        return explain_refusal(named, reference, error, settings)


class S3Source(ObjectStore[S3Settings]):
    """s3://"""

    name = "s3"
    settings = S3Settings


class B2(ObjectStore[B2Settings]):
    """b2://"""

    name = "b2"
    settings = B2Settings


class Gs(ObjectStore[GsSettings]):
    """gs://"""

    name = "gs"
    settings = GsSettings
