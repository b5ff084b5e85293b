"""URLs as Go's net/url reads and prints them, which is how pget hashes, compares and sends them.

pgetpy's own `core.http.urls` normalises further: hosts in lower case, default ports dropped. pget
does not, so a placement or prefix that is made from the normalised form would be another one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, unquote_to_bytes

_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PORT = re.compile(r"(?::[0-9]*)?")
_UNRESERVED = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~")
# What Go leaves as it is when it escapes a path, a fragment, or a user and password.
_PATH = _UNRESERVED | frozenset(b"$&+,/:;=@")
_FRAGMENT = _UNRESERVED | frozenset(b"$&+,/:;=?@!()*")
_USER = _UNRESERVED | frozenset(b"$&+,;=")
# What it also accepts unescaped in a path or fragment that arrives escaped.
_ACCEPTED = frozenset(b"!'()*[]%")


@dataclass(frozen=True)
class GoUrl:
    """A URL in its parts.

    Attributes:
        scheme: in lower case.
        user: user and password as printed, without the @; None if the URL has none.
        host: host and port as written; an empty port is dropped.
        escaped_path: as it is sent.
        query: with its question mark; empty if there is none.
        fragment: with its number sign; empty if there is none.
    """

    scheme: str
    user: str | None
    host: str
    escaped_path: str
    query: str
    fragment: str

    @property
    def path(self) -> str:
        """The path without escapes, which is what prefixes are compared with."""
        return _decoded(self.escaped_path)

    @property
    def doubles_slashes(self) -> bool:
        """Whether the path has empty segments, which a path proxy drops. In a bucket that is the
        name of another object."""
        return "//" in self.escaped_path

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user is not None else ""
        authority = f"//{user}{self.host}" if self.host or user or self.scheme else ""
        return f"{self.scheme}:{authority}{self.escaped_path}{self.query}{self.fragment}"


def parse_go_url(text: str) -> GoUrl | None:
    """Return `text` in its parts, as Go's http.NewRequest has it; None if Go refuses it."""
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in text) or not _is_bytes(text):
        return None
    text, _, fragment = text.partition("#")
    scheme_match = _SCHEME.match(text)
    scheme = scheme_match[1].lower() if scheme_match else ""
    rest = text[scheme_match.end() :] if scheme_match else text
    rest, mark, query = rest.partition("?")
    authority = ""
    if rest.startswith("//"):
        authority, slash, path = rest[2:].partition("/")
        rest = slash + path
    elif scheme and not rest.startswith("/"):
        return None  # opaque, such as mailto: or host:port without a scheme
    user, at, host = authority.rpartition("@")
    bracket = host.rfind("]")
    if not _PORT.fullmatch(host[bracket + 1 :][_colon(host[bracket + 1 :]) :]):
        return None
    if _ESCAPE.search(rest) or _ESCAPE.search(fragment) or _ESCAPE.search(user):
        return None
    return GoUrl(
        scheme,
        _escaped_user(user) if at else None,
        host[:-1] if host.endswith(":") else host,
        _escaped(rest, _PATH),
        mark + query,
        f"#{_escaped(fragment, _FRAGMENT)}" if fragment else "",
    )


def _colon(text: str) -> int:
    """Return where the port of a host without brackets begins: at its last colon."""
    at = text.rfind(":")
    return at if at >= 0 else len(text)


def _escaped(text: str, plain: frozenset[int]) -> str:
    """Return `text`, which may hold escapes, as Go prints it: as it is if that is valid, otherwise
    decoded and escaped anew."""
    raw = _bytes(text)
    if all(byte in plain or byte in _ACCEPTED for byte in raw):
        return text
    return _escape(unquote_to_bytes(raw), plain)


def _escape(raw: bytes, plain: frozenset[int]) -> str:
    return "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in raw)


def _escaped_user(user: str) -> str:
    name, colon, password = user.partition(":")
    parts = [_escape(unquote_to_bytes(_bytes(each)), _USER) for each in (name, password)]
    return colon.join(parts) if colon else parts[0]


def _decoded(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def _bytes(text: str) -> bytes:
    # Arguments of a command line that are not UTF-8 have surrogates for their bytes.
    return text.encode("utf-8", "surrogateescape")


def _is_bytes(text: str) -> bool:
    try:
        _bytes(text)
    except UnicodeEncodeError:
        return False
    return True
