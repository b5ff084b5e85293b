"""Cache nodes as people name them: a list of hosts, or a name whose SRV records list them."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pgetpy.core.fleet.srv import USUAL_PORT
from pgetpy.errors import BadSettingError

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_PLACE = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>[0-9]{1,5}))?")
_EXPECTED = "is neither srv://NAME nor HOST[:PORT],HOST[:PORT]"
_TLS = "https://"
_TLS_PORT = 443


@dataclass(frozen=True)
class Node:
    """A cache node.

    Attributes:
        name: tells it from others: `host`, or `host:port` unless the port is 80; with https:// in
            front, and unless the port is 443, for one with TLS.
        host: to connect to; an IPv6 address without brackets.
        port: to connect to.
        index: its place in the list.
        tls: whether it is asked over TLS.
    """

    name: str
    host: str
    port: int
    index: int
    tls: bool = False


@dataclass(frozen=True)
class NodeList:
    """Which cache nodes there are: one of the two is set.

    Attributes:
        srv: the name whose SRV records at `_http._tcp.` list them. Placed by index, as pget does.
        names: the nodes themselves, each once, as `Node.name`. Placed by name.
    """

    srv: str = ""
    names: tuple[str, ...] = ()


def node_of(name: str, index: int) -> Node:
    """Return the node called `name`."""
    tls = name.startswith(_TLS)
    match = _PLACE.fullmatch(name.removeprefix(_TLS))
    assert match is not None
    port = int(match["port"] or (_TLS_PORT if tls else USUAL_PORT))
    return Node(name, match["host"].strip("[]"), port, index, tls)


def read_cache_nodes(text: str, name: str) -> NodeList:
    """Read `srv://NAME`, or hosts with commas or blanks between them.

    Those with TLS have https:// in front.

    Raises:
        BadSettingError: it is neither; `name` is the option or variable.
    """
    text = text.strip()
    if text.lower().startswith("srv://"):
        host = text[len("srv://") :].rstrip("/")
        if not _HOST.fullmatch(host):
            raise BadSettingError(name, text, "is not srv:// and a name such as cache.example.com")
        return NodeList(srv=host)
    names = tuple(dict.fromkeys(_name(each, name) for each in text.replace(",", " ").split()))
    if not names:
        raise BadSettingError(name, text, _EXPECTED)
    return NodeList(names=names)


def _name(text: str, option: str) -> str:
    """Return the one spelling of a HOST[:PORT]: machines that spell it otherwise place alike."""
    tls = text.lower().startswith(_TLS)
    match = _PLACE.fullmatch(text[len(_TLS) :].rstrip("/") if tls else text)
    if match is None or not _is_host(match["host"]):
        raise BadSettingError(option, text, _EXPECTED)
    usual = _TLS_PORT if tls else USUAL_PORT
    port = int(match["port"] or usual)
    if not 0 < port < 65536:
        raise BadSettingError(option, text, "has a port that is not from 1 to 65535")
    host = match["host"].lower().removesuffix(".")
    place = host if port == usual else f"{host}:{port}"
    return f"{_TLS}{place}" if tls else place


def _is_host(text: str) -> bool:
    if not text.startswith("["):
        return bool(_HOST.fullmatch(text))
    try:
        ipaddress.IPv6Address(text[1:-1])
    except ValueError:
        return False
    return True


def read_srv_by_cidr(text: str, _name: str = "") -> tuple[tuple[str, str], ...]:
    """Read a JSON object of networks and SRV names; as pget, anything else as an empty one."""
    try:
        parsed = json.loads(text)
    except ValueError:
        return ()
    pairs = parsed.items() if isinstance(parsed, dict) else ()
    return tuple((cidr, srv) for cidr, srv in pairs if isinstance(srv, str))


def cidr_mistake(text: str, host_ip: str) -> str:
    """Return why `srv_for_host` can find nothing in `text` for `host_ip`, a clause; else empty."""
    found = read_srv_by_cidr(text)
    if not found:
        return 'it is not a JSON object such as {"10.0.0.0/8": "nodes.example.com"}'
    if not host_ip:
        return "PGET_HOST_IP is not set"
    if not _is_address(host_ip):
        return f"PGET_HOST_IP {host_ip!r} is not an address"
    wrong = [cidr for cidr, _ in found if not _is_network(cidr)]
    return f"{wrong[0]!r} is not a network" if len(wrong) == len(found) else ""


def srv_for_host(host_ip: str, srv_by_cidr: Iterable[tuple[str, str]]) -> str:
    """Return the SRV name of the smallest network that contains `host_ip`; empty if none does.

    What is not an address or a network is ignored, as by pget, which takes any network that fits.
    """
    try:
        address = ipaddress.ip_address(host_ip.strip())
    except ValueError:
        return ""
    found = []
    for cidr, srv in srv_by_cidr:
        try:
            network = ipaddress.ip_network(cidr, strict=False)
        except ValueError:
            continue
        if "/" in cidr and address in network:
            found.append((network.prefixlen, srv))
    return max(found, default=(0, ""), key=lambda each: each[0])[1]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip())
    except ValueError:
        return False
    return True


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text
