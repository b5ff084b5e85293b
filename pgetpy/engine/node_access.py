"""Cache nodes as the engine uses them: which one to ask, the request, and what came of it.

A request to a node is the request to the origin, over plain HTTP, with the origin's name as Host,
and without anything that is a secret between user and origin. So only what needs no credentials
goes through nodes: what a node holds it serves to everyone.

All transfers of an engine share one `NodeAccess`, and all engines of a process what is known of a
node's health. The nodes count as one host for the pace: how many connections pay depends on this
machine's network rather than on a single node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Set
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pgetpy.core.fleet.health import NodeHealth
from pgetpy.core.http.pace import ConcurrencyController
from pgetpy.core.http.ranges import Span, format_range
from pgetpy.core.http.urls import Link, Origin, headers_for
from pgetpy.engine.credentials import needs_credentials
from pgetpy.engine.hosts import Host
from pgetpy.engine.transports.base import USER_AGENT, Address, Request
from pgetpy.engine.transports.probing import answers
from pgetpy.system.cpu_load import machine_load
from pgetpy.system.logs import RoomLog
from pgetpy.system.metrics_file import METRICS_FILE

if TYPE_CHECKING:
    from pgetpy.core.fleet.node_list import Node
    from pgetpy.engine.hosts import Hosts
    from pgetpy.fleet.nodes import CacheNodes
    from pgetpy.settings import Settings

# Seconds for the connection to a node: it is near, or it is gone.
CONNECT_SECONDS = 1.0
# Seconds for a node to answer a probe, connecting included.
PROBE_SECONDS = 1.0
_HEADERS = (("User-Agent", USER_AGENT), ("Accept", "*/*"), ("Accept-Encoding", "identity"))
_LOG = RoomLog("fleet")

Probe = Callable[[Request, float], Awaitable[bool]]

_HEALTH: WeakKeyDictionary[CacheNodes, NodeHealth] = WeakKeyDictionary()


class NodeAccess:
    """The cache nodes of one engine.

    Args:
        nodes: those of the process.
        settings: headers, and the nodes' own Authorization value.
        hosts: logins of ~/.netrc, and limits.
        probe: returns whether a server answers, see `transports.probing`.

    Attributes:
        nodes: as given.
        host: stands for all nodes together: their pace, rate and latency.
    """

    def __init__(
        self, nodes: CacheNodes, settings: Settings, hosts: Hosts, probe: Probe = answers
    ) -> None:
        self.nodes = nodes
        self._probe = probe
        self._settings = settings
        self._hosts = hosts
        self._loop = asyncio.get_running_loop()
        self._health = _HEALTH.setdefault(nodes, NodeHealth())
        self._known: dict[str, Node] = {}
        pace = ConcurrencyController(hosts.ceiling, 1, machine_load)
        self.host = Host(Origin("http", "cache nodes", 0), (), None, pace, _told=pace.level)

    def takes(self, url: str, link: Link) -> bool:
        """Whether the object goes through the nodes: it is covered, and needs no credentials.

        Args:
            url: as the user wrote it.
            link: the same, parsed.
        """
        if not link.origin.host or not self.nodes.covers(url):
            return False
        private = needs_credentials(link, self._settings, self._hosts)
        if private:
            _LOG.debug("%s needs credentials, and does not go through cache nodes", link)
        return not private

    async def choose(
        self, url: str, piece: int, failed: Set[str]
    ) -> tuple[Node, tuple[Address, ...]] | None:
        """Return the node to ask for a piece, with its addresses; None means the origin.

        Args:
            url: as the user wrote it.
            piece: its index.
            failed: names of nodes that have failed this transfer.
        """
        for node in await self.nodes.choices(url, piece):
            if node.name in failed or not self._health.admits(node.name, self._loop.time()):
                continue
            self._known[node.name] = node
            try:
                return node, await self._addresses(node)
            except (OSError, UnicodeError) as error:
                self.lost(node.name, 0.0, f"its name cannot be resolved ({error})")
        return None

    async def _addresses(self, node: Node) -> tuple[Address, ...]:
        """Return where to connect to `node`; --resolve goes before its name.

        Raises:
            OSError: its name cannot be resolved.
        """
        given = self._settings.resolve.get((node.host, node.port), "")
        found = await self.nodes.addresses(node, given)
        return tuple(Address(family, sockaddr) for family, sockaddr in found)

    def asked_for(self, url: str) -> str:
        """Return Host and target of a request to a node, which make its URL without the scheme."""
        asked = self.nodes.request(url)
        return f"{asked.host}{asked.target}"

    def request(
        self,
        node: Node,
        addresses: tuple[Address, ...],
        url: str,
        origins: tuple[Origin, Origin],
        asked: Span,
    ) -> Request:
        """Return the request to `node` for a range of the object.

        It has no If-Range: nginx would fetch the first slice for it.

        Args:
            node: to ask.
            addresses: of the node.
            url: the object's, as the user wrote it.
            origins: its origin, and the one that the user's headers are meant for.
            asked: the range.
        """
        METRICS_FILE.count("pgetpy_node_requests_total", label=node.name)
        headers = headers_for(*origins, self._settings.headers)
        names = {name.lower() for name, _ in headers}
        headers[:0] = [each for each in _HEADERS if each[0].lower() not in names]
        headers.append(("Range", format_range(asked)))
        if self._settings.proxy_authorization is not None:
            headers.append(("Authorization", self._settings.proxy_authorization))
        return Request(
            url=f"{'https' if node.tls else 'http'}://{self.asked_for(url)}",
            headers=tuple(headers),
            addresses=addresses,
            proxy=None,
            tls=self._hosts.tls() if node.tls else None,
            connect_timeout=CONNECT_SECONDS,
            trusted=True,
            node=node.name,
            tls_name=node.host,
        )

    def is_down(self, name: str) -> bool:
        """Whether the node called `name` has failed, and not answered since."""
        return self._health.is_down(name, self._loop.time())

    def answered(self, name: str) -> None:
        """Record that the node called `name` has answered."""
        METRICS_FILE.note("pgetpy_node_down", 0, name)
        self._health.answered(name)

    def failed(self, name: str) -> None:
        """Record that a request to the node called `name` has failed; `lost` may be called too."""
        METRICS_FILE.count("pgetpy_node_failures_total", label=name)

    def lost(self, name: str, age: float, reason: str) -> None:
        """Record that the node called `name` cannot be reached, or is silent.

        Args:
            name: of the node.
            age: seconds since the request was made that failed.
            reason: a clause for the log.
        """
        now = self._loop.time()
        METRICS_FILE.note("pgetpy_node_down", 1, name)
        if self._health.lost(name, now, now - age):
            _LOG.warning("cache node %s is not asked for now: %s", name, reason)
        if name in self._known:
            self.nodes.report_lost(self._known[name])

    def lied(self, name: str, reason: str) -> None:
        """Record that the node called `name` has sent what is not the object."""
        _LOG.warning("cache node %s is not asked any more in this run: %s", name, reason)
        METRICS_FILE.note("pgetpy_node_down", 1, name)
        self.failed(name)
        self._health.lied(name)

    async def probe(self, name: str) -> bool | None:
        """Return whether the silent node called `name` answers on a new connection.

        If it does it is filling: those who wait get nothing until a whole piece has come from the
        origin. None where another probe is under way.
        """
        node = self._known[name]
        if not self._health.may_probe(name, self._loop.time()):
            return None
        try:
            addresses = await self._addresses(node)
            url = f"{name}/" if node.tls else f"http://{name}/"
            tls = self._hosts.tls() if node.tls else None
            request = Request(url, (), addresses, None, tls, PROBE_SECONDS, trusted=True)
            alive = await self._probe(request, PROBE_SECONDS)
        except (OSError, UnicodeError):
            alive = False
        finally:
            self._health.probed(name)
        if alive:
            self.answered(name)
        return alive
