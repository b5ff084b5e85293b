"""Options of the commands below `pgetpy node`. They have no environment variables."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

from pgetpy.core.fleet.node_list import NodeList, read_cache_nodes
from pgetpy.core.http.urls import Origin, parse_link
from pgetpy.core.nodes.nginx_config import MIB, PIECES, fits_configuration, host_names
from pgetpy.core.text.values import read_words, size_reader
from pgetpy.errors import BadReferenceError, BadSettingError
from pgetpy.settings.options import Option, Texts
from pgetpy.settings.sections import Section

_CONFIG = ("node config",)
_CHECK = ("node check",)
_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?")
_LISTEN = re.compile(r"(?:(?:[A-Za-z0-9.-]+|\*|\[[0-9A-Fa-f:.]+\]):)?[0-9]{1,5}")


def _origins(given: Texts, name: str) -> tuple[Origin, ...]:
    """Read URLs of origins, such as https://weights.example.

    Raises:
        BadSettingError: one is more than a host, or two of them have the same Host, which is all
            that a node learns from a client.
    """
    named: dict[str, Origin] = {}
    for text in read_words(given, name):
        origin = _origin(text, name)
        for host in host_names(origin):
            if named.setdefault(host, origin) != origin:
                reason = f"has the same Host as {named[host].scheme}://{host}: name one of them"
                raise BadSettingError(name, text, reason)
    return tuple(dict.fromkeys(named.values()))


def _origin(text: str, name: str) -> Origin:
    whole = text if "://" in text else f"https://{text}"
    try:
        origin = parse_link(whole).origin
    except BadReferenceError as error:
        raise BadSettingError(name, text, error.reason) from None
    if not (_HOST.fullmatch(origin.host) or _is_ipv6(origin.host)):
        raise BadSettingError(name, text, "has no valid host")
    parts = urlsplit(whole)
    if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise BadSettingError(name, text, "is more than scheme, host and port: leave out the rest")
    return origin


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _word(text: str, name: str) -> str:
    if not fits_configuration(text):
        reason = "has blanks, quotes or other characters that an nginx configuration cannot hold"
        raise BadSettingError(name, text, reason)
    return text


def _folder(text: str, name: str) -> str:
    if not text.startswith("/"):
        raise BadSettingError(name, text, "is not an absolute path")
    return _word(text, name)


def _listen(text: str, name: str) -> str:
    if not _LISTEN.fullmatch(text) or not 0 < int(text.rpartition(":")[2]) < 65536:
        raise BadSettingError(name, text, "is not a port, or an address and a port as 10.0.0.1:80")
    return text


def _resolvers(given: Texts, name: str) -> tuple[str, ...]:
    words = (_word(each, name) for each in read_words(given, name))
    return tuple(f"[{each}]" if _is_ipv6(each) else each for each in words)


def _nodes(given: Texts, name: str) -> NodeList:
    texts = (given,) if isinstance(given, str) else given
    return read_cache_nodes(",".join(texts), name)


class _PieceReader:
    """Reads the size of a piece, which has to be one of PIECES."""

    def __call__(self, text: str, name: str) -> int:
        size = int(size_reader(1)(text, name))
        if size not in PIECES:
            sizes = [f"{each // MIB}MiB" for each in PIECES]
            reason = f"is not one of {', '.join(sizes)}, which divide pget's slices of 500 MiB"
            raise BadSettingError(name, text, reason)
        return size


# fmt: off
ROWS: tuple[Option, ...] = (
    Option("origins", "", "URL", "NodeOptions.origins", _origins,
           "what may be fetched through the node, such as https://weights.example.com; several "
           "with commas between them", _CONFIG, many=True),
    Option("size", "", "SIZE", "NodeOptions.size", size_reader(100 * MIB),
           "disk space for what the node keeps", _CONFIG, default="100GiB"),
    Option("piece", "", "SIZE", "NodeOptions.piece", _PieceReader(),
           "bytes that the node fetches from the origin at a time: 4, 5, 10, 20, 25 or 50 MiB",
           _CONFIG, default="20MiB"),
    Option("listen", "", "[ADDRESS:]PORT", "NodeOptions.listen", _listen,
           "where the node listens (default: 80, with TLS 443)", _CONFIG),
    Option("folder", "", "DIR", "NodeOptions.folder", _folder,
           "folder on the node, which exists and is nginx's own", _CONFIG,
           default="/var/cache/pgetpy-node"),
    Option("resolver", "", "ADDRESS", "NodeOptions.resolvers", _resolvers,
           "name server of the node (default: those of this machine's /etc/resolv.conf)",
           _CONFIG, many=True),
    Option("ca-file", "", "FILE", "NodeOptions.ca_file", _word,
           "certificate authorities on the node, with which it checks origins", _CONFIG,
           default="/etc/ssl/certs/ca-certificates.crt"),
    Option("certificate", "", "FILE", "NodeOptions.certificate", _word,
           "certificate of the node, for TLS, as a PEM file on the node", _CONFIG),
    Option("certificate-key", "", "FILE", "NodeOptions.certificate_key", _word,
           "key of --certificate", _CONFIG),
    Option("token-file", "", "FILE", "NodeOptions.token_file", _word,
           "file on the node with lines '\"Bearer TOKEN\" 1;': only clients that send one of these "
           "as PGET_PROXY_AUTH_HEADER are served", _CONFIG),
    Option("node", "", "HOST[:PORT]", "NodeOptions.nodes", _nodes,
           "the node to check, https://HOST[:PORT] if it has TLS, or srv://NAME for all that it "
           "lists (default: the nodes of downloads, see PGET_CACHE_NODES)", _CHECK, many=True),
)
# fmt: on


@dataclass(frozen=True)
class NodeOptions(Section):
    """What a node is to be, and which nodes to check; see `core.nodes.nginx_config.NodeConfig`."""

    options: ClassVar[tuple[Option, ...]] = ROWS

    origins: tuple[Origin, ...] = ()
    size: int = 100 << 30
    piece: int = 20 * MIB
    listen: str = ""
    folder: str = "/var/cache/pgetpy-node"
    resolvers: tuple[str, ...] = ()
    ca_file: str = "/etc/ssl/certs/ca-certificates.crt"
    certificate: str = ""
    certificate_key: str = ""
    token_file: str = ""
    nodes: NodeList | None = None
