"""One try at an object by one route: parts go out and come back until every byte is there.

An attempt owns its tasks; when `run` returns or raises none is left, and nothing is written any
more.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, replace

from pgetpy.core.http.answers import (
    Answer,
    Head,
    Identity,
    Redirected,
    RetryWithoutRange,
    judge,
    may_continue,
)
from pgetpy.core.http.plan import Plan
from pgetpy.core.http.range_request import RangeRequest
from pgetpy.core.http.ranges import Span
from pgetpy.core.http.retry import OVERLOADED, Retries
from pgetpy.core.http.sink import Sink
from pgetpy.engine.context import AttemptCallbacks, EngineContext, StartOverError
from pgetpy.engine.hosts import Host
from pgetpy.engine.requests import Route
from pgetpy.engine.transports.base import Exchange, UnsupportedResponseError
from pgetpy.engine.watchdog import TransferCounts, Watchdog
from pgetpy.errors import (
    HttpStatusError,
    NotAllowedError,
    PgetError,
    RangeNotHonouredError,
    TransferError,
)

TICK = 0.025
# For the last exchanges of a transfer to end by themselves once every byte is there.
_ENDING_SECONDS = 0.25


class _TooLateError(Exception):
    """Another answer to the same request has been taken, or refused, before this one."""


@dataclass
class Attempt:
    """Fetches what `plan` lacks of the object behind `route`.

    Attributes:
        expected: the version of which `plan` holds bytes, if it does.
        verified: whether the whole will be checked against a checksum.
        blocking: whether who writes to the sink may have to wait for its reader.
        whole: whether the object is asked for as a whole, without a range.
        answer: the first answer that was believed.
    """

    context: EngineContext
    route: Route
    plan: Plan
    callbacks: AttemptCallbacks
    counts: TransferCounts
    expected: Identity | None = None
    verified: bool = False
    blocking: bool = False
    whole: bool = False
    answer: Answer | None = None
    _host: Host | None = None
    _sink: Sink | None = None
    _resume_at: float = 0.0
    _failed_at: float = -1.0
    _moved_then: int = 0
    _scouting: bool = True
    _proven: bool = True
    _untied: bool = False
    _ticked_at: float = 0.0
    _complete_at: float | None = None

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._retries = Retries(self.context.settings.retries)
        self._watchdog = Watchdog(
            self.plan, self.counts, self.context.settings.stall_timeout, self._retries
        )
        self._sleeper: asyncio.Future[None] | None = None
        self._roused = False
        self._judging = threading.Lock()
        self._refused = False
        self._ticked_at = self._loop.time()

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
                # Between two ranges a connection would count as idle.
                self._tick()
                await self._pause()
                self._collect()
        finally:
            try:
                await self._watchdog.end_all()
            finally:
                self._watchdog.leave(self._host)
        assert self.answer is not None
        return self.answer

    def _over(self) -> bool:
        """Whether every byte has landed. Answers at their end get a moment to leave their
        connections in order; nothing is waited for longer."""
        if self.answer is None or not self.plan.complete:
            return False
        now = self._loop.time()
        if self._complete_at is None:
            self._complete_at = now
            self._watchdog.end_superfluous()
        return not self._watchdog or now - self._complete_at >= _ENDING_SECONDS

    async def _launch_due(self) -> None:
        now = self._loop.time()
        if now < self._resume_at:
            return
        try:
            host = await self.route.host()
        except TransferError as error:
            self._handle_failure(None, error)
            return
        self._turn_to(host)
        if now < host.not_before:
            return
        if self.answer is None:
            self._launch_probe(now, host)
            return
        while self._has_room(host):
            part = self.plan.take(
                now, host.rate, self._lanes(host.pace.level), self._lanes(host.pace.expected)
            )
            if part is None:
                break
            self._launch(host, part)

    def _launch_probe(self, now: float, host: Host) -> None:
        """Make the first request, or make it a second time where its answer is late."""
        if not self._watchdog:
            if host.busy < host.pace.level:
                total = self.expected.total if self.expected and self.plan.held else None
                self._launch(host, self.plan.probe(now, total))
            return
        may = len(self._watchdog) < self._limit and host.busy < host.pace.ceiling
        if may and not self.whole and self._watchdog.asks_only(self.route.target.url):
            twin = self.plan.probe_again(now)
            if twin is not None:
                self._launch(host, twin)

    def _turn_to(self, host: Host) -> None:
        """Ask `host` from now on."""
        if self._host is not host:
            self._watchdog.leave(self._host)
        self._host = host
        self.plan.latency = host.latency

    @property
    def _limit(self) -> int:
        return self.context.settings.concurrency or self.context.hosts.ceiling

    def _lanes(self, level: int) -> int:
        """Between how many connections the rest is to be divided at `level`."""
        return min(self._limit, max(level, len(self._watchdog)))

    def _has_room(self, host: Host) -> bool:
        if self._scouting and self._watchdog:
            return False
        return len(self._watchdog) < self._limit and host.busy < host.pace.level

    def _launch(self, host: Host, part: RangeRequest) -> None:
        asked = None if self.whole or part.stop is None else Span(part.start, part.stop)
        known = self.answer.identity if self.answer else None
        tie = known or (self.expected if self.plan.held and not self.verified else None)
        if known is not None and self._untied:
            # Each answer has to repeat the validator in any case.
            tie = None
        request = self.route.request(host, asked, tie)
        exchange = Exchange(request, part, asked, self._judge, self.context.throttle)
        exchange.blocking |= self.blocking
        task = self._loop.create_task(self._carry(host, exchange))
        task.add_done_callback(self._rouse)
        self._watchdog.add(task, exchange, host)

    async def _carry(self, host: Host, exchange: Exchange) -> None:
        self.counts.requests += 1
        if host.local:
            await self.context.local.carry(exchange)
            return
        if host.plain:
            try:
                await self.context.direct.carry(exchange)
                return
            except UnsupportedResponseError:
                host.refused_direct()
                self.counts.requests += 1
        await self.context.full.carry(exchange)

    def _judge(self, exchange: Exchange, head: Head) -> tuple[Answer, Sink]:
        """Believe `head` or raise; in any thread. The first answer fixes the version."""
        with self._judging:
            return self._judge_next(exchange, head)

    def _judge_next(self, exchange: Exchange, head: Head) -> tuple[Answer, Sink]:
        if self._refused or (self.answer is not None and not self.plan.ranged):
            raise _TooLateError
        known = self.answer.identity if self.answer is not None else None
        if head.status == 416 and known is None and self.plan.held:
            # What is still missing lies behind its end.
            raise StartOverError(f"the object is shorter now (was {self.expected})")
        answer = judge(exchange.request.url, exchange.asked, head, known)
        exchange.part.meter.answer(self._loop.time(), answer.start)
        if self.answer is None:
            # Where the first answer finds no place, a second one to the same request is not to
            # take it a moment later.
            self._refused = True
            self._sink = self._begin(exchange, answer)
            self._refused = False
            self.plan.total = answer.identity.total
            self.plan.ranged = answer.ranged
            self.plan.window = self._sink.window
            self.answer = answer
        if exchange.request.url == self.route.target.url:
            self._scouting = False
            self._proven = True
        if known is None and answer.stop != answer.identity.total:
            # There is more to ask for, at once.
            self._loop.call_soon_threadsafe(self._rouse)
        assert self._sink is not None
        return answer, self._sink

    def _begin(self, exchange: Exchange, answer: Answer) -> Sink:
        self._check_size(exchange.request.url, answer.identity.total)
        if self.plan.held:
            before, now = self.expected, answer.identity
            assert before is not None
            # The whole in place of a range is also how If-Range says no (RFC 9110, 13.1.5).
            if not answer.ranged and before.agrees(replace(now, total=before.total)):
                raise StartOverError(f"the server no longer serves {before} in ranges")
            if not answer.ranged or not may_continue(before, now, verified=self.verified):
                raise StartOverError(f"the object is another one now (was {before}, is {now})")
        return self.callbacks.begin(answer, self.plan.held)

    def _check_size(self, url: str, size: int | None) -> None:
        largest = self.context.settings.largest
        if largest is not None and size is not None and size > largest[0]:
            most, rule = largest
            raise NotAllowedError(url, rule, f"the object has {size} bytes, {most} are allowed")

    async def _pause(self) -> None:
        """Wait until an exchange ends, the first answer is believed, or the next tick is due."""
        if self._roused:
            self._roused = False
            return
        self._sleeper = self._loop.create_future()
        tick = self._loop.call_later(TICK, self._rouse)
        try:
            await self._sleeper
        finally:
            tick.cancel()
            self._roused = False

    def _rouse(self, _: object = None) -> None:
        self._roused = True
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def _collect(self) -> None:
        """Take back the exchanges that have ended."""
        for task, exchange, error in self._watchdog.ended(self._loop.time()):
            if exchange.part.pos > exchange.part.start and self.plan.ranged:
                self._retries.progressed()
            if error is not None:
                if not (isinstance(error, _TooLateError) or self._spared(exchange)):
                    self._handle_failure(exchange, error)
            elif exchange.part.stop is None and not task.cancelled():
                # The end of the body was all that could tell the size.
                self.plan.total = exchange.part.pos
                self._check_size(exchange.request.url, self.plan.total)

    def _spared(self, exchange: Exchange) -> bool:
        """Whether the failure of `exchange` concerns no one: it was asked for a second time what is
        still on its way, or has come as a whole."""
        if self.answer is not None and not self.plan.ranged:
            return exchange.part.meter.answered is None
        return exchange.part.again and exchange.part.twin in self.plan.parts

    def _handle_failure(self, exchange: Exchange | None, error: BaseException) -> None:
        """Decide what follows from `error`; raise it when it is the end."""
        if isinstance(error, Redirected):
            assert exchange is not None
            return self.route.redirected(error, exchange.request.url)
        if isinstance(error, RetryWithoutRange) and not self.whole:
            self.whole = True
            return None
        if not isinstance(error, PgetError):
            raise error
        if not self.plan.ranged:
            self._restart_single()
        if (
            exchange is not None
            and isinstance(error, TransferError)
            and self._renew_target(exchange, error)
        ):
            return None
        if isinstance(error, RangeNotHonouredError) and error.got.startswith("200 "):
            # Some servers give the whole object for any If-Range, be it the right one.
            self._untied = True
        if self.plan.ranged and self.counts.moved > self._moved_then:
            self._retries.progressed()
        echo = exchange is not None and exchange.part.meter.born <= self._failed_at
        delay = self._retries.delay(error, self.context.jitter(), echo=echo)
        if delay is None:
            if isinstance(error, TransferError):
                error.attempts = self._retries.attempts
            raise error
        self._postpone(error, delay, echo=echo)
        return None

    def _restart_single(self) -> None:
        """Without ranges there is no going on: the next answer brings everything again."""
        if self.plan.held:
            self.callbacks.started_over("the server serves no ranges")
        self.plan.forget()
        self.answer = None

    def _renew_target(self, exchange: Exchange, error: TransferError) -> bool:
        """Whether `error` was a signed target's end, and the way is being looked for anew."""
        if not self.route.expired(error, exchange.request.url):
            return False
        if exchange.request.url != self.route.target.url:
            return True  # an old target; the new one is in use already
        if not self._proven:
            return False  # the last renewal has not brought an answer
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
                self._host.pace.lower(now)
            if error.retry_after is not None:
                self._host.not_before = max(self._host.not_before, now + delay)
        self.callbacks.retrying(error, delay)

    def _tick(self) -> None:
        now = self._loop.time()
        if now < self._ticked_at + TICK / 2:
            return
        self._ticked_at = now
        if self._host is not None:
            self._watchdog.look_after(now, self._host)
            self._host.observe(now, self._watchdog.rates(now))
        if self.plan.total is None and self.answer is not None:
            self._check_size(self.route.target.url, self.plan.done)
        self.callbacks.tick(now)
