"""Names: which URLs can be fetched, what a file is called that only a URL or a header names, and
what our own files beside it are called.

A name that comes from outside is made safe here and nowhere else: it is one path component that
can be created on any POSIX file system. No path is looked at.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from pgetpy.core.http.urls import PLAIN_URL, Link, parse_link
from pgetpy.errors import BadReferenceError

# NAME_MAX of the usual file systems, in bytes.
LONGEST_NAME = 255

# What transfers keep beside what they write: the hidden name of the file and one of these suffixes.
PART, JOURNAL, LAYOUT, SPOOL, LOCK = (
    ".pgetpy-part",
    ".pgetpy-journal",
    ".pgetpy-layout",
    ".pgetpy-spool",
    ".pgetpy-lock",
)
OWN_SUFFIXES = (PART, JOURNAL, LAYOUT, SPOOL, LOCK)
# What begins like this is ours as well.
OWN_PREFIX = ".pgetpy-"

_SEPARATORS = re.compile(r"[/\\]")
# Control characters, surrogates and line separators have no place in a name; the marks that turn
# the direction of text make `exe.weights` out of `stewhgiew.exe`.
_UNWANTED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTION_MARKS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SUFFIXES = r"(?:\.[A-Za-z0-9_]{1,16}){1,2}\Z"

# One parameter of a header value, anchored at its semicolon so that quoted strings are passed over.
_PARAMETER = r"""(?:^|;)\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))"""
_QUOTED_PAIR = r"\\(.)"
_LONGEST_HEADER = 8192

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"[A-Za-z0-9._~-]+")


def check_url(url: str, link: Link | None = None) -> None:
    """Raise BadReferenceError unless `url` is an http or https URL that can lead to a server.

    Args:
        link: what `url` was read as, where that has been done already.
    """
    if link is None:
        check_unicode(url)
    if _CONTROL.search(url):
        raise BadReferenceError(url, "there are control characters in it")
    if "://" not in url:
        raise BadReferenceError(url, "it does not begin with http:// or https://")
    host = (link or parse_link(url)).origin.host
    plain = PLAIN_URL.fullmatch(url)
    if plain is not None and _is_usable(plain[1], host):
        return
    parts = urlsplit(url)
    if parts.port == 0 or not _is_host(host, parts.netloc):
        raise BadReferenceError(url, "its host or port is malformed")


@lru_cache(maxsize=256)
def _is_usable(beginning: str, host: str) -> bool:
    """Whether a URL of `host` that begins with this scheme, host and port can lead to a server."""
    parts = urlsplit(beginning)
    return parts.port != 0 and _is_host(host, parts.netloc)


def check_unicode(text: str) -> None:
    """Raise BadReferenceError for a text with bytes that were not valid UTF-8."""
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        hint = "it is not valid UTF-8: write such bytes as %XX"
        raise BadReferenceError(text, hint)


def name_from_url(url: str) -> str | None:
    """Return the safe form of the last component of the URL's path; None where there is none."""
    if url[:5].lower() == "data:":
        return None
    if PLAIN_URL.fullmatch(url):
        last = url.rpartition("/")[2]
        return _safe_name(unquote(last, errors="replace") if "%" in last else last)
    return _safe_name(unquote(urlsplit(url).path, errors="replace"))


def name_from_disposition(header: str) -> str | None:
    """Return the safe form of the file name in a Content-Disposition header (RFC 6266), if any."""
    found: dict[str, str] = {}
    for match in re.finditer(_PARAMETER, header[:_LONGEST_HEADER]):
        key, quoted, token = match.groups()
        value = re.sub(_QUOTED_PAIR, r"\1", quoted) if quoted is not None else token.strip()
        found.setdefault(key.lower(), value)
    extended = _extended_value(found["filename*"]) if "filename*" in found else None
    plain = _as_utf8(found["filename"]) if "filename" in found else None
    for candidate in (extended, plain):
        name = name_from_service(candidate) if candidate else None
        if name:
            return name
    return None


def name_from_service(said: str) -> str | None:
    """Return the safe form of what a service says that a file is called; None where it has none."""
    name = _safe_name(said)
    # A server may not plant a hidden file, which programs read unasked.
    return f"_{name[1:]}" if name is not None and name.startswith(".") else name


def part_name(name: str) -> str:
    """Return the name of the file that holds `name` while it arrives."""
    return _beside(name, PART)


def journal_path(path: Path) -> Path:
    """Return where the journal of the part file of `path` is."""
    return path.with_name(journal_name(path.name))


def journal_name(name: str) -> str:
    """Return the name of the journal of the part file of `name`."""
    return _beside(name, JOURNAL)


def layout_name(name: str) -> str:
    """Return the name of the file for an archive's bytes outside members, for folder `name`."""
    return _beside(name, LAYOUT)


def spool_name(name: str) -> str:
    """Return the name of the file that holds what is still to be made into members of `name`."""
    return _beside(name, SPOOL)


def _safe_name(path: str) -> str | None:
    last = _SEPARATORS.split(path)[-1]
    if last.isascii() and last.isprintable():
        return _shortened(last.strip()) if last.strip(". ") else None
    import unicodedata

    wanted = "".join(
        char
        for char in last
        if unicodedata.category(char) not in _UNWANTED_CATEGORIES and char not in _DIRECTION_MARKS
    )
    name = unicodedata.normalize("NFC", wanted).strip()
    if not name.strip(". "):
        return None
    return _shortened(name)


def _shortened(name: str) -> str:
    """Return `name` within LONGEST_NAME bytes; suffixes stay, since programs go by them."""
    if len(name.encode()) <= LONGEST_NAME:
        return name
    match = re.search(_SUFFIXES, name)
    suffix = match.group() if match else ""
    stem = name[: len(name) - len(suffix)].encode()[: LONGEST_NAME - len(suffix)]
    return stem.decode(errors="ignore").strip() + suffix


def _beside(name: str, suffix: str) -> str:
    """Return the hidden name of a file of ours beside `name`: a dot, the name and the suffix.

    If that is too long it is cut, and a hash of the whole name keeps two long names apart.
    """
    raw = name.encode(errors="surrogateescape")
    if len(raw) + len(suffix) + 1 <= LONGEST_NAME:
        return f".{name}{suffix}"
    mark = hashlib.sha256(raw).hexdigest()[:16]
    room = LONGEST_NAME - len(suffix) - len(mark) - 2
    return f".{raw[:room].decode(errors='ignore')}~{mark}{suffix}"


def _extended_value(value: str) -> str | None:
    """Decode `charset'language'percent-encoded` (RFC 8187); None if it is malformed."""
    charset, _, rest = value.partition("'")
    _, tick, encoded = rest.partition("'")
    if not tick or charset.lower() not in {"utf-8", "iso-8859-1"}:
        return None
    try:
        return unquote_to_bytes(encoded).decode(charset)
    except UnicodeDecodeError:
        return None


def _as_utf8(value: str) -> str:
    """Undo the reading of a UTF-8 header as Latin-1, or as UTF-8 with escaped bytes."""
    try:
        if any("\udc80" <= char <= "\udcff" for char in value):
            return value.encode(errors="surrogateescape").decode("latin-1")
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _is_host(host: str, netloc: str) -> bool:
    if "[" not in netloc:
        return "\\" not in netloc and len(host) <= 253 and _HOST.fullmatch(host) is not None
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
