"""Settings of a fleet: its cache nodes, or a cache service in their place.

Their options have a table of their own because few downloads need them: `settings.sections` knows
only their names, and the parser looks for a flag here if it is not in `settings.options`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pgetpy.core.fleet.node_list import (
    NodeList,
    cidr_mistake,
    read_cache_nodes,
    read_srv_by_cidr,
    srv_for_host,
)
from pgetpy.core.fleet.prefixes import parse_prefixes
from pgetpy.core.fleet.rewriting import CacheService
from pgetpy.core.text.values import (
    UNCHANGED,
    read_bool,
    read_go_switch,
    read_text,
    size_reader,
)
from pgetpy.errors import BadSettingError
from pgetpy.settings.options import Option, Texts, by_variable, variable

# What pget sends through cache nodes unless PGET_CACHE_URI_PREFIXES says otherwise.
USUAL_PREFIXES = ("https://weights.replicate.delivery",)

_BY_CIDR = "PGET_CACHE_NODES_SRV_NAME_BY_HOST_CIDR"

# Below this a piece costs more in requests than it spreads.
SMALLEST_PIECE = 1 << 20


def _prefixes(given: Texts, _name: str) -> object:
    """Read URL prefixes with blanks between them; none at all, as pget, as the usual ones."""
    texts = (given,) if isinstance(given, str) else given
    return tuple(each for text in texts for each in text.split()) or UNCHANGED


# fmt: off
ROWS: tuple[Option, ...] = (
    Option("cache-nodes", "", "NODES", "FleetSettings.given", read_cache_nodes,
           "cache nodes of a fleet: HOST[:PORT],HOST[:PORT], with https:// in front if they have "
           "TLS; or srv://NAME to look them up"),
    Option("cache-prefixes", "", "URL", "FleetSettings.prefixes", _prefixes,
           "what begins with this URL goes through the cache nodes; the variable holds several "
           "with blanks between them", many=True,
           default="https://weights.replicate.delivery", environ="PGET_CACHE_URI_PREFIXES"),
    Option("cache-piece", "", "SIZE", "FleetSettings.piece", size_reader(SMALLEST_PIECE),
           "bytes of a file that one cache node serves (default: 500MiB for nodes that are "
           "looked up, as pget, and 20MiB for a list)"),
    Option("no-cache-nodes", "", "", "FleetSettings.disabled", read_bool,
           "leave out the cache nodes, or the cache service, of the environment"),
)
# Variables without a flag: pget's.
VARIABLES: tuple[Option, ...] = (
    variable("FleetSettings.srv_name", read_text,
             "name whose SRV records list the cache nodes, as --cache-nodes srv://NAME",
             environ="PGET_CACHE_NODES_SRV_NAME"),
    variable("FleetSettings.srv_by_cidr", read_srv_by_cidr,
             "JSON object of networks and such names; the one whose network contains PGET_HOST_IP "
             "is used", environ=_BY_CIDR),
    variable("FleetSettings.host_ip", read_text, "address of this machine",
             environ="PGET_HOST_IP"),
    variable("FleetSettings.service_base", read_text,
             "URL of a cache service, which replaces scheme and host of the URLs given",
             environ="PGET_CACHE_SERVICE_HOSTNAME"),
    variable("FleetSettings.force_service", read_go_switch,
             "have all URLs go through the cache service, whatever their prefix",
             environ="PGET_FORCE_CACHE_PREFIX_REWRITE"),
    variable("FleetSettings.path_proxy", read_go_switch,
             "put the host of a URL in front of its path for cache nodes and the cache service",
             environ="PGET_CACHE_USE_PATH_PROXY"),
)
# fmt: on


@dataclass(frozen=True)
class FleetSettings:
    """Where cache nodes are, and what goes through them.

    Attributes:
        given: the nodes of --cache-nodes or PGET_CACHE_NODES. Wins over the next four.
        srv_name: PGET_CACHE_NODES_SRV_NAME.
        srv_by_cidr: PGET_CACHE_NODES_SRV_NAME_BY_HOST_CIDR, networks and SRV names.
        host_ip: PGET_HOST_IP, the address of this machine to find in those networks.
        service_base: PGET_CACHE_SERVICE_HOSTNAME, a URL that replaces the origin's.
        prefixes: URLs below these go through nodes or service.
        path_proxy: whether the origin's host becomes the first path element.
        force_service: whether all URLs go through the service, prefixes or not.
        piece: bytes of an object that one node serves; None for pget's 500 MiB where nodes are
            placed as pget does, and for 20 MiB otherwise.
        disabled: whether nodes and service are left out.
    """

    given: NodeList | None = None
    srv_name: str = ""
    srv_by_cidr: tuple[tuple[str, str], ...] = ()
    host_ip: str = ""
    service_base: str = ""
    prefixes: tuple[str, ...] = USUAL_PREFIXES
    path_proxy: bool = False
    force_service: bool = False
    piece: int | None = None
    disabled: bool = False

    @classmethod
    def of(
        cls,
        cache_nodes: str,
        *,
        cache_prefixes: Sequence[str] | None = None,
        cache_piece: int | None = None,
    ) -> FleetSettings:
        """Return settings with these cache nodes, and with pget's defaults for what is left out.

        Args:
            cache_nodes: `HOST[:PORT],HOST[:PORT]`, with https:// in front of those with TLS, or
                `srv://NAME`.
            cache_prefixes: what begins with these URLs goes through the nodes.
            cache_piece: bytes of a file that one node serves.

        Raises:
            BadSettingError: a value is invalid.
        """
        return cls().changed(cache_nodes, cache_prefixes, cache_piece)

    def changed(
        self,
        cache_nodes: str | None,
        cache_prefixes: Sequence[str] | None,
        cache_piece: int | None,
    ) -> FleetSettings:
        """As `of`, but leave as it is what is None. Without text, `cache_nodes` means none at all.

        Raises:
            BadSettingError: a value is invalid.
        """
        changes: dict[str, Any] = {}
        if cache_nodes is not None:
            given = read_cache_nodes(cache_nodes, "cache_nodes") if cache_nodes else None
            changes |= {"given": given, "disabled": given is None}
        if cache_prefixes is not None:
            changes["prefixes"] = tuple(cache_prefixes)
        if cache_piece is not None:
            if cache_piece < SMALLEST_PIECE:
                reason = f"must be at least {SMALLEST_PIECE} bytes"
                raise BadSettingError("cache_piece", str(cache_piece), reason)
            changes["piece"] = cache_piece
        return replace(self, **changes)

    @property
    def nodes(self) -> NodeList | None:
        """The nodes that are in use: the first that is set, in pget's order."""
        if self.disabled:
            return None
        if self.given is not None:
            return self.given
        srv = self.srv_name or srv_for_host(self.host_ip, self.srv_by_cidr)
        return NodeList(srv=srv) if srv else None

    @property
    def service(self) -> CacheService | None:
        """The service that is in use; None if there is none, or if there are nodes."""
        if self.disabled or self.nodes is not None or not self.service_base.strip():
            return None
        prefixes = parse_prefixes(self.prefixes)
        return CacheService(
            self.service_base.strip(), prefixes, self.path_proxy, self.force_service
        )

    @property
    def configured(self) -> bool:
        """Whether there are nodes or a service."""
        return self.nodes is not None or self.service is not None


def fleet_from(
    before: FleetSettings,
    environ: Mapping[str, str],
    flags: Mapping[str, Texts],
    warn: Callable[[str], object] = lambda _: None,
) -> FleetSettings:
    """Return `before` changed by the variables in `environ`, then by `flags`.

    `warn` is called with a sentence for each variable that pget would ignore in silence.

    Raises:
        BadSettingError: a value is invalid.
    """
    given: list[tuple[Option, Texts, str]] = [
        (row, environ[name], name)
        for name, row in by_variable((*VARIABLES, *ROWS)).items()
        if environ.get(name)
    ]
    given += [(row, flags[row.name], f"--{row.name}") for row in ROWS if row.name in flags]
    values = {row.field: row.read(text, name) for row, text, name in given}
    changes: dict[str, Any] = {k: value for k, value in values.items() if value is not UNCHANGED}
    changed = replace(before, **changes)
    by_cidr = environ.get(_BY_CIDR)
    if by_cidr and (mistake := cidr_mistake(by_cidr, changed.host_ip)):
        warn(f"{_BY_CIDR} has no effect: {mistake}")
    return changed
