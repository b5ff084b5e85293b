"""Names of objects in S3 and its kin, and the URLs that they are asked at.

    s3://BUCKET/KEY[?versionId=ID]     one object; b2:///KEY takes the bucket of B2_BUCKET
    s3://BUCKET/FOLDER/                the objects whose keys begin so
    s3://BUCKET/FOLDER/*.json          those whose keys match

The text of a key is literal, as for `aws s3`: `%20` is three characters, and `?` and `#` are
characters like any other. Only a `*`, a slash at the end and `?versionId=` at the very end are
instructions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from pgetpy.core.objects.sigv4 import encode_path, encode_query
from pgetpy.errors import BadReferenceError

# Amazon S3 User Guide, "Bucket naming rules"; old buckets may have capitals, underscores and up to
# 255 characters.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_VERSION = re.compile(r"\?versionId=([A-Za-z0-9._~+/=-]{1,1024})\Z")
# Amazon S3 User Guide, "Object key naming guidelines".
_LONGEST_KEY = 1024
_AWS = "amazonaws.com"


@dataclass(frozen=True)
class ObjectName:
    """An object, or a folder of them: keys that begin alike.

    Attributes:
        scheme: `s3`, `b2` or `gs`.
        key: of one object; of a folder what its keys begin with, up to a `/` or a wildcard.
        version: a version of the object; empty for the latest one.
        pattern: what keys of a folder have to match as a whole, where `*` is any text, slashes
            included; empty for all of them.
    """

    scheme: str
    bucket: str
    key: str
    version: str = ""
    pattern: str = ""

    @property
    def is_folder(self) -> bool:
        return bool(self.pattern) or not self.key or self.key.endswith("/")

    def matches(self, key: str) -> bool:
        """Whether the object `key` is one of this folder."""
        if not self.pattern:
            return key.startswith(self.key)
        return _pattern(self.pattern).fullmatch(key) is not None

    def __str__(self) -> str:
        version = f"?versionId={self.version}" if self.version else ""
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
        hint = ", or set B2_BUCKET" if scheme == "b2" else ""
        raise BadReferenceError(text, f"it names no bucket; write {scheme}://BUCKET/KEY{hint}")
    if not _BUCKET.fullmatch(chosen):
        raise BadReferenceError(text, f"its bucket has no valid name; write {scheme}://BUCKET/KEY")
    found = _VERSION.search(key)
    version = found[1] if found else ""
    key = key[: found.start()] if found else key
    if len(key.encode(errors="surrogateescape")) > _LONGEST_KEY:
        raise BadReferenceError(text, f"its key has more than {_LONGEST_KEY} bytes")
    if "*" not in key or version:
        return ObjectName(scheme, chosen, key, version)
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
        is_aws = (parts.hostname or "").endswith((f".{_AWS}", f".{_AWS}.cn"))
        virtual = is_aws and "." not in bucket
    place = f"{parts.scheme}://{bucket}.{host}{parts.path}"
    if not virtual:
        place = f"{parts.scheme}://{host}{parts.path}/{bucket}"
    return f"{place}/{encode_path(key)}{'?' if query else ''}{query}"


def object_url(name: ObjectName, *, endpoint: str, addressing: str = "auto") -> str:
    """Return the URL of the object `name`; see `url_of`."""
    query = encode_query([("versionId", name.version)]) if name.version else ""
    return url_of(name.bucket, name.key, endpoint=endpoint, addressing=addressing, query=query)


def aws_endpoint(region: str) -> str:
    """Return the endpoint of Amazon S3 in `region`."""
    suffix = f"{_AWS}.cn" if region.startswith("cn-") else _AWS
    return f"https://s3.{region}.{suffix}"


def at_region(url: str, region: str) -> str:
    """Return `url`, of Amazon S3 in some region, as it is in `region`."""
    parts = urlsplit(url)
    bucket, _, rest = parts.netloc.partition("s3.")
    return parts._replace(netloc=f"{bucket}s3.{region}.{rest[rest.index(_AWS) :]}").geturl()


def is_aws(endpoint: str) -> bool:
    """Whether `endpoint` is Amazon's own."""
    return (urlsplit(endpoint).hostname or "").endswith((f".{_AWS}", f".{_AWS}.cn"))
