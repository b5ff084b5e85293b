"""AWS Signature Version 4 in request headers, for S3 and the stores that imitate it.

Source: Amazon S3 API Reference, "Signature Calculations for the Authorization Header: Transferring
Payload in a Single Chunk". S3 differs from AWS's other services in two ways: each part of the path
is encoded once, not twice, and dot segments are left alone.

    canonical request            string to sign               signature
    method                       AWS4-HMAC-SHA256             HMAC(signing key, string to sign)
    path                         20261129T055849Z
    sorted query                 20261129/REGION/s3/aws4_request
    sorted headers               SHA-256 of the canonical request
    names of the signed headers
    SHA-256 of the body
                                 signing key = HMAC chain: secret, day, region, "s3", "aws4_request"

Only `host` and `x-amz-*` are signed. Other headers may be changed on the way (Google's front end
rewrites Accept-Encoding), and a signed header that changes makes the signature wrong.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote

from pgetpy.core.lazy_dataclass import dataclass, field

# SHA-256 of an empty body.
EMPTY_BODY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
# For bodies whose hash is not known when the request is signed. TLS protects them on the way.
UNSIGNED_BODY = "UNSIGNED-PAYLOAD"
_ALGORITHM = "AWS4-HMAC-SHA256"
_SERVICE = "s3"


@dataclass(frozen=True)
class Credentials:
    """Keys that sign requests.

    Attributes:
        access_key: the public half; it is sent in each request.
        secret_key: the secret half; it is never sent.
        session_token: comes with temporary keys and is sent in each request; else empty.
    """

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


def encode_path(path: str) -> str:
    """Percent-encode a key as S3 signs it: every byte but unreserved characters and `/`.

    A byte that is not valid UTF-8 is a surrogate in `path`, and is encoded as that byte.
    """
    return quote(path, safe="/-_.~", errors="surrogateescape")


def encode_query(pairs: Iterable[tuple[str, str]]) -> str:
    """Return `pairs` as a canonical query: names and values encoded, in sorted order."""
    encoded = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


def sign(  # noqa: PLR0913  all of it is signed
    method: str,
    host: str,
    path: str,
    query: str,
    headers: Iterable[tuple[str, str]],
    *,
    credentials: Credentials,
    region: str,
    at: str,
    body_sha256: str = EMPTY_BODY,
) -> list[tuple[str, str]]:
    """Return the headers to add to a request, Authorization among them.

    Args:
        host: the Host header as it will be sent, with a port that is not the scheme's default.
        path: encoded as `encode_path` does.
        query: as `encode_query` makes it; empty if there is none.
        headers: further `x-amz-*` headers of the request, which are signed as well and returned.
        at: the time of the request, such as `20261129T055849Z`.
        body_sha256: SHA-256 of the body in hex, or `UNSIGNED_BODY`.
    """
    sent = [*headers, ("x-amz-content-sha256", body_sha256), ("x-amz-date", at)]
    if credentials.session_token:
        sent.append(("x-amz-security-token", credentials.session_token))
    signed = sorted([("host", host), *((name.lower(), " ".join(v.split())) for name, v in sent)])
    names = ";".join(name for name, _ in signed)
    lines = "".join(f"{name}:{value}\n" for name, value in signed)
    request = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{body_sha256}"
    scope = f"{at[:8]}/{region}/{_SERVICE}/aws4_request"
    digest = hashlib.sha256(request.encode(errors="surrogateescape")).hexdigest()
    key = _signing_key(credentials.secret_key, at[:8], region)
    signature = hmac.digest(key, f"{_ALGORITHM}\n{at}\n{scope}\n{digest}".encode(), "sha256").hex()
    proof = f"Credential={credentials.access_key}/{scope}, SignedHeaders={names}"
    return [*sent, ("Authorization", f"{_ALGORITHM} {proof}, Signature={signature}")]


@lru_cache(maxsize=64)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    """Return the key of one day, region and service, which stays the same for all its requests."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, _SERVICE, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
