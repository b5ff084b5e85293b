"""An origin and cache nodes on loopback: each a strict server, which a test may let misbehave."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pgetpy
from pgetpy.core.fleet.node_list import NodeList
from pgetpy.fleet.nodes import CacheNodes
from pgetpy.settings.fleet_settings import FleetSettings

from .bodies import body
from .faults import Fault, SilenceBeforeHead
from .fetching import extract, fetch
from .resources import Resource
from .server import Server

# No server is called so: what is asked of this host is the origin's, wherever it is asked.
HOST = "weights.example"
PATH = "/model"
PIECE = 50_000
# Nine pieces, the last of them short.
BODY = body(8 * PIECE + 1234)


class Fleet:
    """An origin and nodes that have the same object.

    Attributes:
        origin: the origin.
        nodes: the cache nodes, the one that serves most pieces of the object first.
    """

    def __init__(self, origin: Server, nodes: Sequence[Server]) -> None:
        self.origin = origin
        self.nodes = list(nodes)
        for server in self.servers:
            server.add(PATH, Resource(BODY))
        served = Counter(self._serving())
        self.nodes.sort(key=lambda node: -served[self.name(node)])

    def _serving(self) -> list[str]:
        """The name of the node that each piece is asked of."""
        nodes = CacheNodes(self.settings()["fleet"])
        pieces = range(-(-len(BODY) // PIECE))
        return [asyncio.run(nodes.choices(self.url, piece))[0].name for piece in pieces]

    @property
    def servers(self) -> list[Server]:
        return [self.origin, *self.nodes]

    @property
    def url(self) -> str:
        """The URL of the object at the origin."""
        return self.origin.url(PATH, host=HOST)

    @staticmethod
    def name(node: Server) -> str:
        """What the result calls `node`."""
        return f"127.0.0.1:{node.port}"

    def settings(self, *more: str, **changes: Any) -> dict[str, Any]:
        """Return settings that send what is below the origin through the nodes, and `more` ones."""
        names = (*map(self.name, self.nodes), *more)
        fleet = FleetSettings(
            given=NodeList(names=names),
            prefixes=(self.origin.url("/", host=HOST),),
            piece=PIECE,
        )
        resolve = {(HOST, self.origin.port): "127.0.0.1"}
        return {"fleet": fleet, "resolve": resolve, **changes}

    def fetch(self, dest: Path, *more: str, **changes: Any) -> pgetpy.DownloadResult:
        """Download the object through the nodes."""
        return fetch(self.url, dest, **self.settings(*more, **changes))

    def extract(self, folder: Path, **changes: Any) -> pgetpy.DownloadResult:
        """Extract the object, an archive, through the nodes."""
        return extract(self.url, folder, **self.settings(**changes))

    def set(self, server: Server, *faults: Fault, data: bytes = BODY, **fields: Any) -> None:
        """Have `server` serve the object, `data`, with `faults`."""
        server.add(PATH, Resource(data, faults=faults, **fields))

    def hold(self, data: bytes, **fields: Any) -> None:
        """Have all servers serve `data`."""
        for server in self.servers:
            self.set(server, data=data, **fields)

    def deafen(self, node: Server) -> None:
        """Have `node` answer no probe either: it accepts connections, as a stopped process does."""
        node.add("*", Resource(faults=[SilenceBeforeHead()]))

    def asked(self, node: Server) -> list[tuple[int, int]]:
        """The ranges that `node` was asked for."""
        spans = node.asked(PATH)
        return [(span[0] or 0, span[1] or 0) for span in spans if span is not None]


@contextmanager
def fleet_of(count: int) -> Iterator[Fleet]:
    """Start an origin and `count` nodes; they must have seen no request that RFC 9110 forbids."""
    with ExitStack() as stack:
        servers = [stack.enter_context(Server()) for _ in range(count + 1)]
        yield Fleet(servers[0], servers[1:])
        for server in servers:
            assert server.violations == []
            assert server.errors == []


@contextmanager
def black_hole() -> Iterator[str]:
    """A node to which connections vanish: its queue of connections is full. Yields its name."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield f"127.0.0.1:{port}"
