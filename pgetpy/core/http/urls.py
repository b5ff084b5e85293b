"""URLs as requests need them: normalised, split from their credentials, followed on redirects.

A text becomes a `Link` once. From there on user and password are out of the URL, so that a log or a
`Referer` cannot leak them, and whether they may be sent is decided by `Origin` alone:

    credentials of the user      to the origin of the original URL, and to the same host after a
                                 step from http to https (`may_see_credentials`)
    headers of the user          the same, but for a few that tell nothing (`_HARMLESS_HEADERS`)
    signature in a target URL    wherever it points: the URL's author put it there

A signed URL changes with every signature while the object stays the same. `Link.key` is made
without the signature, so that a journal finds the object again; `Link.signature` is made of it
alone, so that two users' rights to one object can be told apart.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from pgetpy.core.http.heads import Head
from pgetpy.core.lazy_dataclass import dataclass, field, replace
from pgetpy.errors import BadReferenceError, TransferError
from pgetpy.errors.redact import Unsigned, redact, unsigned

DEFAULT_PORTS = {"http": 80, "https": 443}
MOST_REDIRECTS = 10
_PLAIN_HOST = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
_PATH_SAFE = "/%:@!$&'()*+,;=~-._[]"
_QUERY_SAFE = _PATH_SAFE + "?|\\^`{}"
# Characters that a file's path keeps unencoded: those without a meaning of their own in a URL.
_PLAIN_PATH = "/:@!$&'()*+,;=~-._"
# A URL that needs no escaping, and whose beginning alone says whether it is in its one form. What
# follows its last slash is what its path ends with.
PLAIN_URL = re.compile(r"(https?://[a-z0-9.-]+(?::\d+)?)/[\w.~!$&'()*+,;=:%/-]*", re.ASCII)
_MOST_ORIGINS = 256
# Headers that say nothing about the user may follow a redirect anywhere.
_HARMLESS_HEADERS = frozenset({"user-agent", "accept", "accept-language"})


@dataclass(frozen=True, order=True)
class Origin:
    """Scheme, host and port (RFC 9110, 4.3.1): what credentials belong to."""

    scheme: str
    host: str
    port: int


class RequestSigner(Protocol):
    """Signs the requests for the objects of one store. Its methods are called from any thread."""

    @property
    def whole_first(self) -> bool:
        """Whether the store sends an object's checksum only with an answer to a request without a
        range."""

    @property
    def asks_checksum(self) -> bool:
        """Whether a request of its own may be made for an object's checksum."""

    def headers(
        self, link: Link, headers: Sequence[tuple[str, str]], now: float
    ) -> list[tuple[str, str]]:
        """Return the headers to add to a GET of `link`, which has `headers` already and is made at
        `now` (seconds since 1970)."""

    def due(self, now: float) -> bool:
        """Whether `refresh` has to be called before the next request is signed."""

    def refresh(self) -> None:
        """Get new keys, which may take requests to other services.

        Raises:
            PgetError: there are none.
        """

    def sign_again(
        self, link: Link, sent: Sequence[tuple[str, str]], head: Head, now: float
    ) -> Link | None:
        """Return what to ask after `head` refused a request for `link` with the headers `sent`.

        None means that signing it once more would not help.
        """

    def onward(self, before: Link, after: Link) -> Link:
        """Return `after`, where a redirect from `before` leads, with a signer if it needs one."""


# The origins of plain URLs by their beginnings: many URLs have one origin.
_ORIGINS: dict[str, Origin] = {}


@dataclass(frozen=True)
class Link:
    """A URL that can be asked.

    Attributes:
        url: without user, password and fragment.
        authorization: value of that header; it may stem from the URL's user and password.
        trusted: whether the operator has named this origin, so that no policy concerns it.
        signer: signs each request for it; None where requests are not signed.
        plain: whether it was written as it is here, and has no query: then it holds no secret.
    """

    url: str = field(repr=False)
    origin: Origin
    authorization: str | None = field(default=None, repr=False)
    trusted: bool = False
    signer: RequestSigner | None = field(default=None, repr=False, compare=False)
    plain: bool = field(default=False, repr=False, compare=False)

    def __str__(self) -> str:
        return self.url if self.plain else redact(self.url)

    @cached_property
    def unsigned(self) -> Unsigned:
        """The URL without what signs it; of a file URL the one spelling of its path."""
        if self.plain:
            return Unsigned(self.url, "", ())
        return unsigned(self.url) if self.origin.host else Unsigned(_local_name(self.url), "", ())

    @cached_property
    def key(self) -> str:
        """64 hex digits that identify what the URL names, independent of its signature."""
        return _hash(self.unsigned.url)

    @property
    def signature(self) -> str:
        """Tells one signature, or one user and password, from another; empty where there is none.

        It is a hash: it may be stored and gives nothing away.
        """
        proof = [*([self.authorization] if self.authorization else []), *self.unsigned.proof]
        return _hash("&".join(proof)) if proof else ""


def parse_link(url: str) -> Link:
    """Return `url` as a link: host in ASCII (IDNA), path and query percent-encoded, no fragment.

    Raises:
        BadReferenceError: it is not an http or https URL with a host.
    """
    plain = PLAIN_URL.fullmatch(url)
    if plain is not None and plain[1] in _ORIGINS:
        return Link(url, _ORIGINS[plain[1]], plain=True)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadReferenceError(url, str(error)) from None
    scheme = parts.scheme.lower()
    if scheme not in DEFAULT_PORTS:
        reason = f"scheme {scheme!r} is not supported (http and https are)"
        raise BadReferenceError(url, reason if scheme else "it has no scheme, such as https://")
    if not host:
        raise BadReferenceError(url, "it has no host")
    try:
        # What IDNA makes of a plain name is the name; its codec takes time to import.
        ascii_host = (
            host
            if ":" in host or _PLAIN_HOST.fullmatch(host)
            else host.encode("idna").decode("ascii")
        )
    except UnicodeError:
        raise BadReferenceError(url, "its host is not a valid name") from None
    origin = Origin(scheme, ascii_host, port or DEFAULT_PORTS[scheme])
    path = quote(parts.path or "/", safe=_PATH_SAFE)
    query = quote(parts.query, safe=_QUERY_SAFE)
    whole = urlunsplit((scheme, _netloc(origin), path, query, ""))
    if plain is not None and whole == url:
        if len(_ORIGINS) >= _MOST_ORIGINS:
            _ORIGINS.clear()
        _ORIGINS[plain[1]] = origin
        return Link(url, origin, plain=True)
    return Link(whole, origin, _basic(parts.username, parts.password))


def opened_link(url: str, authorization: str | None, *, trusted: bool) -> Link:
    """Return `url` as a link with this Authorization value, which goes before one in the URL.

    Raises:
        BadReferenceError: it is not an http or https URL with a host.
    """
    link = parse_link(url)
    return replace(link, authorization=authorization or link.authorization, trusted=trusted)


def local_link(url: str) -> Link:
    """Return a file or data URL as a link. Calling this permits reading the file.

    No other function makes such a link, so no redirect and no service's answer can make pgetpy
    read a file of this machine.

    Raises:
        BadReferenceError: it is a file URL that names no path of this machine.
    """
    link = Link(url, Origin(url[:4].lower(), "", 0))
    _local_name(url)
    return link


def _local_name(url: str) -> str:
    """Return the one spelling under which a file URL's path is known; a data URL is its own."""
    if url[:5].lower() != "file:":
        return url
    parts = urlsplit(url)
    if parts.netloc.lower() not in ("", "localhost"):
        raise BadReferenceError(url, "the host of a file URL can only be localhost")
    if not parts.path.startswith("/"):
        raise BadReferenceError(url, "the path of a file URL must be absolute")
    raw = unquote(parts.path, errors="surrogateescape")
    return "file://" + quote(raw, safe=_PLAIN_PATH, errors="surrogateescape")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def follow(link: Link, location: str) -> Link:
    """Return where a redirect from `link` to `location` leads (RFC 9110, 10.2.2).

    Raises:
        TransferError: the location is not an http or https URL.
    """
    try:
        return parse_link(urljoin(link.url, _as_utf8(location.strip())))
    except (BadReferenceError, ValueError) as error:
        raise TransferError(link.url, f"redirected to a URL that cannot be used: {error}") from None


def may_see_credentials(owner: Origin, asked: Origin) -> bool:
    """Whether credentials meant for `owner` may be sent to `asked`.

    The same origin may, and the same host after a step up from http to https on the usual ports.
    """
    if owner == asked:
        return True
    upgraded = (owner.scheme, owner.port, asked.scheme, asked.port) == ("http", 80, "https", 443)
    return upgraded and owner.host == asked.host


def headers_for(asked: Origin, owner: Origin, headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return those of the caller's `headers`, meant for `owner`, that `asked` may see."""
    everything = may_see_credentials(owner, asked)
    return [
        (name, value)
        for name, value in headers.items()
        if everything or name.lower() in _HARMLESS_HEADERS
    ]


def _as_utf8(location: str) -> str:
    """Undo the reading of raw UTF-8, which some servers send, as Latin-1."""
    try:
        return location.encode("latin-1").decode()
    except UnicodeError:
        return location


def _netloc(origin: Origin) -> str:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    default = DEFAULT_PORTS[origin.scheme] == origin.port
    return host if default else f"{host}:{origin.port}"


def _basic(user: str | None, password: str | None) -> str | None:
    """The Authorization value of a user and password (RFC 7617)."""
    if user is None and password is None:
        return None
    return basic_authorization(unquote(user or ""), unquote(password or ""))


def basic_authorization(user: str, password: str) -> str:
    """Return the Authorization value of the Basic scheme (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
