"""What may be fetched for a stranger: rules over URLs, addresses, sizes and kinds of file.

A policy decides; asking about each URL before it is requested, and connecting to no address but
those that were judged, is done where hosts are looked up. What the operator has named himself (a
service's endpoint, a proxy that he trusts) is judged by no rule about addresses; whether references
to a service may be had, the lists of hosts say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from pgetpy.core.http.addresses import (
    Address,
    Network,
    is_public,
    literal,
    reached,
    read_address,
    read_network,
)
from pgetpy.core.http.urls import Origin, parse_link
from pgetpy.core.references.reference import Reference
from pgetpy.errors import BadSettingError, NotAllowedError
from pgetpy.errors.redact import redact

# Larger than any adapter, and than the single files of most models.
_PUBLIC_MAX_BYTES = 16 << 30
# Below lie the ports of mail, shells and the like, which are not to be bothered with requests.
_FIRST_FREE_PORT = 1024
# One sentence for names that do not exist and for those of internal hosts: a stranger is not to
# find out which of the two a name is.
NO_ADDRESS = "its host has no address that may be asked"
_RESERVED = "its host is the address of no public host"
_HINTS = {"allow_networks": "check its name; only hosts on the public internet are asked"}


@dataclass(frozen=True)
class Policy:
    """Rules for references that strangers give; `rule` of a NotAllowedError is a field's name.

    They hold for the first URL, mirrors, redirects and whatever a service points to. Headers,
    Authorization and netrc logins of the operator's settings are not sent under a policy.

    Attributes:
        schemes: of http, https and file. Data URIs ask nobody, and are always allowed.
        allow_hosts: names of the only hosts that may be asked, any where there are none;
            `*.example.com` stands for all names below example.com. References to a service
            (hf://OWNER/NAME) need the host of its endpoint, and those where its files are.
        deny_hosts: names of hosts that may not be asked, whatever is allowed.
        allow_networks: networks (`10.1.0.0/16`) that may be asked although they are not public.
        ports: those below 1024 that may be asked; all others may.
        max_bytes: how large an object, a folder, or what comes out of an archive may be.
        only_safetensors: whether only files that are checked to be safetensors may be had.
        trust_proxy: use the proxies of the environment; which addresses are asked is theirs to
            decide then.
        own_tokens: open references with the operator's own tokens for their services, so that
            strangers may have whatever he may.
    """

    schemes: tuple[str, ...] = ("https", "http")
    allow_hosts: tuple[str, ...] = ()
    deny_hosts: tuple[str, ...] = ()
    allow_networks: tuple[str, ...] = ()
    ports: tuple[int, ...] = (80, 443)
    max_bytes: int | None = None
    only_safetensors: bool = False
    trust_proxy: bool = False
    own_tokens: bool = False
    _networks: tuple[Network, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("schemes", "allow_hosts", "deny_hosts", "allow_networks", "ports"):
            value = getattr(self, name)
            if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
                raise BadSettingError(name, value, "is no tuple")
            object.__setattr__(self, name, tuple(value))
        unknown = set(self.schemes) - {"http", "https", "file"}
        if unknown:
            raise BadSettingError("schemes", min(unknown), "is none of http, https and file")
        for name in ("allow_hosts", "deny_hosts"):
            patterns = tuple(_pattern(text, name) for text in getattr(self, name))
            object.__setattr__(self, name, patterns)
        networks = tuple(_network(text) for text in self.allow_networks)
        object.__setattr__(self, "_networks", networks)

    @classmethod
    def public(cls) -> Policy:
        """Return the rules for a predictor that anybody may call.

        https alone: what answers inside a network, metadata services above all, has no certificate
        for a name of the stranger's, so that even an address that no table knows gives nothing;
        and nobody between can put other weights in their place.
        """
        return cls(schemes=("https",), max_bytes=_PUBLIC_MAX_BYTES, only_safetensors=True)

    @property
    def mark(self) -> str:
        """A text in which policies agree that let the same hosts be asked."""
        rules = (self.schemes, self.allow_hosts, self.deny_hosts, self.allow_networks, self.ports)
        text = repr((rules, self.trust_proxy))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check_reference(self, reference: Reference) -> None:
        """Judge what a stranger has given, as far as that can be done without asking anybody.

        Of a service the lists of hosts judge the endpoint; where it leads is judged as it comes.

        Raises:
            NotAllowedError: it may not be had.
        """
        if reference.local and reference.by_content:
            return  # it has the bytes in it
        if reference.local and "file" not in self.schemes:
            raise NotAllowedError(str(reference), "schemes", "files of this machine are not given")
        if reference.service:
            found = _refusal_of(self, reference.service, names_only=True)
            if found is not None:
                raise NotAllowedError(str(reference), *found)
        elif reference.link is not None and not reference.local:
            self.check_url(reference.text)

    def check_url(self, url: str) -> None:
        """Judge `url`; see `check_origin`."""
        found = _refusal_of(self, url)
        if found is not None:
            raise NotAllowedError(url, *found, hint=_HINTS.get(found[0], ""))

    def check_origin(self, origin: Origin, url: str) -> None:
        """Judge the scheme, the port and the host of `url`, without looking its name up.

        Raises:
            NotAllowedError: it may not be asked.
        """
        found = self._refusal(origin)
        if found is not None:
            raise NotAllowedError(url, *found, hint=_HINTS.get(found[0], ""))

    def admits(self, address: str) -> bool:
        """Whether a host that is found at IP address `address` may be asked."""
        found = read_address(address)
        if found is None:
            return False
        return is_public(found) or all(
            any(each in network for network in self._networks) for each in reached(found)
        )

    def no_address(self, url: str) -> NotAllowedError:
        """Return the error for a host that has no address which may be asked."""
        return NotAllowedError(url, "allow_networks", NO_ADDRESS, hint=_HINTS["allow_networks"])

    @staticmethod
    def not_safetensors(shown: str, reason: str, *, hint: str = "") -> NotAllowedError:
        """Return the error for what `only_safetensors` forbids."""
        return NotAllowedError(shown, "only_safetensors", reason, hint=hint)

    def _refusal(self, origin: Origin) -> tuple[str, str] | None:
        """Return the rule that forbids `origin`, and why."""
        if origin.scheme not in self.schemes:
            return "schemes", f"{origin.scheme} is not one of {', '.join(self.schemes)}"
        if origin.port < _FIRST_FREE_PORT and origin.port not in self.ports:
            return "ports", f"port {origin.port} may not be asked"
        found = self._refusal_of_name(origin)
        if found is not None:
            return found
        address = literal(origin.host)
        if address is not None and not self.admits(str(address)):
            return "allow_networks", _RESERVED
        return None

    def _refusal_of_name(self, origin: Origin) -> tuple[str, str] | None:
        """Return the list that forbids the host of `origin`, and why."""
        address = literal(origin.host)
        host = _spelt(address) if address is not None else origin.host.lower().rstrip(".")
        if any(_names(pattern, host) for pattern in self.deny_hosts):
            return "deny_hosts", "its host may not be asked"
        if self.allow_hosts and not any(_names(pattern, host) for pattern in self.allow_hosts):
            return "allow_hosts", "its host is none of those that may be asked"
        return None


# It runs at every cache hit.
@lru_cache(maxsize=1024)
def _refusal_of(policy: Policy, url: str, *, names_only: bool = False) -> tuple[str, str] | None:
    origin = parse_link(url).origin
    return policy._refusal_of_name(origin) if names_only else policy._refusal(origin)


def _spelt(address: Address) -> str:
    """Return `address`, or the one that it carries, in the one spelling that is compared."""
    return " ".join(str(each) for each in reached(address))


def _names(pattern: str, host: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _pattern(text: str, name: str) -> str:
    """Return a pattern of host names in the form in which hosts are compared."""
    star = "*." if text.startswith("*.") else ""
    host = text[len(star) :].strip().rstrip(".")
    address = literal(host.strip("[]"))
    if address is not None and not star:
        return _spelt(address)
    try:
        found = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        found = ""
    if not found or set(found) & set("*/:@ "):
        raise BadSettingError(name, redact(text), "is neither a host's name nor *. and a name")
    return star + found


def _network(text: str) -> Network:
    try:
        return read_network(text)
    except ValueError as error:
        raise BadSettingError("allow_networks", text, str(error)) from None
