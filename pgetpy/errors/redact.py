"""URLs without their secrets: the only form in which a URL may be shown, logged or written."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, unquote_to_bytes, urlsplit, urlunsplit

HIDDEN = "***"


class Signer(NamedTuple):
    """A way to sign URLs, by the lower-case names of its query parameters.

    Attributes:
        marks: a URL that has all of these is signed this way.
        terms: parameters that say what the signature allows; they may be shown.
        secret: parameters that are never shown, on a signed URL or any other.
        prefix: every parameter that begins with it belongs to the signature and is secret.
    """

    name: str
    marks: frozenset[str]
    terms: frozenset[str] = frozenset()
    secret: frozenset[str] = frozenset()
    prefix: str = ""

    def owns(self, name: str) -> bool:
        """Whether parameter `name` of a URL that is signed this way is part of the signature."""
        return name in self.marks or name in self.terms or self.hides(name)

    def hides(self, name: str) -> bool:
        """Whether the value of parameter `name` must not be shown."""
        return name in self.secret or bool(self.prefix and name.startswith(self.prefix))


SIGNERS = (
    Signer("aws", frozenset({"x-amz-signature"}), prefix="x-amz-"),
    Signer("aws", frozenset({"awsaccesskeyid", "signature"}),
           terms=frozenset({"expires"}),
           secret=frozenset({"awsaccesskeyid", "signature", "x-amz-security-token"})),
    Signer("google", frozenset({"x-goog-signature"}), prefix="x-goog-"),
    Signer("google", frozenset({"googleaccessid", "signature"}),
           terms=frozenset({"expires"}),
           secret=frozenset({"googleaccessid", "signature"})),
    Signer("azure", frozenset({"sig", "sv"}),
           terms=frozenset({"sr", "ss", "srt", "sp", "st", "se", "sip", "spr", "si", "ses", "sdd",
                            "skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid",
                            "scid"}),
           secret=frozenset({"sig"})),
    Signer("cloudfront", frozenset({"signature", "key-pair-id"}),
           terms=frozenset({"expires", "hash-algorithm"}),
           secret=frozenset({"signature", "key-pair-id", "policy"})),
)  # fmt: skip
# The token parameters of model hubs and content delivery networks.
_CREDENTIAL_NAMES = frozenset(
    {"token", "access_token", "api_key", "apikey", "api-key", "key", "auth", "password", "secret",
     "jwt", "sas", "hdnea", "hdnts", "hmac", "verify", "x-api-key", "authorization", "credential"}
)  # fmt: skip
_ANY_URL = r"(?i)https?://[^\s'\"<>]*[^\s'\"<>;,.:)]|data:[^\s'\"<>,]*,(?!\.\.\. \()[^\s'\"<>]*"
# What is shown of a data: URI in place of all of it.
ELIDED_DATA = r"(?i)data:[^,]{0,100},\.\.\. \(\d+ bytes\)"
_MOST_OF_A_MEDIA_TYPE = 80
# A URL that stays as it is: without user, query and fragment, and with nothing to escape.
_PLAIN = re.compile(r"https?://[a-zA-Z0-9.-]+(?::\d+)?/[\w.~!$&'()*+,;=:%/-]*", re.ASCII)
# Servers repeat what they were sent. No word that may follow there is so long.
_CREDENTIALS = r"(?i)\b((?:bearer|basic) +)[\w.~+/=-]{16,}|\bhf_\w{16,}"


def redact(url: str) -> str:
    """Return `url` with user, password, credentials and signatures replaced by `***`.

    Of a data: URI, whose bytes may be private and are many, the beginning and the size are left.
    """
    if _PLAIN.fullmatch(url):
        return url
    if url[:5].lower() == "data:":
        return _elided(url)
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "(unparsable URL)"
    netloc = f"{HIDDEN}@{host}" if "@" in parts.netloc else host
    if parts.scheme == "hf" and ":" not in parts.netloc:
        netloc = parts.netloc  # hf://NAME@REVISION
    query = "&".join(_redacted_field(field) for field in parts.query.split("&"))
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))


def redact_text(text: str) -> str:
    """Return `text` (a server's words, say) with every http URL and credential in it redacted."""
    text = re.sub(_CREDENTIALS, lambda match: f"{match[1] or ''}{HIDDEN}", text)
    return re.sub(_ANY_URL, lambda match: redact(match.group()), text)


def _elided(uri: str) -> str:
    """Return a data: URI (RFC 2397) without its bytes; one that was treated so stays as it is."""
    if re.fullmatch(ELIDED_DATA, uri):
        return uri
    head, comma, payload = uri[5:].partition(",")
    if not comma:
        head, payload = "", head
    size = len(unquote_to_bytes(payload.encode(errors="replace")) if "%" in payload else payload)
    if head.lower().endswith(";base64"):
        size = (size - payload.count("=") - payload.upper().count("%3D")) * 3 // 4
    if len(head) > _MOST_OF_A_MEDIA_TYPE:
        head = ""
    return f"data:{head},... ({size} bytes)"


class Unsigned(NamedTuple):
    """A URL without its signature.

    Attributes:
        url: the object's name, without who may read it. Two signed links to one object agree
            in it.
        signer: the name of the `Signer`; empty where the URL is not signed.
        proof: the query fields of the signature.
    """

    url: str
    signer: str
    proof: tuple[str, ...]


def unsigned(url: str) -> Unsigned:
    """Return `url`, which has no user, password or fragment, without the parameters that sign it.

    They are left out only where the URL has the whole signature. Taking `?policy=a` and `?policy=b`
    of an unsigned URL for the same object would give one in place of the other.
    """
    if "?" not in url:
        return Unsigned(url, "", ())
    parts = urlsplit(url)
    fields = [field for field in parts.query.split("&") if field]
    names = frozenset(_name_of(field) for field in fields)
    signer = next((signer for signer in SIGNERS if names >= signer.marks), None)
    owned = signer.owns if signer is not None else lambda _: False
    kept = [field for field in fields if not owned(_name_of(field))]
    proof = tuple(field for field in fields if owned(_name_of(field)))
    whole = urlunsplit((parts.scheme, parts.netloc, parts.path, "&".join(kept), ""))
    return Unsigned(whole, signer.name if signer is not None else "", proof)


def _name_of(field: str) -> str:
    return unquote(field.partition("=")[0]).lower()


def _redacted_field(field: str) -> str:
    name, equals, value = field.partition("=")
    if not equals or not value:
        return field
    lowered = _name_of(field)
    secret = (
        lowered in _CREDENTIAL_NAMES
        or any(signer.hides(lowered) for signer in SIGNERS)
        or lowered.endswith(("token", "_key", "-key", "secret", "password"))
    )
    return f"{name}={HIDDEN}" if secret else field
