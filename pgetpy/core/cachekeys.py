"""What a cached object is found by: a hash of what a URL names, whoever signed it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from pgetpy.core.links import Link, parse_link
from pgetpy.errors import BadReferenceError
from pgetpy.redact import unsigned

# Characters that a path may hold as they are, and that do not mean anything else in a URL.
_PATH_SAFE = "/:@!$&'()*+,;=~-._"


@dataclass(frozen=True)
class CacheKey:
    """What an object is found by.

    Attributes:
        key: 64 hex digits; links to one object agree in it, whoever signed them.
        signer: who signed the link (`aws`, `google`, `azure`, `cloudfront`); empty where nobody.
        signature: tells one signature, or one user and password in the URL, from another; empty
            where there is none. It is a hash: it may be stored and gives nothing away.
    """

    key: str
    signer: str = ""
    signature: str = ""


def cache_key(url: str) -> CacheKey:
    """Return what the object at `url`, an http, https or file URL, is found by.

    Raises:
        BadReferenceError: it is not such a URL.
    """
    if url[:5].lower() == "file:":
        return CacheKey(_hash(_file_url(url)))
    return key_of_link(parse_link(url))


def key_of_link(link: Link) -> CacheKey:
    """Return what the object at `link`, an http or https URL, is found by."""
    named = unsigned(link.url)
    proof = [*([link.authorization] if link.authorization else []), *named.proof]
    return CacheKey(_hash(named.url), named.signer, _hash("&".join(proof)) if proof else "")


def _file_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc.lower() not in ("", "localhost"):
        raise BadReferenceError(url, "a file URL names no host but localhost")
    if not parts.path.startswith("/"):
        raise BadReferenceError(url, "a file URL has an absolute path")
    raw = unquote(parts.path, errors="surrogateescape")
    return "file://" + quote(raw, safe=_PATH_SAFE, errors="surrogateescape")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
