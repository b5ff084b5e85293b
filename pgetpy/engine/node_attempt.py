"""An attempt through cache nodes: each range is asked of the node that serves its piece, and of the
origin only where up to four nodes have failed.

    take a range of one piece --> the first of its nodes that is up and has not failed here
                                     | lost, refused, cut off    | another version
                                     v                           v
                            the next node, at last        one range of the origin decides:
                            the origin                    the node lied, or all begins anew

No answer of a node is final. Its failure costs no pause and no try, and the bytes that it has sent
are kept. The origin is asked politely in place of nodes: after a moment that differs from machine
to machine, for a fleet may have lost its nodes at once, and over few connections.

A node that is silent for two seconds is probed on another connection. If that is answered, it is
filling, and waited for. If not, it is lost for the whole process, and each of its ranges is asked
of the next. So a node that is lost in mid-transfer costs some three seconds.

Where nodes cannot be used at all (`_leave_nodes`) this is an ordinary attempt from then on.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgetpy.core.fleet.piece_plan import PiecePlan
from pgetpy.core.http.answers import Answer, AskAgain, Identity, Redirected
from pgetpy.core.http.heads import Head
from pgetpy.core.http.range_request import RangeRequest
from pgetpy.core.http.ranges import Span
from pgetpy.core.http.sink import Sink
from pgetpy.core.placement.rotation import starting_piece
from pgetpy.engine.attempt import Attempt
from pgetpy.engine.node_access import NodeAccess
from pgetpy.engine.node_gate import (
    DisagreementError,
    NodeGate,
    WeakIdentityError,
    WrongRangeError,
)
from pgetpy.engine.transports.base import Exchange, UnsupportedResponseError
from pgetpy.errors import (
    ConnectionFailedError,
    NotAllowedError,
    ObjectChangedError,
    RangeNotHonouredError,
    StalledError,
    TransferError,
)
from pgetpy.system.logs import RoomLog

if TYPE_CHECKING:
    from pgetpy.core.fleet.node_list import Node
    from pgetpy.engine.hosts import Host
    from pgetpy.engine.transports.base import Address

# Seconds of silence after which a node is probed, and after which a request to a node that is known
# to be lost is given up.
SILENCE = 2.0
_LOST_SILENCE = 0.25
# Seconds for which a node that answers probes may be silent: a piece of a slow origin takes long.
_FILLING = 45.0
# Connections to the origin in place of nodes, and the seconds over which machines spread the first.
_ORIGIN_CONNECTIONS = 2
_ORIGIN_SPREAD = 1.0
# After so many refusals in a row a node is not asked for any piece of this object.
_MOST_REFUSALS = 3
# Pieces that wait for the origin, of those looked at each time.
_MOST_BLOCKED = 8
# Tells this process from others, for the place where it begins.
_PROCESS = secrets.token_hex(8)
_LOG = RoomLog("fleet")


@dataclass
class NodeAttempt(Attempt):
    """Fetches what `plan` lacks, through cache nodes. Its plan has to be a `PiecePlan`.

    Attributes:
        access: the nodes.
        url: as the user wrote it.
        decided: the version that the origin has named, after nodes had disagreed.
        in_order: whether to begin with the first piece.
        delivered: nodes whose answers were believed.
    """

    access: NodeAccess = field(kw_only=True)
    url: str = field(kw_only=True)
    decided: Identity | None = None
    in_order: bool = False
    delivered: set[str] = field(default_factory=set)
    _by_nodes: bool = True
    _failed: dict[int, set[str]] = field(default_factory=dict)  # nodes that failed, by piece
    _refusals: dict[str, int] = field(default_factory=dict)  # in a row, by node
    _barred: frozenset[str] = frozenset()  # nodes not to be asked for any piece
    _passed_on: bool = False  # whether a node has answered with a redirect
    # When an exchange became silent, and where it was then.
    _filling: dict[Exchange, tuple[float, int]] = field(default_factory=dict)
    _probes: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _dispute: tuple[str, DisagreementError] | None = None
    _origin_at: float | None = None  # when the origin may be asked in place of nodes
    _begins: bool = False  # whether the first piece is chosen

    def __post_init__(self) -> None:
        super().__post_init__()
        gate = self.gate
        self.gate = self._gate = NodeGate(gate.plan, gate.begin, gate.largest, gate.sign_again)
        self._gate.decided = self.decided

    @property
    def _pieces(self) -> PiecePlan:
        assert isinstance(self.plan, PiecePlan)
        return self.plan

    async def run(self) -> Answer:
        """See `Attempt.run`."""
        try:
            return await super().run()
        finally:
            probes = list(self._probes.values())
            for probe in probes:
                probe.cancel()
            if probes:
                await asyncio.wait(probes)

    async def _launch_due(self) -> None:
        if self._dispute is not None:
            await self._settle_dispute(*self._dispute)
        if self.manner.whole or self.manner.single:
            self._leave_nodes("the server sends it as a whole")
        if not self._by_nodes:
            await super()._launch_due()
        elif self._loop.time() >= self._resume_at and await self._is_allowed():
            self._turn_to(self.access.host)
            self._pieces.blocked.clear()
            if self.gate.answer is not None:
                await self._launch_parts(self.access.host)
            elif not self._watchdog:
                total = self.gate.expected.total if self.gate.expected and self.plan.held else None
                await self._launch_part(self.plan.probe(self._loop.time(), total))

    async def _is_allowed(self) -> bool:
        """Whether the origin may be asked: what a policy forbids is not asked of nodes either.

        Raises:
            NotAllowedError: the policy forbids it.
        """
        if self.context.settings.policy is None or self.route.target.trusted:
            return True
        try:
            await self.route.host()
        except TransferError as error:
            super()._handle_failure(None, error)
            return False
        return True

    async def _launch_parts(self, host: Host) -> None:
        """Ask for as much as there may be requests now; `host` stands for all nodes."""
        now, plan = self._loop.time(), self._pieces
        self._begin_elsewhere()
        while self._has_room(host) and len(plan.blocked) < _MOST_BLOCKED:
            level, expected_level = host.pace.level, host.pace.expected
            part = plan.take(now, host.rate, self._lanes(level), self._lanes(expected_level))
            if part is None:
                break
            await self._launch_part(part)

    def _begin_elsewhere(self) -> None:
        """Choose the piece to begin with, once it is known how many there are."""
        plan = self._pieces
        if not self._begins and plan.pieces:
            self._begins = True
            if plan.window is None and not self.in_order:
                plan.first_piece = starting_piece(_PROCESS, self.url, plan.pieces)

    async def _launch_part(self, part: RangeRequest) -> None:
        """Ask a node for `part`, or the origin; take it back where that has to wait."""
        now = self._loop.time()
        piece = self._pieces.piece_of(part.start)
        failed = self._barred | self._failed.get(piece, set())
        found = await self.access.choose(self.url, piece, failed)
        if found is not None:
            self._launch_at(*found, part, piece)
            return
        if self._origin_at is None:
            # Nodes that pass redirects on are alive, so machines do not come all at once.
            spread = 0.0 if self._passed_on else _ORIGIN_SPREAD
            self._origin_at = now + self.context.jitter() * spread
            _LOG.debug("%s: no cache node is left for piece %d", self.route.target.url, piece)
        asked = sum(exchange.piece is None for exchange in self._watchdog.under_way)
        if now < self._origin_at or asked >= _ORIGIN_CONNECTIONS:
            self._pieces.take_back(part)
            return
        try:
            host = await self.route.host()
        except TransferError as error:
            self._pieces.take_back(part)
            super()._handle_failure(None, error)
            return
        if self._loop.time() < host.not_before:
            self._pieces.take_back(part)
            return
        self._launch(host, part)

    def _launch_at(
        self, node: Node, addresses: tuple[Address, ...], part: RangeRequest, piece: int
    ) -> None:
        assert part.stop is not None
        asked = Span(part.start, part.stop)
        origins = self.route.target.origin, self.route.link.origin
        request = self.access.request(node, addresses, self.url, origins, asked)
        exchange = Exchange(request, part, asked, self._judge, self.context.throttle)
        exchange.blocking |= self.blocking
        exchange.source, exchange.piece = node.name, piece
        task = self._loop.create_task(self._carry(exchange))
        task.add_done_callback(self._sleeper.rouse)
        self._watchdog.add(task, exchange, self.access.host)

    async def _carry(self, exchange: Exchange) -> None:
        """Have `exchange` carried by the direct transport alone: an odd answer of a node is not
        worth a second client."""
        self.counts.requests += 1
        try:
            await self.context.direct.carry(exchange)
        except UnsupportedResponseError as error:
            url, asked = exchange.request.url, exchange.asked
            raise RangeNotHonouredError(url, str(asked), str(error)) from error
        self._refusals.pop(exchange.source, None)

    def _judge(self, exchange: Exchange, head: Head) -> tuple[Answer, Sink]:
        admitted = super()._judge(exchange, head)
        if exchange.piece is not None:
            self._scouting = False
            self.access.answered(exchange.source)
            self.delivered.add(exchange.source)
        return admitted

    def _handle_failure(self, exchange: Exchange | None, error: BaseException) -> None:
        if exchange is None or exchange.piece is None:
            super()._handle_failure(exchange, error)
            if self._passed_on and isinstance(error, Redirected):
                self._follow()
            return
        name = exchange.source
        if isinstance(error, Redirected):
            self._redirected(exchange)
        elif isinstance(error, WrongRangeError):
            self._accuse(name, f"it sent {error}")
        elif isinstance(error, DisagreementError):
            self._dispute = self._dispute or (name, error)
        elif isinstance(error, WeakIdentityError):
            self._leave_nodes("nothing would tell its versions apart, and no checksum is given")
        elif isinstance(error, AskAgain) or (
            isinstance(error, TransferError) and not isinstance(error, NotAllowedError)
        ):
            self._failed_at_node(exchange, error)
        else:
            raise error

    def _failed_at_node(self, exchange: Exchange, error: Exception) -> None:
        """Ask another node for the rest of `exchange`."""
        assert exchange.piece is not None
        name, meter = exchange.source, exchange.part.meter
        self.counts.retries += 1
        self._failed.setdefault(exchange.piece, set()).add(name)
        # The whole sentence would name the origin, and ask for its host and port to be checked.
        reason = error.what() if isinstance(error, TransferError) else "it sent another form of it"
        _LOG.debug("cache node %s: %s", name, reason)
        self.access.failed(name)
        silent = isinstance(error, StalledError)
        if silent or (isinstance(error, ConnectionFailedError) and meter.answered is None):
            self.access.lost(name, self._loop.time() - meter.born, reason)
            return
        refusals = self._refusals[name] = self._refusals.get(name, 0) + 1
        if refusals >= _MOST_REFUSALS:
            self._barred |= {name}

    def _redirected(self, exchange: Exchange) -> None:
        """Ask other nodes, and at last the origin: a node may pass on what the origin says, but a
        login page or a broken proxy redirects as well."""
        if exchange.request.url.partition("://")[2] == self.access.asked_for(self.url):
            self._passed_on = True
            self._barred |= {exchange.source}
            self.access.failed(exchange.source)

    def _follow(self) -> None:
        """Ask nodes for what the origin has redirected to: they do not follow it themselves."""
        self.url = self.route.target.url
        self._passed_on = False
        self._barred = frozenset()
        self._failed.clear()
        if not self.access.takes(self.url, self.route.target):
            self._leave_nodes("it redirects to where no cache nodes are used")

    def _accuse(self, name: str, reason: str) -> None:
        """Leave out the node called `name` from now on, and say so."""
        self.access.lied(name, reason)
        self.callbacks.remark(f"cache node {name} is left out: {reason}")

    async def _settle_dispute(self, name: str, dispute: DisagreementError) -> None:
        """Have the origin decide which version is right.

        Raises:
            TransferError: the origin cannot be asked.
            ObjectChangedError: the bytes received so far are of another version.
        """
        from pgetpy.engine.service_client import EngineServiceClient

        known, other = dispute.known, dispute.identity
        decided = await EngineServiceClient(self.context).identify_link(self.route.link)
        self.counts.requests += 1
        self._dispute = None
        if not decided.agrees(other):
            self._accuse(name, f"it has {other}, and the origin {decided}")
        if decided.agrees(known):
            return
        for each in self.delivered - {name}:
            self._accuse(each, f"it has {known}, and the origin {decided}")
        self.decided = decided
        raise ObjectChangedError(self.route.link.url, str(known), str(decided))

    def _leave_nodes(self, reason: str) -> None:
        """Ask nodes for nothing more in this attempt."""
        if self._by_nodes:
            _LOG.debug("%s: no cache nodes: %s", self.route.target.url, reason)
        self._by_nodes = False
        self._pieces.piece = None

    def _is_surplus(self, exchange: Exchange, error: TransferError) -> bool:
        # What nodes deliver says nothing about how many connections the origin takes.
        return not self._by_nodes and super()._is_surplus(exchange, error)

    def _tick(self) -> None:
        super()._tick()
        if self._by_nodes:
            self._look_after_nodes(self._loop.time())

    def _look_after_nodes(self, now: float) -> None:
        """Give up what lost nodes owe, and probe those that are silent."""
        for exchange in list(self._watchdog.under_way):
            if exchange.piece is None:
                continue
            name, quiet = exchange.source, exchange.part.meter.quiet(now)
            if quiet >= _LOST_SILENCE and self.access.is_down(name):
                self._watchdog.give_up(exchange, StalledError(exchange.request.url, quiet))
            elif quiet >= SILENCE and name not in self._probes:
                probe = self._loop.create_task(self._probe(name))
                self._probes[name] = probe

    async def _probe(self, name: str) -> None:
        """Find out whether the silent node called `name` is there."""
        try:
            alive = await self.access.probe(name)
        finally:
            del self._probes[name]
        now = self._loop.time()
        silent = [
            each
            for each in self._watchdog.under_way
            if each.source == name and each.part.meter.quiet(now) >= _LOST_SILENCE
        ]
        if alive is False and silent:
            quiet = max(each.part.meter.quiet(now) for each in silent)
            self.access.lost(name, 0.0, f"it is silent for {quiet:.1f} s and answers no probe")
        for exchange in silent:
            if alive:
                self._wait_for_filling(exchange, now)

    def _wait_for_filling(self, exchange: Exchange, now: float) -> None:
        """Go on waiting for a node that answers probes, unless it has taken too long."""
        since, pos = self._filling.setdefault(exchange, (now, exchange.part.pos))
        if pos != exchange.part.pos:
            self._filling[exchange] = now, exchange.part.pos
        elif now - since > _FILLING:
            self._watchdog.give_up(exchange, StalledError(exchange.request.url, _FILLING))
            return
        exchange.part.meter.quiet_since = now
