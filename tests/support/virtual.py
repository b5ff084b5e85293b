"""Transfers over a network that exists in numbers, on an event loop whose clock is one.

The attempt, its plan, its pace and its watch are the real ones. Only what carries an exchange is
made up: it waits as long as the network says, then moves the request forward. The loop's clock
jumps to the next thing that is due, so that minutes pass in milliseconds.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pgetpy.core.http.answers import Answer, Identity
from pgetpy.core.http.heads import Head
from pgetpy.core.http.pace import ConcurrencyController
from pgetpy.core.http.plan import Plan
from pgetpy.core.http.range_request import Window
from pgetpy.core.http.ranges import OPEN_END, Span, Spans
from pgetpy.core.http.sink import Sink
from pgetpy.core.http.urls import parse_link
from pgetpy.destinations.sinks.null import NullSink
from pgetpy.engine.attempt import Attempt
from pgetpy.engine.context import AttemptCallbacks, EngineContext
from pgetpy.engine.hosts import Host, Hosts
from pgetpy.engine.requests import Route
from pgetpy.engine.transports.base import Exchange
from pgetpy.engine.transports.local import LocalTransport
from pgetpy.engine.watchdog import TransferCounts
from pgetpy.errors import ConnectionFailedError, PgetError
from pgetpy.settings import Settings
from pgetpy.system.filesystem import ReservedPaths
from pgetpy.system.threads import Workers

MIB = 1 << 20
URL = "http://127.0.0.1/model.bin"
T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Waits for nothing: the time that it was to wait has passed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if timeout is None and not ready:
            raise RuntimeError("everything waits for what never comes")
        if timeout and not ready:
            self.now += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run_virtually(scenario: Coroutine[Any, Any, T]) -> T:
    """Run `scenario` on a loop whose clock begins at 0 and jumps."""
    loop = _VirtualLoop()
    try:
        return loop.run_until_complete(scenario)
    finally:
        loop.close()


@dataclass(frozen=True)
class Line:
    """How one request is answered: the first byte after `latency` seconds, then `rate` bytes a
    second, after `dries_up` bytes no more than `trickle`; the connection ends after `breaks`.

    With `burst` the rate is a mean: so many bytes come as fast as the network carries them, and
    nothing until the mean is met again, as nginx does it with limit_rate.

    With `round_trip`, in seconds, the connection starts slowly, as TCP does: a window of 14 kB in
    the first round trip, and twice as much in each that follows.
    """

    latency: float = 0.03
    rate: float = 20e6
    dries_up: float = float("inf")
    trickle: float = 0.0
    breaks: float = float("inf")
    burst: int = 0
    round_trip: float = 0.0


# The first window of a connection, RFC 6928; and bytes a second of a burst.
_WINDOW = 14_000
_BURSTS = 1e9


@dataclass
class Network:
    """One object of `total` bytes; `line(number, busy)` says how the request `number` (from 0),
    made while `busy` others are under way, is answered. All of them share `capacity`; `most` is how
    many there were at one time. Of every `outages[0]` seconds nothing at all comes in the last
    `outages[1]`."""

    total: int
    line: Callable[[int, int], Line]
    capacity: float = float("inf")
    outages: tuple[float, float] = (1.0, 0.0)
    asked: list[Span] = field(default_factory=list)
    moved: int = 0
    most: int = 0
    _busy: int = 0
    _flowing: int = 0

    async def carry(self, exchange: Exchange) -> None:
        """See `Transport.carry`."""
        asked = exchange.asked
        assert asked is not None
        line = self.line(len(self.asked), self._busy)
        span = Span(asked.start, min(asked.stop, self.total))
        number = len(self.asked)
        self.asked.append(span)
        self._busy += 1
        self.most = max(self.most, self._busy)
        try:
            await asyncio.sleep(line.latency)
            exchange.judge(_head(span, self.total))
            self._flowing += 1
            try:
                await self._flow(exchange, line)
            finally:
                self._flowing -= 1
        finally:
            self._busy -= 1
            if asked.stop == OPEN_END:
                # What it would have brought besides is no request of anybody's.
                part = exchange.part
                self.asked[number] = Span(part.start, part.pos)

    async def close(self) -> None:
        pass

    async def _flow(self, exchange: Exchange, line: Line) -> None:
        part, brought = exchange.part, 0.0
        step, loop = 0.025, asyncio.get_running_loop()
        begun = loop.time()
        if line.round_trip:
            brought = await self._start_slowly(exchange, line)
        while part.rest:
            every, silent = self.outages
            until_next = every - loop.time() % every
            if until_next <= silent:
                await asyncio.sleep(until_next)
            own = line.rate if brought < line.dries_up else line.trickle
            if line.burst:
                due = begun + brought // line.burst * line.burst / line.rate
                await asyncio.sleep(max(0.0, due - loop.time()))
                own = _BURSTS
            if not own:
                await asyncio.get_running_loop().create_future()
            rate = min(own, self.capacity / self._flowing)
            limit = min(line.breaks, line.dries_up if brought < line.dries_up else line.breaks)
            if line.burst:
                limit = min(limit, (brought // line.burst + 1) * line.burst)
            seconds = min(step, min(part.rest, max(1.0, limit - brought)) / rate)
            await asyncio.sleep(seconds)
            before, brought = int(brought), brought + rate * seconds
            count = min(part.rest, int(brought) - before)
            self.moved += count
            exchange.landed(count)
            if brought >= line.breaks and part.rest:
                raise ConnectionFailedError(URL, "broken by the network")
            # Long transfers are looked at less closely.
            step = min(0.5, 0.025 + loop.time() / 1000)

    async def _start_slowly(self, exchange: Exchange, line: Line) -> float:
        """Deliver windows until they are what the connection carries in a round trip."""
        part, begun, window = exchange.part, exchange.part.pos, _WINDOW
        while window < min(line.rate, self.capacity / self._flowing) * line.round_trip:
            count = min(part.rest, window)
            self.moved += count
            exchange.landed(count)
            await asyncio.sleep(line.round_trip)
            window *= 2
        return part.pos - begun


def _head(span: Span, total: int) -> Head:
    where = f"bytes {span.start}-{span.stop - 1}/{total}"
    headers = {"content-range": where, "content-length": str(span.size), "etag": '"1"'}
    return Head(206, headers)


@dataclass(frozen=True)
class Outcome:
    """How a transfer went.

    Attributes:
        seconds: by the virtual clock.
        moved: bytes that came, those that came twice included.
        asked: the ranges of all requests.
        failures: what was tried again after it.
        levels: how many connections were allowed, at each look.
    """

    seconds: float
    moved: int
    asked: list[Span]
    failures: list[PgetError]
    levels: list[int]

    def most_asked(self) -> int:
        """How often the byte that was asked for most often was asked for."""
        edges = sorted([(s.start, 1) for s in self.asked] + [(s.stop, -1) for s in self.asked])
        most = now = 0
        for _, step in edges:
            now += step
            most = max(most, now)
        return most


def transfer(
    network: Network,
    *,
    ceiling: int = 64,
    fixed: int | None = None,
    held: Spans | None = None,
    window: int | None = None,
    chunk_size: int = 125_000_000,
    speed_time: float = 60.0,
) -> Outcome:
    """Fetch the object of `network`; over `fixed` connections, or as many as pay."""
    chosen = Settings(stall_timeout=15.0, retries=1000, speed_time=speed_time)
    most, start = fixed or ceiling, fixed or 1
    return run_virtually(_transfer(network, chosen, most, start, held, window, chunk_size))


class _Windowed(NullSink):
    """Reads in order: what is more than `window` bytes ahead has no room."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = Window(window)  # type: ignore[assignment]


async def _transfer(
    network: Network,
    chosen: Settings,
    ceiling: int,
    start: int,
    held: Spans | None,
    window: int | None,
    chunk_size: int,
) -> Outcome:
    workers = Workers()
    hosts = Hosts(chosen, workers)
    link = parse_link(URL)
    host = Host(link.origin, (), None, ConcurrencyController(ceiling, start))
    hosts.ceiling = ceiling
    hosts._hosts[link.origin, link.trusted] = host
    context = EngineContext(
        chosen,
        hosts,
        workers,
        network,
        network,
        None,
        ReservedPaths(),
        LocalTransport(workers),
        lambda: 0,
    )
    plan = Plan(chunk_size=chunk_size, first=MIB, open_ended=True, held=held)
    sink = NullSink() if window is None else _Windowed(window)

    def begin(answer: Answer, held: Spans) -> Sink:
        return sink

    levels: list[int] = []
    failures: list[PgetError] = []
    done = 0

    def tick(now: float) -> None:
        nonlocal done
        assert done <= plan.done <= network.total, "progress went backwards"
        done = plan.done
        levels.append(host.pace.level)
        if plan.window is not None:
            plan.window.horizon = plan.front

    def retrying(error: PgetError, after: float) -> None:
        failures.append(error)

    callbacks = AttemptCallbacks(begin, tick, retrying, lambda reason: None)
    attempt = Attempt(context, Route(link, hosts, chosen), plan, callbacks, TransferCounts())
    attempt.gate.verified = True
    attempt.gate.expected = Identity(network.total, '"1"')
    await attempt.run()
    now = asyncio.get_running_loop().time()
    assert list(plan.held) == [Span(0, network.total)]
    return Outcome(now, network.moved, network.asked, failures, levels)
