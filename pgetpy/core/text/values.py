"""Texts of flags and environment variables to the values they stand for.

Each reader takes the text and the name of what it came from, which a BadSettingError carries.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from pgetpy.core.text.units import parse_duration, parse_size
from pgetpy.errors import BadSettingError
from pgetpy.errors.redact import HIDDEN

# What the engine itself says in every request.
_OWN_HEADERS = frozenset(
    {"range", "if-range", "content-length", "transfer-encoding", "connection", "upgrade", "te"}
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TOKEN = re.compile(r"[!-~]*")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]*")


def count_reader(least: int) -> Callable[[str, str], int]:
    def read(text: str, name: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
            raise BadSettingError(name, text, "is no number")
        if int(text) < least:
            raise BadSettingError(name, text, f"must be at least {least}")
        return int(text)

    return read


def size_reader(least: int) -> Callable[[str, str], int]:
    def read(text: str, name: str) -> int:
        size = parse_size(text, name=name)
        if size < least:
            raise BadSettingError(name, text, f"must be at least {least} byte")
        return size

    return read


def read_duration(text: str, name: str) -> float:
    seconds = parse_duration(text, name=name)
    if seconds <= 0:
        raise BadSettingError(name, text, "must be longer than nothing")
    return seconds


def word_reader(*words: str, **others: str) -> Callable[[str, str], str]:
    """A reader of one of `words` in any case; `others` are further names of them."""

    def read(text: str, name: str) -> str:
        word = others.get(text.lower(), text.lower())
        if word not in words:
            raise BadSettingError(name, text, f"is not one of {', '.join(words)}")
        return word

    return read


def read_text(text: str, _name: str) -> str:
    return text


def read_token(text: str, name: str) -> str | None:
    """Read a token, which becomes a part of a header; None for an empty one. It is never shown."""
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise BadSettingError(name, HIDDEN, "there are characters in it that no token has")
    return token or None


def read_bool(text: str, name: str) -> bool:
    """Read a truth value as Go's strconv.ParseBool does."""
    if text in {"1", "t", "T", "TRUE", "true", "True"}:
        return True
    if text in {"0", "f", "F", "FALSE", "false", "False"}:
        return False
    raise BadSettingError(name, text, "is neither true nor false")


def read_resolve(text: str, name: str) -> Mapping[tuple[str, int], str]:
    """Read HOST:PORT:IP entries apart by commas or blanks."""
    resolve: dict[tuple[str, int], str] = {}
    for entry in text.replace(",", " ").split():
        host, _, rest = entry.partition(":")
        port, colon, address = rest.partition(":")
        if not (host and colon and address):
            raise BadSettingError(name, entry, "invalid resolve host format, expected HOST:PORT:IP")
        if _is_ip(host):
            raise BadSettingError(name, entry, "invalid hostname, looks like an IP address")
        if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
            raise BadSettingError(name, entry, "invalid port")
        address = address.removeprefix("[").removesuffix("]")
        if not _is_ip(address):
            raise BadSettingError(name, entry, f"invalid IP address: {address}")
        if resolve.setdefault((host.lower(), int(port)), address) != address:
            raise BadSettingError(name, entry, f"duplicate host:port specified: {host}:{port}")
    return MappingProxyType(resolve)


def check_header(key: str, value: str, name: str) -> None:
    # Neither the value nor the whole is shown: it may be a credential.
    if not _HEADER_NAME.fullmatch(key):
        raise BadSettingError(name, HIDDEN, "the header has no proper name, as in 'Name: value'")
    if not _HEADER_VALUE.fullmatch(value):
        raise BadSettingError(name, f"{key}: {HIDDEN}", "the value holds control characters")
    if key.lower() in _OWN_HEADERS:
        raise BadSettingError(
            name, f"{key}: {HIDDEN}", "is a header that is not the caller's to set"
        )


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
