"""The exchanges of one attempt that are under way, and the watch over them: stalls, stragglers.

An exchange ends in one of these ways. To end one, the watchdog cancels its task and notes in
`_doomed` what the cancellation counts as; `ended` reports that when the task is really over.

    done            its body has landed                          success
    failed          its transport raised                         that error
    stalled         silent for longer than the patience          StalledError
    straggler       3 s into its body, below a tenth of the      no error, but its rest is asked for
                    others' median                               again on another connection
    superfluous     its rest has come by another request         success

It also does the accounting, at each look and once more at the end. Invariants: `Host.busy` is the
number of exchanges under way to the host, over all attempts; each byte is counted once in
`Host.moved` and in `TransferCounts.moved`, since `RangeRequest.counted` says how far the sums go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator

from pgetpy.core.http.plan import Plan
from pgetpy.core.http.range_request import is_straggler, usual_lull
from pgetpy.core.http.ranges import OPEN_END
from pgetpy.core.http.retry import Retries
from pgetpy.core.http.speed_limit import SpeedLimit
from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.engine.hosts import Host
from pgetpy.engine.transports.base import Exchange
from pgetpy.errors import PgetError, StalledError, TooSlowError
from pgetpy.system.event_loop import wait_uncancelled
from pgetpy.system.logs import RoomLog

# Seconds after its head in which a connection is not judged: its rate may be low at first.
_STRAGGLER_PATIENCE = 3.0
# Seconds between bursts from which on connections are not compared by their rates.
_LONG_LULL = 0.5
# Seconds of a body after which its rate means something.
_SHOWING = 0.1
_LOG = RoomLog("engine")

Task = asyncio.Task[None]


@dataclass
class TransferCounts:
    """What is counted for the result of a transfer.

    Attributes:
        retries: failures after which it was tried again.
        requests: requests made, redirects included.
        connections: the most exchanges at a time.
        moved: bytes received, repeated ones included.
        by_source: the same by where they came from; see `Exchange.source`.
    """

    retries: int = 0
    requests: int = 0
    connections: int = 0
    moved: int = 0
    by_source: dict[str, int] = field(default_factory=dict)

    def add(self, size: int, source: str) -> None:
        """Count `size` bytes that have come from `source`."""
        self.moved += size
        self.by_source[source] = self.by_source.get(source, 0) + size


class Watchdog:
    """Knows the exchanges under way, counts their bytes and ends those that are stuck.

    Args:
        plan: gets each request back when its exchange has ended.
        counts: of the transfer.
        patience: how many seconds an exchange may be silent; for a first byte it grows with the
            failures that `retries` has counted.
        retries: see there.
        slowest: the least that all exchanges together have to deliver.
    """

    def __init__(
        self,
        plan: Plan,
        counts: TransferCounts,
        patience: float,
        retries: Retries,
        slowest: SpeedLimit,
    ) -> None:
        self._plan = plan
        self._counts = counts
        self._patience = patience
        self._retries = retries
        self._slowest = slowest
        self._url = ""
        self._answered = False
        self._exchanges: dict[Task, Exchange] = {}
        # Exchanges with an expired target may still be under way when the next host is in use.
        self._hosts: dict[Exchange, Host] = {}
        # Those whose time to the first byte has been added to the host's latency.
        self._timed: set[Exchange] = set()
        # What an exchange that was ended counts as, None for no failure.
        self._doomed: dict[Task, PgetError | None] = {}
        # Stragglers: nothing to report, but the plan has to know that they failed.
        self._given_up: set[Task] = set()
        self._delivering = self._quiet = 0

    def __len__(self) -> int:
        return len(self._exchanges)

    def add(self, task: Task, exchange: Exchange, host: Host) -> None:
        """Watch over `exchange` with `host`, which `task` carries."""
        self._exchanges[task] = exchange
        self._url = exchange.request.url
        self._hosts[exchange] = host
        host.busy += 1
        self._counts.connections = max(self._counts.connections, len(self._exchanges))

    @property
    def delivering(self) -> int:
        """How many exchanges under way have been answered."""
        under_way = self._exchanges.values()
        return sum(exchange.part.meter.answered is not None for exchange in under_way)

    @property
    def under_way(self) -> Collection[Exchange]:
        """The exchanges under way, those included that have just ended."""
        return self._exchanges.values()

    def give_up(self, exchange: Exchange, error: PgetError) -> None:
        """End `exchange`, which counts as failed with `error`."""
        for task, each in self._exchanges.items():
            if each is exchange and task not in self._doomed:
                self._doom(task, error)

    def asks_only(self, url: str) -> bool:
        """Whether all exchanges are requests for `url`."""
        return all(exchange.request.url == url for exchange in self._exchanges.values())

    def ended(self, now: float) -> Iterator[tuple[Task, Exchange, BaseException | None]]:
        """Yield the exchanges that have ended, each with its error if any; they are forgotten."""
        for task in [task for task in self._exchanges if task.done()]:
            doom = self._doomed.pop(task, None)
            error = doom if task.cancelled() else task.exception()
            self._learn(self._exchanges[task], now, ended=error is None)
            host = self._hosts[self._exchanges[task]]
            failed = error is not None or task in self._given_up
            exchange = self._forget(task, failed=failed)
            if exchange.asked is not None and exchange.asked.stop == OPEN_END:
                # It never waited between two ranges, so its goodput is not comparable.
                host.pace.measure_anew(now)
            self._given_up.discard(task)
            yield task, exchange, error

    def look_after(self, now: float, host: Host, *, guessing: bool = False) -> None:
        """Observe every exchange at `now`, and end those that are stuck or superfluous.

        Args:
            now, host: as of the attempt.
            guessing: whether an answer has yet to show that there are ranges; see
                `end_superfluous`.

        Raises:
            TooSlowError: all exchanges together deliver too little to be worth waiting for.
        """
        delivering = quiet = 0
        for task, exchange in self._exchanges.items():
            part = exchange.part
            part.meter.observe(now, part.pos, waiting=part.waiting)
            if part.pos > part.start:
                delivering += 1
                quiet += part.meter.quiet_since < now
            self._count(exchange)
            self._learn(exchange, now)
            if task not in self._doomed:
                self._end_if_stuck(task, exchange, now)
        host.delivering += delivering - self._delivering
        host.quiet += quiet - self._quiet
        self._delivering, self._quiet = delivering, quiet
        self.end_superfluous(guessing=guessing)
        self._check_speed(now, host)

    @property
    def lull(self) -> float:
        """Seconds between two bursts of an exchange, typically; 0 where bytes flow steadily."""
        return usual_lull([exchange.part for exchange in self._exchanges.values()])

    def rates(self, now: float) -> list[float]:
        """Return the rates of the exchanges that have delivered for long enough to show theirs."""
        meters = [exchange.part.meter for exchange in self._exchanges.values()]
        return [p.rate for p in meters if p.answered is not None and now - p.answered >= _SHOWING]

    def end_superfluous(self, *, guessing: bool = False) -> None:
        """End the exchanges whose bytes have come by another request.

        While `guessing`, those that have been answered: without the answer the next one would have
        to ask again whether there are ranges.
        """
        superfluous = self._plan.superfluous()
        for task, exchange in self._exchanges.items():
            awaited = guessing and exchange.part.meter.answered is None
            if exchange.part in superfluous and task not in self._doomed and not awaited:
                self._doom(task, None)

    def leave(self, host: Host | None) -> None:
        """Take this attempt's connections out of the sums of `host`, which is not used any more."""
        if host is not None:
            host.delivering -= self._delivering
            host.quiet -= self._quiet
        self._delivering = self._quiet = 0

    async def end_all(self) -> None:
        """End all exchanges and wait for them, even if cancelled: afterwards nothing is written."""
        for task in self._exchanges:
            task.cancel()
        try:
            if self._exchanges:
                ending = asyncio.ensure_future(asyncio.wait(self._exchanges))
                await wait_uncancelled(ending, lambda: None)
        finally:
            for task in list(self._exchanges):
                self._forget(task)
                if not task.cancelled():
                    # Retrieved, so that asyncio does not log it.
                    task.exception()

    def _forget(self, task: Task, *, failed: bool = False) -> Exchange:
        """Remove an exchange that has ended from all sums, and give its request to the plan."""
        exchange = self._exchanges.pop(task)
        self._count(exchange)
        host = self._hosts.pop(exchange)
        self._timed.discard(exchange)
        if exchange.begun is not None:  # cancelled before its task had started
            exchange.begun.close()
        host.busy -= 1
        host.ended += 1
        self._plan.end(exchange.part, failed=failed)
        return exchange

    def _learn(self, exchange: Exchange, now: float, *, ended: bool = False) -> None:
        """Add what `exchange` shows to what is known of the host: its latency and its rate."""
        meter = exchange.part.meter
        host = self._hosts[exchange]
        if meter.answered is not None and exchange not in self._timed:
            self._timed.add(exchange)
            self._answered = True
            host.latency.add(meter.answered - meter.born)
        host.first_bytes(now, exchange.part, ended=ended)

    def _count(self, exchange: Exchange) -> None:
        """Add the bytes since the last look to the host's and the transfer's sums."""
        part = exchange.part
        moved = part.pos - part.counted
        if moved > 0:
            part.counted = part.pos
            self._hosts[exchange].moved += moved
            self._counts.add(moved, exchange.source)

    def _check_speed(self, now: float, host: Host) -> None:
        """Apply --speed-limit to the time in which the network was waited for.

        Time before the first answer does not count, nor a pause that the server asked for, nor time
        in which every exchange waits for a disk, a reader or a rate limit.
        """
        waiting = self._answered and now >= host.not_before
        under_way = self._exchanges.values()
        waiting &= not under_way or any(exchange.part.waiting for exchange in under_way)
        if self._slowest.undercut(now, self._counts.moved, waiting=waiting):
            raise TooSlowError(self._url, self._slowest.rate, self._slowest.seconds)

    def _end_if_stuck(self, task: Task, exchange: Exchange, now: float) -> None:
        """End an exchange that has stalled or is a straggler."""
        meter = exchange.part.meter
        quiet, patience = meter.quiet(now), self._patience
        if quiet > patience and meter.answered is None:
            patience = self._retries.first_byte_patience(patience)
        if quiet > patience:
            _LOG.debug("%s: silent for %.1f s: ended", exchange.request.url, quiet)
            return self._doom(task, StalledError(exchange.request.url, patience))
        if meter.answered is not None and now - meter.answered > _STRAGGLER_PATIENCE:
            others = [c.part.meter.rate for c in self._exchanges.values() if c is not exchange]
            # Between two bursts the rate of the last second says nothing.
            if is_straggler(meter.rate, others) and self.lull < _LONG_LULL:
                _LOG.debug(
                    "%s: the bytes from %d on arrive far slower than the rest: requested again",
                    exchange.request.url,
                    exchange.part.pos,
                )
                self._given_up.add(task)
                self._doom(task, None)
        return None

    def _doom(self, task: Task, error: PgetError | None) -> None:
        """Cancel an exchange; `error` is what that counts as, None for no failure."""
        self._doomed[task] = error
        task.cancel()
