"""One try at an object by one route; its loop and its failures are in the package's docstring.

An attempt owns its tasks: when `run` returns or raises, none is left, and nothing more is written.
Every request that is launched comes back through `_collect` or `end_all`, so the plan gets it back.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING

from pgetpy.core.http.answers import Answer, AskAgain, Redirected
from pgetpy.core.http.heads import Head
from pgetpy.core.http.manner import Manner
from pgetpy.core.http.plan import Plan
from pgetpy.core.http.range_request import RangeRequest
from pgetpy.core.http.ranges import EVERYTHING, OPEN_END, Span
from pgetpy.core.http.retry import OVERLOADED, Retries
from pgetpy.core.http.sink import Sink
from pgetpy.core.http.speed_limit import SpeedLimit
from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.engine.answer_gate import AnswerGate, TooLateError
from pgetpy.engine.context import AttemptCallbacks, EngineContext
from pgetpy.engine.hosts import Host
from pgetpy.engine.requests import Route, carry
from pgetpy.engine.transports.base import Begun, Exchange
from pgetpy.engine.watchdog import TransferCounts, Watchdog
from pgetpy.errors import (
    ConnectionFailedError,
    HttpStatusError,
    PgetError,
    StalledError,
    TransferError,
)
from pgetpy.system.event_loop import Sleeper
from pgetpy.system.logs import RoomLog

if TYPE_CHECKING:
    from pgetpy.engine.responsiveness import Responsiveness

_LOG = RoomLog("engine")
TICK = 0.025
# Time for the last exchanges to end by themselves, so that their connections can be used again.
_ENDING_SECONDS = 0.25
# Time for a server to notice that a connection was cut off.
_CROWDED_SECONDS = 1.0


@dataclass
class Attempt:
    """Fetches what `plan` lacks of the object behind `route`.

    Attributes:
        blocking: whether writing to the sink may have to wait for its reader.
        manner: how the object is asked for.
        gate: judges the answers; knows the version of the object.
        begun: the first request, if it has been sent already.
    """

    context: EngineContext
    route: Route
    plan: Plan
    callbacks: AttemptCallbacks
    counts: TransferCounts
    blocking: bool = False
    manner: Manner = field(default_factory=Manner)
    begun: Begun | None = None
    _host: Host | None = None  # of the current target
    _resume_at: float = 0.0  # after a failure: no request before this time
    _failed_at: float = -1.0  # the last failure that was not an echo, see `core/http/retry`
    _generation: int = 0  # how often the manner has become plainer
    _moved_then: int = 0  # bytes at the last failure: more means progress
    _scouting: bool = True  # this target has not answered yet, so one request is enough
    _proven: bool = True  # a target has answered since redirects were last followed anew
    _told: bool = False  # whether the user knows why there is one stream
    _ticked_at: float = 0.0
    _complete_at: float | None = None  # when the last byte landed

    def __post_init__(self) -> None:
        settings = self.context.settings
        begin, route = self.callbacks.begin, self.route
        self.gate = AnswerGate(self.plan, begin, settings.largest, route.sign_again)
        self._loop = asyncio.get_running_loop()
        tries = self._retries = Retries(route.retries)
        slowest = SpeedLimit(settings.speed_limit, settings.speed_time)
        self._watchdog = Watchdog(self.plan, self.counts, settings.stall_timeout, tries, slowest)
        self._sleeper = Sleeper(self._loop)
        self._ticked_at = self._loop.time()

    @cached_property
    def _responsiveness(self) -> Responsiveness:
        from pgetpy.engine.responsiveness import Responsiveness

        return Responsiveness(self.route, self._watchdog)

    async def run(self) -> Answer:
        """Fetch everything; return the first answer, with the identity of the whole.

        Raises:
            TransferError: the server or network failed for good.
            StartOverError: what is held belongs to another version.
            Exception: whatever `callbacks.begin` raises.
        """
        try:
            while not self._over():
                await self._launch_due()
                # After launching: a connection between two ranges would count as idle.
                self._tick()
                # Until an exchange ends, the first answer is believed, or there may be more.
                await self._sleeper.wait(TICK)
                self._collect()
        finally:
            if self.begun is not None:
                self.begun.close()
            if self.route.impatient:
                await self._responsiveness.close()
            try:
                await self._watchdog.end_all()
            finally:
                self._watchdog.leave(self._host)
        assert self.gate.answer is not None
        return self.gate.answer

    def _over(self) -> bool:
        """Whether the attempt is over. Once every byte has landed, exchanges get a moment to end
        by themselves, which leaves their connections usable."""
        if self.gate.answer is None or not self.plan.complete:
            return False
        now = self._loop.time()
        if self._complete_at is None:
            self._complete_at = now
            self._watchdog.end_superfluous()
        return not self._watchdog or now - self._complete_at >= _ENDING_SECONDS

    async def _launch_due(self) -> None:
        now = self._loop.time()
        if now < self._resume_at:
            return  # a failure is waited out, by all requests of this attempt
        try:
            host = await self.route.host()
        except TransferError as error:
            self._handle_failure(None, error)
            return
        self._turn_to(host)
        if now < host.not_before:
            return  # the host has asked all attempts for a pause
        if self.gate.answer is None:
            self._launch_probe(now, host)
            return
        if self.gate.repeatable:
            self.plan.end_reading_on()  # the first answer need not bring everything any more
        if self.manner.single:
            rest = self.plan.rest(now) if self.plan.ranged else None
            if rest is not None:
                self._launch(host, rest, whole=self.manner.whole)
            return
        self.plan.keep_to_window(alone=self._limit == 1)
        while self._has_room(host):
            part = self.plan.take(
                now, host.rate, self._lanes(host.pace.level), self._lanes(host.pace.expected)
            )
            if part is None:
                break
            self._launch(host, part)

    def _launch_probe(self, now: float, host: Host) -> None:
        """Make the first request, or a second one like it where its answer is late."""
        if not self._watchdog:
            if host.busy < host.pace.level or self.begun is not None:
                self.manner.whole |= host.no_ranges  # learned from another object of this host
                total = self.gate.expected.total if self.gate.expected and self.plan.held else None
                self._launch(host, self.plan.probe(now, total), whole=self.manner.whole)
            else:
                host.crowded_at = now
            return
        may = len(self._watchdog) < self._limit and host.busy < host.pace.ceiling
        if may and not self.manner.whole and self._watchdog.asks_only(self.route.target.url):
            twin = self.plan.probe_again(now)
            if twin is not None:
                self._launch(host, twin)

    def _turn_to(self, host: Host) -> None:
        """Send requests to `host` from now on."""
        if self._host is not None and self._host is not host:
            self._watchdog.leave(self._host)
        self._host = host
        self.plan.latency = host.latency

    @property
    def _limit(self) -> int:
        return self.context.settings.concurrency or self.context.hosts.ceiling

    def _lanes(self, level: int) -> int:
        """The number of connections that share the rest of the object at `level`."""
        return min(self._limit, max(level, len(self._watchdog)))

    def _has_room(self, host: Host) -> bool:
        # Others would only be redirected, refused, or sent the whole, as well.
        most = min(self._limit, 1 if self._scouting else 2 if self.gate.guesses else self._limit)
        level = max(host.pace.level, min(self.plan.fewest, host.pace.ceiling))
        return len(self._watchdog) < most and host.busy < level

    def _launch(self, host: Host, part: RangeRequest, *, whole: bool = False) -> None:
        asked = None
        if not whole and part.stop is not None:
            asked = Span(part.start, OPEN_END if part.reads_on else part.stop)  # else: no Range
        known = self.gate.answer.identity if self.gate.answer else None
        tie = known or (self.gate.expected if self.plan.held and not self.gate.verified else None)
        if known is not None and not self.manner.tied:
            tie = None  # the gate compares the validators of every answer in any case
        begun, self.begun = self.begun, None
        if begun is not None and (asked != EVERYTHING or tie is not None):
            begun.close()  # learned meanwhile: this is to be asked for in another way
            begun = None
        request = begun.request if begun is not None else self.route.request(host, asked, tie)
        exchange = Exchange(request, part, asked, self._judge, self.context.throttle)
        exchange.begun, exchange.source = begun, self.route.source
        exchange.blocking |= self.blocking
        exchange.generation = self._generation
        task = self._loop.create_task(carry(self.context, host, exchange, self.counts))
        task.add_done_callback(self._sleeper.rouse)
        self._watchdog.add(task, exchange, host)

    def _judge(self, exchange: Exchange, head: Head) -> tuple[Answer, Sink]:
        """Believe `head` or raise; in any thread."""
        first = self.gate.answer is None
        admitted = self.gate.admit(exchange, head, self._loop.time())
        host = self._host
        if first and self.manner.reason and host is not None and not host.no_ranges:
            host.no_ranges = True
            # The plain GET is a new way of asking, and gets all its tries.
            self._retries.progressed()
        if exchange.request.url == self.route.target.url:
            self._scouting = False
            self._proven = True
        if self.manner.reason and exchange.asked is None:
            # Not before: had this been refused as well, ranges would not be to blame.
            self._loop.call_soon_threadsafe(self._tell_manner)
        if first:
            # Wake the loop: now ranges can be given out.
            self._loop.call_soon_threadsafe(self._sleeper.rouse)
        return admitted

    def _collect(self) -> None:
        """Take back the exchanges that have ended."""
        now = self._loop.time()
        for task, exchange, error in self._watchdog.ended(now):
            # A few bytes before each stall do not count, or such a server is asked forever.
            part, stalled = exchange.part, isinstance(error, StalledError)
            least = self.context.settings.speed_limit * (now - part.meter.born) if stalled else 0
            if part.pos - part.start > least and not self.gate.restarts:
                self._retries.progressed()
            if error is not None:
                if not (isinstance(error, TooLateError) or self._spared(exchange)):
                    self._handle_failure(exchange, error)
            elif exchange.part.stop is None and not task.cancelled():
                # Only the end of the body could tell the size.
                self.plan.total = exchange.part.pos
                self.gate.check_size(exchange.request.url, self.plan.total)

    def _spared(self, exchange: Exchange) -> bool:
        """Whether the failure of `exchange` can be ignored: it was the second request for bytes
        that the first still brings, or another answer brings the whole."""
        if self.gate.answer is not None and not self.plan.ranged:
            return exchange.part.meter.answered is None
        second = exchange.part.again and exchange.part.twin in self.plan.parts
        return second and not self.gate.refused  # else it may be why, and no other is taken

    def _handle_failure(self, exchange: Exchange | None, error: BaseException) -> None:
        """Decide what follows from `error`; raise it if nothing is left to try."""
        if isinstance(error, Redirected):
            assert exchange is not None
            return self.route.redirected(error, exchange.request.url)  # the loop asks there next
        if isinstance(error, AskAgain):
            self.manner.whole |= error.without_range
            return None
        if not isinstance(error, PgetError):
            raise error
        restarts = self.gate.restarts and self.plan.reader is None
        if restarts:
            self._restart_single()
        if exchange is not None and isinstance(error, TransferError):
            if self._renew_target(exchange, error) or self._is_surplus(exchange, error):
                return None
            if self._ask_more_plainly(exchange, error):
                return None
        stalled = isinstance(error, StalledError)
        if not restarts and not stalled and self.counts.moved > self._moved_then:
            self._retries.progressed()
        return self._try_again(exchange, error)

    def _try_again(self, exchange: Exchange | None, error: PgetError) -> None:
        """Have the next requests wait a moment; raise `error` if no tries are left."""
        if self.gate.answer is None and self.manner.reason:
            self.manner.ask_ranges_again()
        echo = exchange is not None and exchange.part.meter.born <= self._failed_at
        delay = self._retries.delay(error, self.context.jitter(), echo=echo)
        if delay is None:
            if isinstance(error, TransferError):
                error.attempts = self._retries.attempts
            raise error
        self._postpone(error, delay, echo=echo)

    def _is_surplus(self, exchange: Exchange, error: TransferError) -> bool:
        """Whether this connection was merely one too many: others deliver, or still may."""
        host, delivering = self._host, self._watchdog.delivering
        if exchange.part.meter.answered is not None or host is None:
            return False
        volley = self.gate.answer is not None and host.pace.in_volley(exchange.part.meter.born)
        waiting = len(self._watchdog) - delivering if volley else 0
        refused = isinstance(error, HttpStatusError) and error.status not in OVERLOADED
        broken = isinstance(error, (ConnectionFailedError, StalledError))
        if not broken and not (refused and (self.gate.repeatable or waiting)):
            return False
        others = delivering or (waiting if refused else 0)
        if others:
            host.pace.cap(self._loop.time(), others, exchange.part.meter.born)
        return others > 0

    def _ask_more_plainly(self, exchange: Exchange, error: TransferError) -> bool:
        """Whether the next requests ask more plainly than `exchange`, and may succeed."""
        if exchange.asked is None:
            if not self.manner.may_be_crowded(error):
                return False
            self._resume_at = self._loop.time() + _CROWDED_SECONDS
            return True
        if exchange.generation < self._generation:
            return True  # made before the manner changed, for another failure
        reader, manner, answer = self.plan.reader, self.manner, self.gate.answer
        if not manner.becomes_plainer(
            error,
            tied=any(name == "If-Range" for name, _ in exchange.request.headers),
            proven=answer is not None and answer.ranged,
            reads_on=reader is not None and reader.stop == self.plan.total,
            last_try=not self._retries.left(error),
        ):
            return False
        self._generation += 1
        if answer is not None and manner.untried:
            self._retries.progressed()  # another way of asking gets all its tries
        if reader is not None and manner.single:
            reader.claim = None  # it delivers everything that is missing
            self._tell_manner()
        return True

    def _tell_manner(self) -> None:
        """Tell the user, once, why the object comes in one stream."""
        if self.manner.reason and not self._told:
            self._told = True
            self.callbacks.remark(f"{self.manner.reason}: downloading in a single stream")

    def _restart_single(self) -> None:
        """Discard the bytes received: without ranges the next answer starts at byte 0 again."""
        if self.plan.held:
            self.callbacks.started_over("the server serves no ranges")
        self.plan.forget()
        self.gate.forget()

    def _renew_target(self, exchange: Exchange, error: TransferError) -> bool:
        """Whether a signed target has expired; then redirects are followed from the start."""
        if not self.route.expired(error, exchange.request.url):
            return False
        if exchange.request.url != self.route.target.url:
            return True  # an old target; the new one is in use already
        if not self._proven:
            return False  # the target of the last renewal has refused as well
        self._proven = False
        self._scouting = True
        self.route.start_again()
        return True

    def _postpone(self, error: PgetError, delay: float, *, echo: bool) -> None:
        now = self._loop.time()
        self.counts.retries += 1
        self._moved_then = self.counts.moved
        self._resume_at = max(self._resume_at, now + delay)
        if not echo:
            self._failed_at = now
        if self._host is not None and isinstance(error, HttpStatusError):
            if error.status in OVERLOADED and not echo:
                self._host.pace.lower(now)  # once an outage, not once a connection
            if error.retry_after is not None:
                self._host.not_before = max(self._host.not_before, now + delay)  # for all attempts
        self.callbacks.retrying(error, delay)

    def _tick(self) -> None:
        now = self._loop.time()
        if now < self._ticked_at + TICK / 2:
            return  # the loop may turn often while many small answers end
        self._ticked_at = now
        if self._host is not None:
            self._watchdog.look_after(now, self._host, guessing=self.gate.guesses)
            if self._host.observe(now, self._watchdog.rates(now), self._watchdog.lull):
                self._sleeper.rouse()
        if self.plan.total is None and self.gate.answer is not None:
            self.gate.check_size(self.route.target.url, self.plan.done)  # the size so far
        if self.route.impatient:
            self._responsiveness.check(now)
        self.callbacks.tick(now)
