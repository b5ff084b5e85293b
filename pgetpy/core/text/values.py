"""Readers: the text of an option or an environment variable to its value.

A reader takes the text and the name of the option or variable, which a BadSettingError carries. An
option that may be repeated gives a tuple of texts instead; its environment variable is one text.

Flags and variables go through the same readers, so that both accept the same and fail with the same
words. Readers of texts that may hold secrets (headers, tokens, URLs) never put them into an error.

Formats are those of the tools whose variables and flags they are: numbers, truth values and
HOST:PORT:IP as pget (Go) reads them, switches of the Hub as huggingface_hub does. A reader that was
stricter would break scripts that work, a laxer one would accept what the other tool refuses.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from pgetpy.core.destinations.names import check_url
from pgetpy.core.lazy_dataclass import dataclass, field, replace
from pgetpy.core.text.units import parse_duration, parse_size
from pgetpy.errors import BadReferenceError, BadSettingError
from pgetpy.errors.redact import HIDDEN, redact

# What a reader returns when the text leaves the field as it is.
UNCHANGED = object()

# Headers that the engine sets itself: others' values would contradict what it asked for.
_OWN_HEADERS = frozenset(
    {"range", "if-range", "content-length", "transfer-encoding", "connection", "upgrade", "te"}
)
_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_STORE_FOLDER = r"(?:s3|b2|gs)://[A-Za-z0-9][A-Za-z0-9._-]+(?:/[^*?#\x00-\x20]*)?"
_GO_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_PRINTABLE = r"[!-~]*"
_HEADER_VALUE = r"[^\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]*"


def count_reader(least: int) -> Callable[[str, str], int]:
    """Return a reader of whole numbers that are at least `least`.

    More than 18 digits are not a number here: they would not fit what the settings are used for.
    """

    def read(text: str, name: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
            raise BadSettingError(name, text, "is not a number")
        if int(text) < least:
            raise BadSettingError(name, text, f"must be at least {least}")
        return int(text)

    return read


def size_reader(least: int) -> Callable[[str, str], int]:
    """Return a reader of sizes, see `parse_size`, that are at least `least` bytes."""

    def read(text: str, name: str) -> int:
        size = parse_size(text, name=name)
        if size < least:
            raise BadSettingError(name, text, f"must be at least {least} byte{'s' * (least > 1)}")
        return size

    return read


def read_duration(text: str, name: str) -> float:
    """Read a duration in seconds, see `parse_duration`; zero is refused."""
    seconds = parse_duration(text, name=name)
    if seconds <= 0:
        raise BadSettingError(name, text, "must be more than zero")
    return seconds


def read_store_folder(text: str, name: str) -> str:
    """Read a prefix in an object store, such as s3://BUCKET/PREFIX."""
    text = text.strip()
    if not re.fullmatch(_STORE_FOLDER, text):
        raise BadSettingError(name, text, "is not a place in a bucket such as s3://BUCKET/PREFIX")
    return text


@dataclass(frozen=True)
class ChoiceReader:
    """Reads one of a few words, in upper or lower case.

    Attributes:
        values: each word and its value.
        aliases: further spellings of the words.
        hint: what to write instead of a word that is none of these, a clause.
    """

    values: Mapping[str, object]
    aliases: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""

    def __call__(self, text: str, name: str) -> object:
        word = self.aliases.get(text.lower(), text.lower())
        if word not in self.values:
            hint = f"; {self.hint}" if self.hint else ""
            raise BadSettingError(name, text, f"is not one of {', '.join(self.values)}{hint}")
        return self.values[word]

    def hinting(self, hint: str) -> ChoiceReader:
        """Return a reader of the same words that says so of others."""
        return replace(self, hint=hint)


def one_of(*words: str, **aliases: str) -> ChoiceReader:
    """Return a reader of `words`, each of which is its own value; see `ChoiceReader`."""
    return ChoiceReader({word: word for word in words}, aliases)


def switch_to(value: object) -> Callable[[str, str], object]:
    """Return the reader of a switch that stands for `value` of another option.

    `--no-SWITCH` leaves the other option as it is, instead of giving it an opposite that it may not
    have.
    """

    def read(text: str, name: str) -> object:
        return value if read_bool(text, name) else UNCHANGED

    return read


def read_text(text: str, _name: str) -> str:
    return text


def read_header_value(text: str, name: str) -> str:
    """Read what becomes the value of a header (RFC 9110, 5.5)."""
    if not re.fullmatch(_HEADER_VALUE, text):
        raise BadSettingError(name, text, "contains characters that a header must not contain")
    return text.strip()


def read_texts(texts: tuple[str, ...], _name: str) -> tuple[str, ...]:
    return texts


def read_words(given: str | tuple[str, ...], _name: str) -> tuple[str, ...]:
    """Read words with commas or blanks between them, in one text or several."""
    texts = (given,) if isinstance(given, str) else given
    return tuple(word for text in texts for word in text.replace(",", " ").split())


def read_token(text: str, name: str) -> str | None:
    """Read a token, which becomes a part of a header; None for an empty one. It is never shown."""
    token = text.strip()
    if not re.fullmatch(_PRINTABLE, token):
        raise BadSettingError(name, HIDDEN, "contains characters that a token cannot contain")
    return token or None


def read_bool(text: str, name: str) -> bool:
    """Read a truth value as Go's strconv.ParseBool does."""
    if text in _GO_TRUE:
        return True
    if text in {"0", "f", "F", "FALSE", "false", "False"}:
        return False
    raise BadSettingError(name, text, "is neither true nor false")


def read_hub_switch(text: str, _name: str) -> bool:
    """Read a switch as huggingface_hub does: what it does not know is false."""
    return text.strip().upper() in {"1", "ON", "YES", "TRUE"}


def read_go_switch(text: str, _name: str) -> bool:
    """Read a switch as viper does for pget: what strconv.ParseBool does not know is false."""
    return text in _GO_TRUE


def read_http_url(text: str, name: str) -> str:
    if not text.lower().startswith(("http://", "https://")):
        raise BadSettingError(name, redact(text), "is not an http or https URL")
    return text


def read_url(text: str, name: str) -> str:
    """Read a URL that `check_url` accepts. An error does not show its secrets."""
    try:
        check_url(text)
    except BadReferenceError as error:
        raise BadSettingError(name, redact(text), error.reason) from None
    return text


def read_endpoint(text: str, name: str) -> str:
    """Read the URL of a service, without the slash at its end.

    Blanks around it are dropped, as .env files and YAML leave them. Quotation marks are refused
    with a reason, since `docker run --env-file` passes them on and the URL then looks right in
    every log.
    """
    text = text.strip()
    if not text:
        raise BadSettingError(name, text, "is blank; give a URL, or leave it unset")
    if text[0] in "\"'":
        raise BadSettingError(name, redact(text), "is in quotation marks; leave them out")
    parts = urlsplit(read_url(text, name))
    if "@" in parts.netloc:
        # The endpoint becomes a part of what is shown and recorded.
        raise BadSettingError(name, redact(text), "must not contain a user or password")
    if "?" in text or "#" in text:
        raise BadSettingError(
            name, redact(text), "must not contain ? or #, because paths are appended to it"
        )
    return text.rstrip("/")


def read_resolve(given: str | tuple[str, ...], name: str) -> Mapping[tuple[str, int], str]:
    """Read HOST:PORT:IP entries, separated by commas or blanks.

    The errors have pget's words, which scripts may look for.
    """
    resolve: dict[tuple[str, int], str] = {}
    text = given if isinstance(given, str) else ",".join(given)
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


def read_headers(given: str | tuple[str, ...], name: str) -> tuple[tuple[str, str], ...]:
    """Read `Name: value` lines of an option, or the JSON object of a variable."""
    headers = _json_object(given, name) if isinstance(given, str) else map(_header, given)
    return tuple(check_header(key, value, name) for key, value in headers)


def _json_object(text: str, name: str) -> Iterable[tuple[str, str]]:
    import json

    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict) or not all(isinstance(value, str) for value in parsed.values()):
        raise BadSettingError(name, HIDDEN, "is not a JSON object of strings")
    return parsed.items()


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    return (name.strip(), value.strip()) if colon else ("", "")


def check_header(key: str, value: str, name: str) -> tuple[str, str]:
    """Return the header if it may be sent (RFC 9110, 5.1 and 5.5).

    Headers that frame a message or ask for ranges are refused: with another's Range or
    Transfer-Encoding, no answer could be believed.
    """
    # Neither the value nor the whole is shown: it may be a credential.
    if not re.fullmatch(_HEADER_NAME, key):
        raise BadSettingError(name, HIDDEN, "the header has no valid name; write 'Name: value'")
    if not re.fullmatch(_HEADER_VALUE, value):
        raise BadSettingError(name, f"{key}: {HIDDEN}", "the value holds control characters")
    if key.lower() in _OWN_HEADERS:
        raise BadSettingError(name, f"{key}: {HIDDEN}", "is a header that pgetpy sets itself")
    return key, value


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
