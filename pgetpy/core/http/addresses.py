"""Which IP addresses are hosts on the public internet, by a table of our own.

A policy that keeps strangers' URLs away from internal services depends on this answer.

The table follows IANA's registries of special-purpose addresses (iana-ipv4-special-registry and
iana-ipv6-special-registry, with the RFCs named there) and, for IPv6, the rule that nothing outside
2000::/3 has been allocated (ipv6-address-space). The answers of the standard library's
`is_private` and `is_global` change with its patch releases, so only its parsing is used here.

An IPv6 address may carry an IPv4 address to which the packets are translated. Then the carried one
counts: `64:ff9b::7f00:1` is 127.0.0.1 behind a NAT64.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NOT_PUBLIC_4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network (RFC 791); systems take 0.0.0.0 for themselves
        "10.0.0.0/8",  # private use (RFC 1918)
        "100.64.0.0/10",  # shared by carriers (RFC 6598), and by clouds for their services
        "127.0.0.0/8",  # loopback (RFC 1122)
        "168.63.129.16/32",  # in no registry: Azure's host answers its machines there
        "169.254.0.0/16",  # link local (RFC 3927): metadata services
        "172.16.0.0/12",  # private use (RFC 1918)
        "192.0.0.0/24",  # protocol assignments (RFC 6890); hosts of the network one is in
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.88.99.0/24",  # relays of 6to4 (RFC 7526)
        "192.168.0.0/16",  # private use (RFC 1918)
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved (RFC 1112), broadcast (RFC 8190)
    )
)

_GIVEN_OUT_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments (RFC 2928); Teredo, a part of it, is unwrapped before
        "2001:db8::/32",  # documentation (RFC 3849)
        "3fff::/20",  # documentation (RFC 9637)
    )
)

# Where an IPv6 address carries the IPv4 one: bits from the right.
_CARRIERS = (
    (IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped (RFC 4291)
    (IPv6Network("::/96"), 0),  # IPv4-compatible (RFC 4291)
    (IPv6Network("64:ff9b::/96"), 0),  # NAT64 (RFC 6052)
    (IPv6Network("2002::/16"), 80),  # 6to4 (RFC 3056)
)
# In 64:ff9b:1::/48 (RFC 8215) each network chooses the position of the IPv4 address itself. It need
# not be read: the prefix lies outside 2000::/3, so that none of it is public.
_TEREDO = IPv6Network("2001::/32")  # RFC 4380: the server's address, and the client's inverted
_THEMSELVES = (IPv6Address("::"), IPv6Address("::1"))

_PART = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")


def is_public(address: Address) -> bool:
    """Whether `address` is that of a host on the public internet."""
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return False  # only what is local has a zone
    return all(_is_public(each) for each in reached(address))


def reached(address: Address) -> tuple[Address, ...]:
    """Return where packets to `address` end up: the IPv4 addresses that it carries, or itself."""
    if isinstance(address, IPv4Address) or address in _THEMSELVES:
        return (address,)
    bits = int(address)
    for network, shift in _CARRIERS:
        if address in network:
            return (_ipv4(bits >> shift),)
    if address in _TEREDO:
        return _ipv4(bits >> 64), _ipv4(~bits)
    return (address,)


def read_address(text: str) -> Address | None:
    """Return the address that getaddrinfo or a caller has written as `text`; None if it is none."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def read_network(text: str) -> Network:
    """Return the network, or the one address, that is written as `text`.

    Raises:
        ValueError: it is none.
    """
    return ip_network(text)


def literal(host: str) -> Address | None:
    """Return the address that a URL's `host` is, or None if it is a name.

    Resolvers read IPv4 addresses as inet_aton does: one to four parts, each decimal, octal or
    hexadecimal, of which the last fills the bytes that are left (`127.1`, `0x7f.1`, `2130706433`).
    """
    if ":" in host:
        return read_address(host)
    parts = host.rstrip(".").split(".")
    if len(parts) > 4 or not all(_PART.fullmatch(part) for part in parts):
        return None
    try:
        *front, last = (_number(part) for part in parts)
    except ValueError:
        return None
    if any(number > 255 for number in front) or last >= 256 ** (4 - len(front)):
        return None
    value = last
    for place, number in enumerate(front):
        value |= number << 8 * (3 - place)
    return IPv4Address(value)


def _number(part: str) -> int:
    if part[:2].lower() == "0x":
        return int(part[2:] or "0", 16)
    # A number of this length is too large in any base, and converting a huge one is slow.
    if len(part) > 40:
        raise ValueError
    return int(part, 8 if part.startswith("0") else 10)


@lru_cache(maxsize=1024)
def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _GIVEN_OUT_6 and not any(address in network for network in _NOT_PUBLIC_6)


def _ipv4(bits: int) -> IPv4Address:
    return IPv4Address(bits & 0xFFFFFFFF)
