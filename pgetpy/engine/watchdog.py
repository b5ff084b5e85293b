"""The calls of one session that are under way, and the watch over them: stalls, stragglers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from pgetpy.core.http.plan import Plan
from pgetpy.core.http.range_request import is_straggler
from pgetpy.engine.hosts import Host
from pgetpy.engine.transports.base import Call
from pgetpy.errors import PgetError, StalledError
from pgetpy.system.event_loop import seen_through

# Slower than a tenth of the others for so long, and a new connection is tried.
_STRAGGLER_PATIENCE = 3.0
# Seconds of a body after which its rate says something.
_SHOWING = 0.1

Task = asyncio.Task[None]


@dataclass
class TransferCounts:
    """What is counted for the result."""

    retries: int = 0
    requests: int = 0
    connections: int = 0
    moved: int = 0


class Watch:
    """Knows the calls under way, counts what they bring and ends those that are stuck.

    `patience` is how many seconds a call may bring nothing.
    """

    def __init__(self, plan: Plan, tally: TransferCounts, patience: float) -> None:
        self._plan = plan
        self._tally = tally
        self._patience = patience
        self._calls: dict[Task, Call] = {}
        # Calls to an expired target may still be under way when the next host is asked already.
        self._hosts: dict[Call, Host] = {}
        # Those whose time to the first byte is known.
        self._timed: set[Call] = set()
        # What a call that was ended counts as, None for no failure.
        self._doomed: dict[Task, PgetError | None] = {}
        # Calls that were too slow: no failure to be reported, but one all the same.
        self._given_up: set[Task] = set()
        self._delivering = 0

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, task: Task, call: Call, host: Host) -> None:
        """`task` carries `call` to `host` from now on."""
        self._calls[task] = call
        self._hosts[call] = host
        host.busy += 1
        self._tally.connections = max(self._tally.connections, len(self._calls))

    def asks_only(self, url: str) -> bool:
        """Whether all calls ask `url`."""
        return all(call.request.url == url for call in self._calls.values())

    def ended(self, now: float) -> Iterator[tuple[Task, Call, BaseException | None]]:
        """Yield the calls that have ended, each with what it failed of; they are forgotten."""
        for task in [task for task in self._calls if task.done()]:
            doom = self._doomed.pop(task, None)
            error = doom if task.cancelled() else task.exception()
            self._learn(self._calls[task], now, ended=error is None)
            failed = error is not None or task in self._given_up
            call = self._forget(task, failed=failed)
            self._given_up.discard(task)
            yield task, call, error

    def look_after(self, now: float, host: Host) -> None:
        """Take note of what has come to `now`, and end what is stuck or superfluous."""
        delivering = 0
        for task, call in self._calls.items():
            part = call.part
            delivering += part.pos > part.start
            part.meter.observe(now, part.pos, waiting=part.waiting)
            self._count(call)
            self._learn(call, now)
            if task not in self._doomed:
                self._end_if_stuck(task, call, now)
        host.delivering += delivering - self._delivering
        self._delivering = delivering
        self.end_superfluous()

    def rates(self, now: float) -> list[float]:
        """Return the rates of the calls that have delivered for long enough to show theirs."""
        meters = [call.part.meter for call in self._calls.values()]
        return [p.rate for p in meters if p.answered is not None and now - p.answered >= _SHOWING]

    def end_superfluous(self) -> None:
        """End the calls whose bytes have come by another way."""
        superfluous = self._plan.superfluous()
        for task, call in self._calls.items():
            if call.part in superfluous and task not in self._doomed:
                self._doom(task, None)

    def leave(self, host: Host | None) -> None:
        """`host` is asked no more."""
        if host is not None:
            host.delivering -= self._delivering
        self._delivering = 0

    async def end_all(self) -> None:
        """End all calls and wait for them: afterwards nothing is written."""
        for task in self._calls:
            task.cancel()
        try:
            if self._calls:
                ending = asyncio.ensure_future(asyncio.wait(self._calls))
                await seen_through(ending, lambda: None)
        finally:
            for task in list(self._calls):
                self._forget(task)
                if not task.cancelled():
                    task.exception()

    def _forget(self, task: Task, *, failed: bool = False) -> Call:
        call = self._calls.pop(task)
        self._count(call)
        host = self._hosts.pop(call)
        self._timed.discard(call)
        host.busy -= 1
        host.ended += 1
        self._plan.end(call.part, failed=failed)
        return call

    def _learn(self, call: Call, now: float, *, ended: bool = False) -> None:
        """Have the host learn from `call` how soon it answers, and how fast."""
        meter = call.part.meter
        host = self._hosts[call]
        if meter.answered is not None and call not in self._timed:
            self._timed.add(call)
            host.latency.add(meter.answered - meter.born)
        host.first_bytes(now, call.part, ended=ended)

    def _count(self, call: Call) -> None:
        """Add what has come since the last look to the host's and the transfer's sums."""
        part = call.part
        moved = part.pos - part.counted
        if moved > 0:
            part.counted = part.pos
            self._hosts[call].moved += moved
            self._tally.moved += moved

    def _end_if_stuck(self, task: Task, call: Call, now: float) -> None:
        meter = call.part.meter
        if meter.quiet(now) > self._patience:
            return self._doom(task, StalledError(call.request.url, self._patience))
        if meter.answered is not None and now - meter.answered > _STRAGGLER_PATIENCE:
            others = [c.part.meter.rate for c in self._calls.values() if c is not call]
            if is_straggler(meter.rate, others):
                self._given_up.add(task)
                self._doom(task, None)
        return None

    def _doom(self, task: Task, error: PgetError | None) -> None:
        """End a call; `error` is what it counts as, None for no failure."""
        self._doomed[task] = error
        task.cancel()
