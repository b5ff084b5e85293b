"""Names of objects in S3 and its kin, and the URLs that they are asked at.

    s3://BUCKET/KEY[?versionId=ID]     one object; b2:///KEY takes the bucket of B2_BUCKET
    s3://BUCKET/FOLDER/                the objects whose keys begin so
    s3://BUCKET/FOLDER/*.json          those whose keys match
    gs://BUCKET/KEY[?generation=N]     the same at Google, whose versions are generations
    az://CONTAINER/BLOB[?snapshot=T]   the same at Azure, whose words are container and blob

The text of a key is literal, as for `aws s3`: `%20` is three characters, and `?` and `#` are
characters like any other. Only a `*`, a slash at the end and `?versionId=` at the very end (for
Google `?generation=`, for Azure `?versionid=` and `?snapshot=`) are instructions.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import urlsplit

from pgetpy.core.lazy_dataclass import dataclass
from pgetpy.core.objects.sigv4 import encode_path, encode_query
from pgetpy.errors import BadReferenceError

# Amazon S3 User Guide, "Bucket naming rules"; old buckets may have capitals, underscores and up to
# 255 characters.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_VERSION = re.compile(r"\?(versionId)=([A-Za-z0-9._~+/=-]{1,1024})\Z")
# Google Cloud Storage XML API, "Query string parameters". It ignores `versionId`.
_GENERATION = re.compile(r"\?(generation)=(\d{1,20})\Z", re.ASCII)
# Azure Storage REST API, "Naming and referencing containers, blobs, and metadata".
_CONTAINER = re.compile(r"\$(?:root|web|logs|blobchangefeed)|(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
# A time, to a ten-millionth of a second.
_BLOB_VERSION = re.compile(r"\?(versionid|snapshot)=([0-9TZ:.-]{10,40})\Z")
_VERSIONS = {"az": _BLOB_VERSION, "gs": _GENERATION}
# Amazon S3 User Guide, "Object key naming guidelines".
LONGEST_KEY = 1024
_AWS = "amazonaws.com"
# [BUCKET.]s3.amazonaws.com, s3.REGION, s3-REGION (of old buckets) and s3.dualstack.REGION.
_REGIONAL = re.compile(
    r"(?P<bucket>.+\.)?s3(?P<dualstack>\.dualstack)?(?:[.-][a-z]{2}-[a-z-]+-\d+)?"
    r"\.(?P<rest>amazonaws\.com(?:\.cn)?(?::\d+)?)"
)
# What is said of a reference that names no bucket.
_MISSING = {
    "az": "it names no container; write az://CONTAINER/BLOB",
    "b2": "it names no bucket; write b2://BUCKET/KEY, or set B2_BUCKET",
    "": "it names no bucket; write {scheme}://BUCKET/KEY",
}


@dataclass(frozen=True)
class ObjectName:
    """An object, or a folder of them: keys that begin alike.

    Attributes:
        scheme: `s3`, `b2`, `gs` or `az`.
        key: of one object; of a folder what its keys begin with, up to a `/` or a wildcard.
        version: a version of the object; empty for the latest one.
        pattern: what keys of a folder have to match as a whole, where `*` is any text, slashes
            included; empty for all of them.
        version_kind: the parameter of the query that names the version.
    """

    scheme: str
    bucket: str
    key: str
    version: str = ""
    pattern: str = ""
    version_kind: str = "versionId"

    @property
    def is_folder(self) -> bool:
        return bool(self.pattern) or not self.key or self.key.endswith("/")

    def matches(self, key: str) -> bool:
        """Whether the object `key` is one of this folder."""
        if not self.pattern:
            return key.startswith(self.key)
        return _pattern(self.pattern).fullmatch(key) is not None

    def __str__(self) -> str:
        version = f"?{self.version_kind}={self.version}" if self.version else ""
        return f"{self.scheme}://{self.bucket}/{self.pattern or self.key}{version}"


@lru_cache(maxsize=32)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)


def parse_object_name(text: str, bucket: str = "") -> ObjectName:
    """Return the object that `text` names.

    Args:
        bucket: used if `text` leaves the bucket out (`b2:///KEY`).

    Raises:
        BadReferenceError: it has no valid bucket, or a key that no store accepts.
    """
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    named, _, key = rest.partition("/")
    chosen = named or bucket
    if not chosen:
        raise BadReferenceError(text, _MISSING.get(scheme, _MISSING[""]).format(scheme=scheme))
    azure = scheme == "az"
    if not (_CONTAINER if azure else _BUCKET).fullmatch(chosen):
        form = "container has no valid name; write az://CONTAINER/BLOB"
        if not azure:
            form = f"bucket has no valid name; write {scheme}://BUCKET/KEY"
        raise BadReferenceError(text, f"its {form}")
    found = _VERSIONS.get(scheme, _VERSION).search(key)
    key = key[: found.start()] if found else key
    # Azure counts characters, and Amazon bytes.
    if len(key if azure else key.encode(errors="surrogateescape")) > LONGEST_KEY:
        unit = "characters" if azure else "bytes"
        raise BadReferenceError(text, f"its key has more than {LONGEST_KEY} {unit}")
    if found:
        return ObjectName(scheme, chosen, key, found[2], version_kind=found[1])
    if "*" not in key:
        return ObjectName(scheme, chosen, key)
    return ObjectName(scheme, chosen, key[: key.rfind("/", 0, key.index("*")) + 1], pattern=key)


def url_of(
    bucket: str, key: str, *, endpoint: str, addressing: str = "auto", query: str = ""
) -> str:
    """Return the URL that an object is asked at.

    Args:
        endpoint: URL of the store without a slash at its end.
        addressing: `path` puts the bucket in the path, `virtual` in front of the host's name;
            `auto` is virtual at AWS, unless the bucket's name has dots, for which AWS's
            certificates do not hold, and path elsewhere.
        query: as `core.objects.sigv4.encode_query` makes it.
    """
    parts = urlsplit(endpoint)
    host = parts.netloc
    virtual = addressing == "virtual"
    if addressing == "auto":
        virtual = is_aws(endpoint) and "." not in bucket
    place = f"{parts.scheme}://{bucket}.{host}{parts.path}"
    if not virtual:
        place = f"{parts.scheme}://{host}{parts.path}/{bucket}"
    return f"{place}/{encode_path(key)}{'?' if query else ''}{query}"


def object_url(name: ObjectName, *, endpoint: str, addressing: str = "auto") -> str:
    """Return the URL of the object `name`; see `url_of`."""
    query = _version_query(name)
    return url_of(name.bucket, name.key, endpoint=endpoint, addressing=addressing, query=query)


def public_object_url(name: ObjectName, front: str) -> str:
    """Return the URL of the object `name` at `front`, a URL in front of the bucket, in which
    `{bucket}` stands for the bucket's name."""
    query = _version_query(name)
    front = front.replace("{bucket}", name.bucket)
    return f"{front}/{encode_path(name.key)}{'?' if query else ''}{query}"


def _version_query(name: ObjectName) -> str:
    return encode_query([(name.version_kind, name.version)]) if name.version else ""


def aws_endpoint(region: str) -> str:
    """Return the endpoint of Amazon S3 in `region`."""
    suffix = f"{_AWS}.cn" if region.startswith("cn-") else _AWS
    return f"https://s3.{region}.{suffix}"


def at_region(url: str, region: str) -> str:
    """Return `url`, of Amazon S3 in some region, as it is in `region`.

    Endpoints of other forms are not changed: accelerated ones have one host for all regions, and
    those of FIPS or a VPC were chosen on purpose.
    """
    parts = urlsplit(url)
    found = _REGIONAL.fullmatch(parts.netloc)
    if found is None:
        return url
    host = f"{found['bucket'] or ''}s3{found['dualstack'] or ''}.{region}.{found['rest']}"
    return parts._replace(netloc=host).geturl()


def is_aws(endpoint: str) -> bool:
    """Whether `endpoint` is Amazon's own."""
    return (urlsplit(endpoint).hostname or "").endswith((f".{_AWS}", f".{_AWS}.cn"))
