"""The lane for small objects: their requests, which go past plans, watchdogs and threads.

All `SmallTransfer`s of an engine share it. Its requests count at their hosts like all others, and
wait for room there:

    receive:   room at the host -> head -> body          the buffer holds all of it
                                   |       |
                                   +-------+--> late, large, odd or failed: an exchange takes over

One timer serves all requests of the lane: it looks at them every tick, interrupts those that are
late, and updates the pace of each host by the bytes received. A timer for each request would cost
as much as the request.

Attempts and this lane share the connections of a host. Attempts wait for events of their own, so
the lane, which is always ready to use a free place, would starve them; it leaves one free for a
while after an attempt has found none (`crowded_at`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from pgetpy.core.http.heads import Head
from pgetpy.core.references.jobs import Job
from pgetpy.engine.attempt import TICK
from pgetpy.engine.context import EngineContext
from pgetpy.engine.file_slots import FileSlots
from pgetpy.engine.hosts import Host
from pgetpy.engine.transports.base import Request
from pgetpy.engine.transports.small_request import SmallRequest
from pgetpy.settings import Settings
from pgetpy.system.event_loop import gather_or_cancel

# Seconds, and share of the stall limit, after which a request is left to a watchdog.
_LATE = 0.5
_LATE_SHARE = 0.25
# The buffer of most answers; making a larger one for each connection would take longer than a file.
_BUFFER = 192 * 1024
# For so many seconds after an attempt has found no room at a host, a connection is left to it.
_YIELDING = 2.5 * TICK


class SmallTransport(Protocol):
    """A transport that can send a request before it is known which exchange takes its answer."""

    async def begin(self, begun: SmallRequest) -> None:
        """Send the request and wait for its answer, or until it is interrupted.

        What fails is left in `begun.error`, for the exchange that takes the request over.
        """

    def end(self, begun: SmallRequest) -> None:
        """Take back the stream of `begun`, whose body has been read."""


class SmallLane:
    """The lane of one engine, by which at most `most` files are fetched at a time.

    Attributes:
        context: of the engine.
        slots: how many files are fetched at a time; told which turn out to be small.
        most: the most of them.
        usable: whether the settings leave anything to it.
    """

    def __init__(self, context: EngineContext, transport: SmallTransport, most: int) -> None:
        settings = context.settings
        self.slots = FileSlots(most)
        self.most = most
        self.context = context
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._late = min(_LATE, settings.stall_timeout * _LATE_SHARE)
        # A limit of the rate, or of the size of ranges, is kept by attempts.
        self.usable = context.throttle is None and settings.chunk_size >= Settings.chunk_size
        self._buffers: list[bytearray] = []
        self._under_way: dict[SmallRequest, float] = {}
        self._queues: dict[int, tuple[Host, deque[asyncio.Future[None]]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_at = 0.0

    async def work_off(self, step: Callable[[], Awaitable[bool]], count: int) -> None:
        """Call `step` until it returns False, by up to `count` tasks, each of which holds a slot.

        Where one fails, or we are cancelled, the others end first.
        """

        async def work() -> None:
            more = True
            while more:
                async with self.slots:
                    more = await step()

        tasks = [asyncio.ensure_future(work()) for _ in range(min(count, self.most))]
        await gather_or_cancel(tasks)

    def takes(self, job: Job) -> bool:
        """Whether `job` may be begun here, however large its object is.

        Redirects are followed faster here than by an attempt, which opens a connection for each.
        """
        return self.usable and job.dest is not None and not job.extract and not job.mirrors

    async def may_ask(self, host: Host) -> bool:
        """Wait until `host` may be asked by one more connection; whether it may from here.

        Not from here: hosts behind a proxy, without ranges, or told to wait (Retry-After). An
        attempt knows what to do about each.
        """
        if host.local or host.proxy is not None or host.no_ranges:
            return False
        while host.busy >= self._room(host):
            queue = self._queues.setdefault(id(host), (host, deque()))[1]
            turn = self._loop.create_future()
            queue.append(turn)
            self._tick_later()
            await turn
        return self._loop.time() >= host.not_before

    def request(self, request: Request, length_of: Callable[[Head], int | None]) -> SmallRequest:
        """Return `request`, with a buffer; for `length_of` see `SmallRequest`."""
        buffer = self._buffers.pop() if self._buffers else bytearray(_BUFFER)
        return SmallRequest(request, buffer, length_of)

    def may_ask_now(self, host: Host) -> bool:
        """Whether `host` may be asked by one more connection, from here, without a wait."""
        return host.busy < self._room(host) and self._loop.time() >= host.not_before

    async def receive(self, host: Host, begun: SmallRequest) -> bool:
        """Send the request of `begun` to `host`; whether its whole answer has come."""
        born = self.begin(host, begun)
        try:
            await self._transport.begin(begun)
        finally:
            self.leave(host, begun, born)
        return begun.complete

    def begin(self, host: Host, begun: SmallRequest) -> float:
        """Count the request of `begun`, which is sent to `host` now; return the time, for `leave`.

        From here on it is interrupted if it is late.
        """
        born = self._loop.time()
        host.busy += 1
        self._under_way[begun] = born
        self._tick_later()
        return born

    def leave(self, host: Host, begun: SmallRequest, born: float) -> None:
        """Learn from how the request ended that was counted at `born`."""
        now = self._loop.time()
        del self._under_way[begun]
        host.busy -= 1
        host.ended += 1
        if begun.complete and begun.head is not None and begun.head.status < 300:
            host.took_small(len(begun.body), begun.answered - born, now - born)
        self._observe(host, now)

    def end(self, begun: SmallRequest) -> None:
        """Take back what `begun` has used: its body is not needed any more.

        A buffer that has grown for a large answer is left to the garbage collector: kept, one large
        file would raise the memory of a whole run.
        """
        self._transport.end(begun)
        self.reuse(begun.buffer)

    def reuse(self, buffer: bytearray) -> None:
        """Take back the buffer of a request whose body is not needed any more."""
        if len(buffer) == _BUFFER:
            self._buffers.append(buffer)

    def _room(self, host: Host) -> int:
        """How many connections to `host` there may be, one fewer where an attempt waits for it."""
        crowded = self._loop.time() - host.crowded_at < _YIELDING
        return host.pace.level - crowded

    def _observe(self, host: Host, now: float) -> None:
        """Let the pace of `host` learn, at most once a tick."""
        if now - self._ticked_at >= TICK:
            self._ticked_at = now
            host.observe(now)

    def _tick_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        """Interrupt what is late; where there is room, admit those that wait for it."""
        self._timer = None
        now = self._loop.time()
        for begun, born in list(self._under_way.items()):
            if now - born >= self._late:
                begun.interrupt()
        for host, queue in list(self._queues.values()):
            host.observe(now)
            free = self._room(host) - host.busy
            while queue and free > 0:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    free -= 1
            if not queue:
                del self._queues[id(host)]
        if self._under_way or self._queues:
            self._tick_later()
