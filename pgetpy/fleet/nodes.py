"""Which cache node to ask for a piece: nodes by list or by look-up, and their order of preference.

    settings --> srv://NAME --look-up, every 30 s--> list with holes --jump hash-->     choices
             --> HOST,HOST  --------------------------------------> rendezvous hash --> choices

A list from a look-up is used while the next look-up runs: only the first one is waited for. If it
fails there are no nodes, and everything comes from the origin until a later one succeeds. One that
fails later leaves the last list in use: nodes may be there although the name server is not.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache

from pgetpy.core.fleet.go_urls import GoUrl, parse_go_url
from pgetpy.core.fleet.node_list import Node, node_of
from pgetpy.core.fleet.prefixes import parse_prefixes, useless_prefixes
from pgetpy.core.fleet.rewriting import NodeRequest, node_request
from pgetpy.core.placement.jump import SLICE, places
from pgetpy.core.placement.rendezvous import ranked
from pgetpy.errors.redact import unsigned
from pgetpy.fleet.srv_lookup import NodeLookupError, look_up_srv
from pgetpy.settings.fleet_settings import FleetSettings
from pgetpy.system.forks import call_in_children
from pgetpy.system.logs import RoomLog
from pgetpy.system.threads import WORKERS

# How many nodes are asked for a piece before the origin is.
MOST_CHOICES = 4
# How many places of a list with holes and lost nodes are looked at to find these.
_MOST_PLACES = 16
# What one node serves of an object where nodes are placed by name; nginx's slices divide it.
NAMED_PIECE = 20 << 20
_RENEW_SECONDS = 30.0
# After a loss the list may have changed, but a hundred losses need only one look-up.
_RENEW_AFTER_LOSS_SECONDS = 5.0
# A pod that restarts keeps its name and gets another address.
_ADDRESS_SECONDS = 30.0

_LOG = RoomLog("fleet")
# Socket family and address, as getaddrinfo gives them.
NodeAddress = tuple[int, tuple[str | int | bytes, ...]]


class CacheNodes:
    """The cache nodes of a process. May be used from several event loops and threads.

    Args:
        settings: must have nodes; a service is not one.
        look_up: returns the list for an SRV name, see `look_up_srv`; runs in a thread.
        now: a clock in seconds.
    """

    def __init__(
        self,
        settings: FleetSettings,
        look_up: Callable[[str], tuple[str, ...]] = look_up_srv,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        nodes = settings.nodes
        assert nodes is not None
        self._nodes = nodes
        self._path_proxy = settings.path_proxy
        self._prefixes = parse_prefixes(settings.prefixes)
        for prefix in useless_prefixes(settings.prefixes):
            _LOG.warning(
                "cache prefix %s covers nothing: write it as https://HOST/PATH, with blanks between"
                " several",
                prefix,
            )
        self._look_up = look_up
        self._now = now
        # The bytes of an object that one node serves; a range must not cross their borders.
        self.piece_size = settings.piece or (SLICE if nodes.srv else NAMED_PIECE)
        # None before the first look-up has ended.
        self._names: tuple[str, ...] | None = None if nodes.srv else nodes.names
        self._warned = False
        self._begin()
        call_in_children(self._begin)

    def _begin(self) -> None:
        """Begin without a look-up under way; also in a forked child, where its thread is not."""
        self._changed = threading.Lock()
        self._pending: Future[None] | None = None
        self._looked_up_at = float("-inf")
        self._addresses: dict[str, tuple[float, tuple[NodeAddress, ...]]] = {}

    def covers(self, url: str) -> bool:
        """Whether `url`, as the user wrote it, is under a prefix that goes through the nodes, and
        means the same object there."""
        parsed = _parsed(url)
        if parsed is None or not parsed.host.isascii():
            return False
        if self._path_proxy and parsed.doubles_slashes:
            return False
        return self._prefixes.cover(parsed)

    def request(self, url: str) -> NodeRequest:
        """Return what to ask a node for, to get `url` through it."""
        parsed = _parsed(url)
        assert parsed is not None
        return node_request(parsed, path_proxy=self._path_proxy)

    async def choices(
        self, url: str, piece: int, failed: frozenset[str] = frozenset()
    ) -> tuple[Node, ...]:
        """Return the nodes to ask for a piece, the most preferred first; none means the origin.

        Leaving a node out changes neither the order of the others nor their preference, so machines
        that have lost different nodes still agree on the rest.

        Args:
            url: the origin's, as the user wrote it: with nodes from a look-up, pget hashes it so.
            piece: the index of the piece, its offset by `piece_size`.
            failed: names of nodes not to return.
        """
        parsed = _parsed(url)
        names = await self._list()
        if parsed is None or not names:
            return ()
        if not self._nodes.srv:
            left = [name for name in names if name not in failed]
            best = ranked(_object_of(parsed), piece, left, MOST_CHOICES)
            return tuple(node_of(name, names.index(name)) for name in best)
        found: list[Node] = []
        for count, index in enumerate(places(str(parsed), piece, len(names))):
            if count == _MOST_PLACES or len(found) == MOST_CHOICES:
                break
            if names[index] and names[index] not in failed:
                found.append(node_of(names[index], index))
        return tuple(found)

    def report_lost(self, node: Node) -> None:
        """Have the list, and the node's addresses, looked up again at their next use."""
        with self._changed:
            self._addresses.pop(node.name, None)
            latest = self._now() - (_RENEW_SECONDS - _RENEW_AFTER_LOSS_SECONDS)
            self._looked_up_at = min(self._looked_up_at, latest)

    async def addresses(self, node: Node, given: str = "") -> tuple[NodeAddress, ...]:
        """Return where to connect to `node`: (family, sockaddr) pairs in order of preference.

        Args:
            node: one of `choices`.
            given: an address that --resolve puts in place of the node's name, if it does.

        Raises:
            OSError: its name cannot be resolved.
        """
        with self._changed:
            until, known = self._addresses.get(node.name, (0.0, ()))
        if known and self._now() < until and not given:
            return known
        host = given or node.host
        found = await WORKERS.submit(
            lambda: socket.getaddrinfo(host, node.port, type=socket.SOCK_STREAM)
        )
        pairs = tuple(
            (int(family), (str(sockaddr[0]), *sockaddr[1:])) for family, _, _, _, sockaddr in found
        )
        if not given:
            with self._changed:
                self._addresses[node.name] = (self._now() + _ADDRESS_SECONDS, pairs)
        return pairs

    async def _list(self) -> tuple[str, ...]:
        """Return the nodes; begins a look-up if one is due, and waits only for the first."""
        if not self._nodes.srv:
            return self._nodes.names
        with self._changed:
            pending = self._pending
            begins = pending is None and self._now() - self._looked_up_at >= _RENEW_SECONDS
            if begins:
                pending = self._pending = Future()
            names = self._names
        if begins and pending is not None:
            job = pending
            WORKERS.start(lambda: self._renew(job))
        if names is None and pending is not None:
            # Shielded: a transfer that is cancelled must not end the wait of the others.
            await asyncio.shield(asyncio.wrap_future(pending))
        return self._names or ()

    def _renew(self, pending: Future[None]) -> None:
        """Look the nodes up. Runs in a thread."""
        names = self._names or ()
        try:
            names = self._look_up(self._nodes.srv)
            _LOG.debug("cache nodes of %s: %s", self._nodes.srv, " ".join(names))
        except NodeLookupError as error:
            self._failed(str(error))
        finally:
            with self._changed:
                self._names = names
                self._looked_up_at = self._now()
                self._pending = None
            pending.set_result(None)

    def _failed(self, reason: str) -> None:
        use = "the last list is used" if self._names else "everything comes from the origin"
        if not self._warned:
            self._warned = True
            _LOG.warning("cache nodes of %s were not found: %s; %s", self._nodes.srv, reason, use)


_SHARED: dict[FleetSettings, CacheNodes] = {}


def shared_nodes(settings: FleetSettings) -> CacheNodes:
    """Return the cache nodes of this process for `settings`, which must have some.

    Shared by all engines of the process, so that a name server that does not answer costs one
    time-out, and not one for each download.
    """
    return _SHARED.setdefault(settings, _SHARED.get(settings) or CacheNodes(settings))


@lru_cache(maxsize=64)
def _parsed(url: str) -> GoUrl | None:
    return parse_go_url(url)


@lru_cache(maxsize=64)
def _object_of(url: GoUrl) -> str:
    """Return what `url` names, without what may differ from machine to machine: its signature."""
    return unsigned(str(replace(url, user=None, host=url.host.lower(), fragment=""))).url
