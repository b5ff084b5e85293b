"""Transfers through cache nodes that exist in numbers, on the clock of `virtual`.

The attempt, its plan, its gate, its watch and the choice of nodes are the real ones. Made up is
what carries an exchange, what answers a probe, and the addresses.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from pgetpy.core.fleet.node_list import Node, NodeList
from pgetpy.core.http.answers import Answer
from pgetpy.core.http.heads import Head
from pgetpy.core.http.plan import Plan
from pgetpy.core.http.ranges import OPEN_END, Span, Spans
from pgetpy.core.http.sink import Sink
from pgetpy.core.http.urls import parse_link
from pgetpy.destinations.sinks.null import NullSink
from pgetpy.engine.attempt import Attempt
from pgetpy.engine.context import AttemptCallbacks, EngineContext
from pgetpy.engine.hosts import Hosts
from pgetpy.engine.node_access import CONNECT_SECONDS, PROBE_SECONDS, NodeAccess
from pgetpy.engine.node_use import NodeUse
from pgetpy.engine.requests import Route
from pgetpy.engine.transports.base import Exchange, Request
from pgetpy.engine.transports.local import LocalTransport
from pgetpy.engine.watchdog import TransferCounts
from pgetpy.errors import ConnectionFailedError
from pgetpy.fleet.nodes import CacheNodes, NodeAddress
from pgetpy.settings import Settings
from pgetpy.settings.fleet_settings import FleetSettings
from pgetpy.system.filesystem import ReservedPaths
from pgetpy.system.threads import Workers

from .virtual import run_virtually

# An address, so that the origin needs no look-up.
URL = "http://127.0.0.1/model.bin"
NEVER = float("inf")


@dataclass(frozen=True)
class NodeLine:
    """How a node, or the origin, answers.

    Attributes:
        latency: seconds to the first byte.
        rate: bytes a second of each answer.
        fill: seconds that the first request for a piece has to wait, and all others meanwhile.
        lost_at: from then on nothing comes, and connections and probes get no answer.
        back_at: when it is there again.
        stopped: whether connections are accepted although it is lost, as a stopped process does.
        breaks: bytes after which each answer ends.
        status: of all its answers, if it refuses.
    """

    latency: float = 0.002
    rate: float = 20e6
    fill: float = 0.0
    lost_at: float = NEVER
    back_at: float = NEVER
    stopped: bool = False
    breaks: float = NEVER
    status: int = 0


@dataclass
class VirtualFleet:
    """An object of `total` bytes at an origin and at nodes.

    Attributes:
        asked: how often each node was asked for each piece.
        connected: how many connections were tried to each server while it was lost.
        sources: bytes by where they came from.
        seconds: that the last transfer took.
    """

    total: int
    nodes: list[NodeLine]
    piece: int = 20 << 20
    origin: NodeLine = NodeLine(latency=0.05)
    asked: Counter[tuple[str, int]] = field(default_factory=Counter)
    connected: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    _ready: dict[tuple[str, int], float] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"10.0.0.{number + 1}" for number in range(len(self.nodes)))

    def line(self, name: str) -> NodeLine:
        return self.origin if name == "origin" else self.nodes[self.names.index(name)]

    def transfer(self, times: int = 1, concurrency: int = 8) -> None:
        """Fetch the object, `times` times one after the other, in one process."""
        run_virtually(self._transfers(times, concurrency))

    async def _transfers(self, times: int, concurrency: int) -> None:
        settings = Settings(stall_timeout=15.0, retries=20, concurrency=concurrency)
        prefixes = ("http://127.0.0.1",)
        fleet = FleetSettings(given=NodeList(names=self.names), prefixes=prefixes, piece=self.piece)
        workers = Workers()
        hosts = Hosts(settings, workers)
        link = parse_link(URL)
        access = NodeAccess(_VirtualNodes(fleet), settings, hosts, self._probe)
        context = EngineContext(
            settings, hosts, workers, self, self, None, ReservedPaths(), LocalTransport(workers),
            lambda: 0.5, access,
        )  # fmt: skip
        hosts._hosts[link.origin, link.trusted] = access.host.__class__(
            link.origin, (), None, access.host.pace.__class__(8, 1)
        )
        for _ in range(times):
            begin = asyncio.get_running_loop().time()
            await self._once(context, Route(link, hosts, settings))
            self.seconds = asyncio.get_running_loop().time() - begin

    async def _once(self, context: EngineContext, route: Route) -> None:
        plan, counts = (
            Plan(chunk_size=125_000_000, first=1 << 20, open_ended=True),
            TransferCounts(),
        )

        def begin(answer: Answer, held: Spans) -> Sink:
            return NullSink()

        callbacks = AttemptCallbacks(
            begin, lambda now: None, lambda error, after: None, lambda reason: None
        )
        assert context.nodes is not None
        plain = Attempt(context, route, plan, callbacks, counts)
        attempt = NodeUse(context.nodes, URL).attempt_like(plain, in_order=False)
        await attempt.run()
        assert list(attempt.plan.held) == [Span(0, self.total)]
        self.sources.update(counts.by_source)

    async def _probe(self, request: Request, seconds: float) -> bool:
        line = self.line(request.url.removeprefix("http://").rstrip("/"))
        if self._is_lost(line):
            await asyncio.sleep(PROBE_SECONDS)
            return False
        await asyncio.sleep(line.latency)
        return True

    async def carry(self, exchange: Exchange) -> None:
        """See `Transport.carry`."""
        name, asked = exchange.source, exchange.asked
        assert asked is not None
        line, piece = self.line(name), asked.start // self.piece
        self.asked[name, piece] += 1
        if self._is_lost(line):
            self.connected[name] += 1
            if line.stopped:
                await self._hang()
            await asyncio.sleep(CONNECT_SECONDS)
            raise ConnectionFailedError(URL, "no answer within the connect timeout")
        await asyncio.sleep(line.latency)
        now = asyncio.get_running_loop().time()
        ready = self._ready.setdefault((name, piece), now + line.fill)
        await asyncio.sleep(max(0.0, ready - now))
        if self._is_lost(line):
            await self._hang()
        exchange.judge(_head(Span(asked.start, min(asked.stop, self.total)), self.total, line))
        await self._flow(exchange, line)

    async def close(self) -> None:
        pass

    async def _flow(self, exchange: Exchange, line: NodeLine) -> None:
        part, sent = exchange.part, 0
        while part.rest:
            await asyncio.sleep(0.025)
            if self._is_lost(line):
                await self._hang()
            count = min(part.rest, int(line.rate * 0.025))
            if sent + count > line.breaks:
                exchange.landed(min(part.rest, int(line.breaks) - sent))
                raise ConnectionFailedError(URL, "broken by the node")
            sent += count
            exchange.landed(count)

    def _is_lost(self, line: NodeLine) -> bool:
        return line.lost_at <= asyncio.get_running_loop().time() < line.back_at

    async def _hang(self) -> None:
        await asyncio.get_running_loop().create_future()


class _VirtualNodes(CacheNodes):
    async def addresses(self, node: Node, given: str = "") -> tuple[NodeAddress, ...]:
        return ((2, (node.host, node.port)),)


def _head(span: Span, total: int, line: NodeLine) -> Head:
    if line.status:
        return Head(line.status, {"content-length": "0"})
    assert span.stop < OPEN_END
    where = f"bytes {span.start}-{span.stop - 1}/{total}"
    headers = {"content-range": where, "content-length": str(span.size), "etag": '"1"'}
    return Head(206, headers)
