"""What a cached object is found by: a hash of what a URL names, whoever signed it.

A parameter is left out only where the URL bears the whole signature that it is a part of: taking
`?policy=a` and `?policy=b` of an unsigned URL for the same object would serve one for the other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pgetpy.core.http.urls import parse_link
from pgetpy.errors import BadReferenceError

# Characters that a path may hold as they are, and that do not mean anything else in a URL.
_PATH_SAFE = "/:@!$&'()*+,;=~-._"


@dataclass(frozen=True)
class Signer:
    """A way to sign URLs, by the lower-case names of its query parameters.

    Attributes:
        marks: a URL that bears all of these is signed this way.
        names: the other parameters of a signature.
        prefix: every parameter that begins with it is one, too; empty for none.
    """

    name: str
    marks: frozenset[str]
    names: frozenset[str] = frozenset()
    prefix: str = ""

    def signed(self, names: frozenset[str]) -> bool:
        """Whether a URL with the parameters `names` is signed this way."""
        return names >= self.marks

    def owns(self, name: str) -> bool:
        """Whether parameter `name` is a part of the signature."""
        prefixed = bool(self.prefix) and name.startswith(self.prefix)
        return prefixed or name in self.marks or name in self.names


SIGNERS = (
    Signer("aws", frozenset({"x-amz-signature"}), prefix="x-amz-"),
    Signer("aws", frozenset({"awsaccesskeyid", "signature"}),
           frozenset({"expires", "x-amz-security-token"})),
    Signer("google", frozenset({"x-goog-signature"}), prefix="x-goog-"),
    Signer("google", frozenset({"googleaccessid", "signature"}), frozenset({"expires"})),
    Signer("azure", frozenset({"sig", "sv"}),
           frozenset({"sr", "ss", "srt", "sp", "st", "se", "sip", "spr", "si", "ses", "sdd",
                      "skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid", "scid"})),
    Signer("cloudfront", frozenset({"signature", "key-pair-id"}),
           frozenset({"expires", "policy", "hash-algorithm"})),
)  # fmt: skip


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
        BadReferenceError: it is no such URL.
    """
    if url[:5].lower() == "file:":
        return CacheKey(_hash(_file_url(url)))
    link = parse_link(url)
    parts = urlsplit(link.url)
    fields = [field for field in parts.query.split("&") if field]
    signer = _signer_of(frozenset(_name_of(field) for field in fields))
    kept, proof = fields, [link.authorization] if link.authorization else []
    if signer is not None:
        kept = [field for field in fields if not signer.owns(_name_of(field))]
        proof += [field for field in fields if signer.owns(_name_of(field))]
    named = urlunsplit((parts.scheme, parts.netloc, parts.path, "&".join(kept), ""))
    name = signer.name if signer is not None else ""
    return CacheKey(_hash(named), name, _hash("&".join(proof)) if proof else "")


def _signer_of(names: frozenset[str]) -> Signer | None:
    return next((signer for signer in SIGNERS if signer.signed(names)), None)


def _name_of(field: str) -> str:
    return unquote(field.partition("=")[0]).lower()


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
