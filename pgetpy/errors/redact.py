"""URLs without their secrets: the only form in which a URL may be shown, logged or written."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

HIDDEN = "***"

# Query parameters that carry a signature or a credential: AWS signature v4 and v2, Google Cloud
# Storage, Azure SAS, CloudFront, and the token parameters of model hubs.
_SIGNATURE_PREFIXES = ("x-amz-", "x-goog-")
_SIGNATURE_NAMES = frozenset(
    {
        # AWS v2 and CloudFront
        "awsaccesskeyid", "expires", "signature", "policy", "key-pair-id",
        # Google Cloud Storage v2
        "googleaccessid",
        # Azure shared access signature
        "sv", "ss", "srt", "sp", "se", "st", "spr", "sig", "sr", "sip", "skoid", "sktid", "skt",
        "ske", "sks", "skv", "saoid", "suoid", "scid",
    }
)  # fmt: skip
_CREDENTIAL_NAMES = frozenset(
    {"token", "access_token", "api_key", "apikey", "api-key", "key", "auth", "password", "secret",
     "jwt", "sas", "hdnea", "hdnts", "hmac", "verify", "x-api-key", "authorization", "credential"}
)  # fmt: skip
# Azure's names are two letters, too common to be taken for a signature on their own.
_AZURE_MARKS = frozenset({"sig", "sv"})
_ANY_URL = re.compile(
    r"https?://[^\s'\"<>]*[^\s'\"<>;,.:)]|data:[^\s'\"<>,]*,(?!\.\.\. \()[^\s'\"<>]*", re.IGNORECASE
)
# What is shown of a data: URI in place of all of it.
ELIDED_DATA = re.compile(r"data:[^,]{0,100},\.\.\. \(\d+ bytes\)", re.IGNORECASE)
_MOST_OF_A_MEDIA_TYPE = 80
# Servers repeat what they were sent. No word that may follow there is so long.
_TOKEN = re.compile(r"\b((?:bearer|basic) +)[\w.~+/=-]{16,}|\bhf_\w{16,}", re.IGNORECASE)


def redact(url: str) -> str:
    """Return `url` with user, password, credentials and signatures replaced by `***`.

    Of a data: URI, whose bytes may be private and are many, the beginning and the size are left.
    """
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
    text = _TOKEN.sub(lambda match: f"{match[1] or ''}{HIDDEN}", text)
    return _ANY_URL.sub(lambda match: redact(match.group()), text)


def _elided(uri: str) -> str:
    """Return a data: URI (RFC 2397) without its bytes; one that was treated so stays as it is."""
    if ELIDED_DATA.fullmatch(uri):
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


def is_signature(name: str, names: frozenset[str]) -> bool:
    """Whether query parameter `name`, beside the lower-case `names`, belongs to a signature."""
    name = name.lower()
    if name.startswith(_SIGNATURE_PREFIXES):
        return True
    if len(name) <= 5 and name != "sig" and name in _SIGNATURE_NAMES:
        return names >= _AZURE_MARKS
    if name == "expires":
        return "signature" in names
    return name in _SIGNATURE_NAMES


def without_signature(url: str) -> str:
    """Return `url` without the parameters that sign it: what it names, whoever may read it.

    Two signed links to one object agree in this form. It has no user, password or fragment.
    """
    parts = urlsplit(url)
    fields = [field for field in parts.query.split("&") if field]
    names = frozenset(field.partition("=")[0].lower() for field in fields)
    kept = [field for field in fields if not is_signature(field.partition("=")[0], names)]
    netloc = parts.netloc.rpartition("@")[2].lower()
    return urlunsplit((parts.scheme.lower(), netloc, parts.path or "/", "&".join(kept), ""))


def _redacted_field(field: str) -> str:
    name, equals, value = field.partition("=")
    if not equals or not value:
        return field
    lowered = name.lower()
    secret = (
        lowered in _CREDENTIAL_NAMES
        or lowered in {"sig", "signature", "policy"}
        or lowered.startswith(_SIGNATURE_PREFIXES)
        or lowered in {"awsaccesskeyid", "googleaccessid", "key-pair-id"}
        or lowered.endswith(("token", "_key", "-key", "secret", "password"))
    )
    return f"{name}={HIDDEN}" if secret else field
