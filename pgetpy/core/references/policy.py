"""What may be fetched for untrusted callers: rules on URLs, addresses, sizes and kinds of file.

The danger is server-side request forgery: someone who may pass a URL to a predictor makes it fetch
from hosts that only the predictor can reach, such as a cloud's metadata service at 169.254.169.254.
Checking the URL is not enough, as its host name may resolve to any address, and to a different one
the next time. So a URL is judged before each request, redirects included, and the connection is
made only to addresses that were judged.

A policy decides; it is enforced where hosts are looked up. What the operator has configured (a
service's endpoint, a trusted proxy) is exempt from the rules on addresses; the host lists still
decide whether references to that service are allowed.
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

# More than any LoRA, and than single files of most models.
_PUBLIC_MAX_BYTES = 16 << 30
# Lower ports belong to mail, remote shells and the like, which could be attacked by requests.
_FIRST_FREE_PORT = 1024
# The same sentence for a name that does not exist and one that resolves to an internal host: the
# error must not reveal which internal names exist.
NO_ADDRESS = "its host has no address that is allowed"
_RESERVED = "its host is not a public address"
_HINTS = {"allow_networks": "check its name; only hosts on the public internet are allowed"}


@dataclass(frozen=True)
class Policy:
    """Rules for references from untrusted callers.

    They apply to the first URL, to mirrors, to redirects and to any URL that a service returns. The
    operator's headers, Authorization and netrc logins are not sent under a policy. The `rule` of a
    NotAllowedError is the name of a field here.

    Attributes:
        schemes: of http, https and file. Data URIs (RFC 2397) need no request and are always
            allowed.
        allow_hosts: the only hosts that may be contacted; empty allows any. `*.example.com` matches
            all names below example.com. A reference to a service (hf://OWNER/NAME) needs the hosts
            of its endpoint and of its files.
        deny_hosts: hosts that may never be contacted, even if allowed above.
        allow_networks: networks such as `10.1.0.0/16` that are allowed although not public.
        ports: the allowed ports below 1024; higher ones are all allowed.
        max_bytes: the largest object, folder, or sum of extracted files.
        only_safetensors: only give out files that were checked to be safetensors.
        trust_proxy: use the proxies of the environment. The proxy then decides which addresses are
            contacted.
        own_tokens: use the operator's own tokens for services. Callers can then fetch anything that
            the operator can.
        share: let what was fetched be copied to the cache's remote tier.
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
    share: bool = True
    _networks: tuple[Network, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("schemes", "allow_hosts", "deny_hosts", "allow_networks", "ports"):
            value = getattr(self, name)
            if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
                raise BadSettingError(name, value, "is not a tuple")
            object.__setattr__(self, name, tuple(value))
        unknown = set(self.schemes) - {"http", "https", "file"}
        if unknown:
            raise BadSettingError("schemes", min(unknown), "is not one of http, https and file")
        for name in ("allow_hosts", "deny_hosts"):
            patterns = tuple(_pattern(text, name) for text in getattr(self, name))
            object.__setattr__(self, name, patterns)
        networks = tuple(_network(text) for text in self.allow_networks)
        object.__setattr__(self, "_networks", networks)

    @classmethod
    def public(cls) -> Policy:
        """Return the rules for a predictor that anyone may call.

        https only: services inside a network, metadata services above all, have no certificate for
        a name of the caller's choice, so even an address that no table lists gives nothing away. It
        also keeps others on the network from replacing the weights.
        """
        return cls(schemes=("https",), max_bytes=_PUBLIC_MAX_BYTES, only_safetensors=True)

    @property
    def mark(self) -> str:
        """A text that is equal for policies that allow the same hosts."""
        rules = (self.schemes, self.allow_hosts, self.deny_hosts, self.allow_networks, self.ports)
        text = repr((rules, self.trust_proxy))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check_reference(self, reference: Reference) -> None:
        """Judge a caller's reference as far as possible without a request.

        For a service, the host lists are applied to its endpoint; URLs that it returns are judged
        when they are used.

        Raises:
            NotAllowedError: it is not allowed.
        """
        if reference.local and reference.by_content:
            return  # a data URI contains its bytes
        if reference.local and "file" not in self.schemes:
            raise NotAllowedError(str(reference), "schemes", "local files are not allowed")
        if reference.service:
            found = _refusal_of(self, reference.service, names_only=True)
            if found is not None:
                raise NotAllowedError(str(reference), *found)
        elif reference.link is not None and not reference.local:
            self.check_url(reference.text)

    def check_url(self, url: str) -> None:
        """Judge `url`; see `check_origin`.

        Raises:
            NotAllowedError: it is not allowed.
        """
        found = _refusal_of(self, url)
        if found is not None:
            raise NotAllowedError(url, *found, hint=_HINTS.get(found[0], ""))

    def check_origin(self, origin: Origin, url: str) -> None:
        """Judge scheme, port and host name of `url`, without resolving the name.

        Raises:
            NotAllowedError: it is not allowed.
        """
        found = self._refusal(origin)
        if found is not None:
            raise NotAllowedError(url, *found, hint=_HINTS.get(found[0], ""))

    def admits(self, address: str) -> bool:
        """Whether a connection to the IP address `address` is allowed."""
        found = read_address(address)
        if found is None:
            return False
        return is_public(found) or all(
            any(each in network for network in self._networks) for each in reached(found)
        )

    def no_address(self, url: str) -> NotAllowedError:
        """Return the error for a host without any allowed address."""
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
            return "ports", f"port {origin.port} is not allowed"
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
            return "deny_hosts", "its host is denied"
        if self.allow_hosts and not any(_names(pattern, host) for pattern in self.allow_hosts):
            return "allow_hosts", "its host is not one of those that are allowed"
        return None


# Cached: this runs on every cache hit.
@lru_cache(maxsize=1024)
def _refusal_of(policy: Policy, url: str, *, names_only: bool = False) -> tuple[str, str] | None:
    origin = parse_link(url).origin
    return policy._refusal_of_name(origin) if names_only else policy._refusal(origin)


def _spelt(address: Address) -> str:
    """Return `address`, or the IPv4 address embedded in it, in one canonical spelling."""
    return " ".join(str(each) for each in reached(address))


def _names(pattern: str, host: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _pattern(text: str, name: str) -> str:
    """Return a host pattern in the form in which host names are compared."""
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
        raise BadSettingError(name, redact(text), "is neither a host name nor *. followed by one")
    return star + found


def _network(text: str) -> Network:
    try:
        return read_network(text)
    except ValueError as error:
        raise BadSettingError("allow_networks", text, str(error)) from None
